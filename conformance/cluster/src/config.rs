//! What a cluster is: its name, size, addresses and folders.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::artefacts::Artefacts;

/// DNS domain of the cluster.
pub(crate) const DOMAIN: &str = "cluster.local";
/// Where the API server answers: the bridge's address in the cluster's host namespace.
pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 1);
/// The IPv6 side of [`HOST_V4`].
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x10, 0, 0, 0, 0, 1);
/// Service addresses.
pub(crate) const SERVICES_V4: &str = "10.96.0.0/16";
/// IPv6 Service addresses.
pub(crate) const SERVICES_V6: &str = "fd00:10:96::/112";
/// The `kubernetes` Service: the first of [`SERVICES_V4`].
pub(crate) const API_SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The DNS Service.
pub(crate) const DNS_SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Pod addresses: one /24 of it per node.
pub(crate) const PODS_V4: &str = "10.244.0.0/16";
/// IPv6 pod addresses: one /64 of it per node.
pub(crate) const PODS_V6: &str = "fd00:10:244::/48";
/// Addresses of `LoadBalancer` Services.
pub(crate) const LOAD_BALANCERS_V4: &str = "10.10.1.0/24";
/// IPv6 addresses of `LoadBalancer` Services.
pub(crate) const LOAD_BALANCERS_V6: &str = "fd00:10:1::/112";
/// Where Debian puts the CNI plugins.
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// Which of the Gateway API's CRDs a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// All of them.
    Experimental,
    /// The stable ones.
    Standard,
    /// None.
    None,
}

impl Channel {
    /// The channel's folder in the module.
    pub(crate) fn folder(self) -> Option<&'static str> {
        match self {
            Self::Experimental => Some("experimental"),
            Self::Standard => Some("standard"),
            Self::None => None,
        }
    }
}

/// Everything the cluster's own processes need to know; written to `config.json` by `up`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) nodes: u8,
    pub(crate) crds: Channel,
    pub(crate) dual_stack: bool,
    /// `KEY[=VALUE]:EFFECT`, which every node has from its start.
    pub(crate) taints: Vec<String>,
    pub(crate) state: State,
    pub(crate) artefacts: Artefacts,
}

impl Config {
    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.nodes).map(Node)
    }

    /// The cluster's own part of the cgroup tree.
    pub(crate) fn cgroup(&self) -> PathBuf {
        Self::cgroup_of(&self.name)
    }

    /// The same for a cluster of which only the name is known.
    pub(crate) fn cgroup_of(name: &str) -> PathBuf {
        Path::new("weft-cluster").join(name)
    }

    /// IPv4, and IPv6 when the cluster is dual stack, joined by commas.
    pub(crate) fn families(&self, v4: impl ToString, v6: impl ToString) -> String {
        if self.dual_stack { format!("{},{}", v4.to_string(), v6.to_string()) } else { v4.to_string() }
    }
}

/// One node, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Node(pub u8);

impl Node {
    /// The node's name in Kubernetes and its host name.
    #[must_use]
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    pub(crate) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 10, 0, 10u8.saturating_add(self.0))
    }

    pub(crate) fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x10, 0, 0, 0, 0, 0x10u16.saturating_add(u16::from(self.0)))
    }

    pub(crate) fn addresses(self, dual_stack: bool) -> Vec<IpAddr> {
        let mut all = vec![IpAddr::V4(self.v4())];
        all.extend(dual_stack.then(|| IpAddr::V6(self.v6())));
        all
    }

    pub(crate) fn pods_v4(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    pub(crate) fn pods_v6(self) -> String {
        format!("fd00:10:244:{:x}::/64", self.0)
    }

    /// The node's network namespace, inside the cluster's mount namespace.
    pub(crate) fn netns(self) -> PathBuf {
        Path::new("/run/netns").join(self.name())
    }
}

/// A cluster's folder on disk, and what is where in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State(pub(crate) PathBuf);

impl State {
    /// `~/.cache/weft/cluster/NAME`.
    #[must_use]
    pub fn locate(name: &str) -> Self {
        Self(cache().join("cluster").join(name))
    }

    /// Those of all clusters, by name.
    pub(crate) fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(cache().join("cluster")).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = entries.map(|e| e.path()).filter(|path| path.is_dir()).collect();
        folders.sort();
        folders.into_iter().map(Self).collect()
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// For `KUBECONFIG`; of use in the cluster's host namespace only.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// What the cluster's processes write.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }
    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("init.pid")
    }
    pub(crate) fn report(&self) -> PathBuf {
        self.0.join("report.json")
    }
    pub(crate) fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }
    /// Files that only make sense while the cluster runs, such as kubectl's cache.
    pub(crate) fn work(&self) -> PathBuf {
        self.0.join("work")
    }
    pub(crate) fn node(&self, node: Node) -> PathBuf {
        self.0.join("nodes").join(node.name())
    }
    /// The node's process 1, as numbered in the cluster's outer PID namespace.
    pub(crate) fn node_pid(&self, node: Node) -> PathBuf {
        self.node(node).join("init.pid")
    }
}

/// Where Weft's development tools keep what is expensive to make; may vanish at any time.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    base.join("weft")
}
