//! What a lab is: its name, size, folders and address plan.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::uplink::Uplink;

/// DNS domain of the cluster.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// The IPv4 Service range.
pub(crate) const SERVICE_RANGE_V4: &str = "10.96.0.0/16";
/// The IPv6 Service range.
pub(crate) const SERVICE_RANGE_V6: &str = "fd00:10:96::/112";
/// The IPv4 pod range: one /24 of it per node.
pub(crate) const POD_RANGE_V4: &str = "10.244.0.0/16";
/// The IPv6 pod range: one /64 of it per node.
pub(crate) const POD_RANGE_V6: &str = "fd00:10:244::/48";
/// Where the lab itself (DNS, controller) answers: the bridge's addresses.
pub(crate) const LAB_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The IPv6 side of [`LAB_V4`].
pub(crate) const LAB_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x77, 0, 0, 0, 1);
/// The image of Gateways' proxies: what it holds is in the folder of Weft's programs.
pub(crate) const GATEWAY_IMAGE: &str = "weft/weft-proxy:lab";

/// Everything the supervisor needs to know; written to `config.json` by `weft lab up`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LabConfig {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) nodes: u8,
    pub(crate) bin_dir: PathBuf,
    pub(crate) state: State,
    /// `WEFT_…` variables of the caller, handed to the Weft binaries.
    pub(crate) environment: BTreeMap<String, String>,
    /// Run the Weft binaries and chain weft-cni.
    pub(crate) mesh: bool,
    pub(crate) cni: CniConfig,
    /// The machine has IPv6.
    pub(crate) ipv6: bool,
    /// The link to the machine, which takes root there.
    pub(crate) uplink: Uplink,
    /// The lab was started as the machine's root, without a user namespace.
    pub(crate) privileged: bool,
    /// User and group of the caller, mapped to root inside when not privileged.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// How pods get their network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CniConfig {
    /// Where the plugins are.
    pub(crate) plugins: PathBuf,
    pub(crate) network: CniNetwork,
    /// Version of the CNI spec that the list is in.
    pub(crate) version: String,
    /// Seconds between two rounds of GC and CHECK.
    pub(crate) upkeep: u32,
}

impl CniConfig {
    pub(crate) fn upkeep(&self) -> Duration {
        Duration::from_secs(self.upkeep.into())
    }
}

/// The plugin that makes a pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CniNetwork {
    /// A veth pair and routes.
    Ptp,
    /// A veth pair on a bridge of the node; ports with a `hostPort` are forwarded by `portmap`.
    Bridge,
}

/// One node of the lab, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Node(pub(crate) u8);

impl Node {
    pub(crate) fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// By its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        name.strip_prefix("node")?.parse().ok().map(Self)
    }

    /// Two nodes are a zone: enough for callers to have endpoints that are near, nearer and far.
    pub(crate) const fn zone(self) -> &'static str {
        match self.0 {
            0..=2 => "zone-a",
            3..=4 => "zone-b",
            _ => "zone-c",
        }
    }

    pub(crate) fn address_v4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 77, 10u8.saturating_add(self.0))
    }

    pub(crate) fn address_v6(self) -> Ipv6Addr {
        let low = 0x10u16.saturating_add(u16::from(self.0));
        Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x77, 0, 0, 0, low)
    }

    pub(crate) fn addresses(self, ipv6: bool) -> Vec<IpAddr> {
        let mut all = vec![IpAddr::V4(self.address_v4())];
        all.extend(ipv6.then(|| IpAddr::V6(self.address_v6())));
        all
    }

    pub(crate) fn pod_range_v4(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    pub(crate) fn pod_range_v6(self) -> String {
        format!("fd00:10:244:{:x}::/64", self.0)
    }

    /// The node's network namespace, inside the lab's mount namespace.
    pub(crate) fn netns(self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }
}

impl LabConfig {
    /// Two nodes, everything in one folder.
    #[cfg(test)]
    pub(crate) fn for_tests(folder: &Path) -> Self {
        let network = CniNetwork::Ptp;
        Self {
            name: "t".to_owned(),
            folder: folder.to_path_buf(),
            nodes: 2,
            bin_dir: folder.to_path_buf(),
            state: State(folder.to_path_buf()),
            mesh: false,
            environment: BTreeMap::new(),
            cni: CniConfig {
                plugins: folder.to_path_buf(),
                network,
                version: "1.0.0".to_owned(),
                upkeep: 60,
            },
            ipv6: true,
            uplink: Uplink::default(),
            privileged: true,
            uid: 0,
            gid: 0,
        }
    }

    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.nodes).map(Node)
    }

    pub(crate) fn node(&self, name: &str) -> Option<Node> {
        self.all_nodes().find(|n| n.name() == name)
    }

    pub(crate) fn cluster_ranges(&self) -> Vec<&'static str> {
        let mut ranges = vec![POD_RANGE_V4, SERVICE_RANGE_V4];
        if self.ipv6 {
            ranges.extend([POD_RANGE_V6, SERVICE_RANGE_V6]);
        }
        ranges
    }
}

/// The lab's folder on disk, and what is where in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State(pub(crate) PathBuf);

impl State {
    /// `/run/weft-lab/NAME` for root, else under `$XDG_RUNTIME_DIR` or `/tmp`.
    pub(crate) fn locate(parent: Option<&Path>, name: &str) -> Self {
        Self(parent.map_or_else(default_parent, Path::to_path_buf).join(name))
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }
    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("supervisor.pid")
    }
    pub(crate) fn report(&self) -> PathBuf {
        self.0.join("lab.json")
    }
    pub(crate) fn cluster(&self) -> PathBuf {
        self.0.join("cluster")
    }
    pub(crate) fn status(&self) -> PathBuf {
        self.0.join("status")
    }
    /// What the controller made for Gateways.
    pub(crate) fn infrastructure(&self) -> PathBuf {
        self.0.join("infrastructure")
    }
    pub(crate) fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }
    pub(crate) fn secrets(&self) -> PathBuf {
        self.0.join("secrets")
    }
    /// How to enter a container: one launch description per container.
    pub(crate) fn launches(&self) -> PathBuf {
        self.0.join("launch")
    }
    pub(crate) fn node(&self, node: Node) -> PathBuf {
        self.0.join("nodes").join(node.name())
    }
}

#[allow(clippy::disallowed_methods)]
fn default_parent() -> PathBuf {
    let uid = nix::unistd::getuid();
    if uid.is_root() {
        return PathBuf::from("/run/weft-lab");
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|d| Path::new(d).is_dir()) {
        Some(dir) => PathBuf::from(dir).join("weft-lab"),
        None => PathBuf::from(format!("/tmp/weft-lab-{uid}")),
    }
}
