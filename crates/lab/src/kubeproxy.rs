//! Plays kube-proxy: one nft table in every node's network namespace that forwards Service
//! addresses to ready endpoints at random and rejects those without any. Unmeshed pods use it;
//! a meshed pod's connections are captured before they get here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::apiserver::Store;
use crate::config::{LabConfig, Node, SERVICE_RANGE_V4, SERVICE_RANGE_V6};
use crate::kubelet::Kubelet;
use crate::launch::Launch;
use crate::objects::text;

/// Packets that have to leave with the node's address: a pod that reached itself.
const MASQUERADE_MARK: &str = "0x4000";

/// One Service port on one address.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Frontend {
    ip: IpAddr,
    protocol: String,
    port: u64,
}

/// Endpoints by Service port.
pub(crate) type Frontends = BTreeMap<Frontend, Vec<(IpAddr, u64)>>;

/// The parts of a table that sends Service addresses to endpoints.
pub(crate) struct Rules {
    /// A chain for each Service port and each of its endpoints.
    pub(crate) chains: String,
    /// Rules that lead there.
    pub(crate) served: String,
    /// Rules for Service ports without endpoints, which lead to the chain `refuse`.
    pub(crate) empty: String,
}

impl Rules {
    pub(crate) fn of(frontends: &Frontends) -> Self {
        let (mut chains, mut served, mut empty) = (String::new(), String::new(), String::new());
        for (index, (front, backends)) in frontends.iter().enumerate() {
            let family = if front.ip.is_ipv6() { "ip6" } else { "ip" };
            let matched =
                format!("{family} daddr {} {} dport {}", front.ip, front.protocol.to_lowercase(), front.port);
            if backends.is_empty() {
                let _ = writeln!(empty, "    {matched} goto refuse");
                continue;
            }
            let _ = writeln!(served, "    {matched} goto svc-{index}");
            service_chains(index, backends, &mut chains);
        }
        Self { chains, served, empty }
    }
}

fn service_chains(index: usize, backends: &[(IpAddr, u64)], out: &mut String) {
    for (n, (ip, port)) in backends.iter().enumerate() {
        let (family, at) = family(*ip, *port);
        let _ = writeln!(
            out,
            "  chain ep-{index}-{n} {{\n    {family} saddr {ip} meta mark set {MASQUERADE_MARK}\n    meta l4proto {{ tcp, udp }} dnat {family} to {at}\n  }}"
        );
    }
    let choices: Vec<String> = (0..backends.len()).map(|n| format!("{n} : goto ep-{index}-{n}")).collect();
    let _ = writeln!(
        out,
        "  chain svc-{index} {{\n    numgen random mod {} vmap {{ {} }}\n  }}",
        backends.len(),
        choices.join(", ")
    );
}

/// The whole table as text for `nft -f -`: replaced in one transaction.
pub(crate) fn ruleset(config: &LabConfig, store: &Store) -> String {
    let Rules { chains, served, empty } = Rules::of(&frontends(store));
    let mut unknown = format!("    ip daddr {SERVICE_RANGE_V4} goto refuse\n");
    if config.ipv6 {
        let _ = writeln!(unknown, "    ip6 daddr {SERVICE_RANGE_V6} goto refuse");
    }
    format!(
        "table inet kube-proxy\ndelete table inet kube-proxy\ntable inet kube-proxy {{\n{chains}  \
         chain refuse {{\n    meta l4proto tcp reject with tcp reset\n    reject\n  }}\n  chain services {{\n{served}  }}\n  \
         chain nothing-there {{\n{empty}{unknown}  }}\n  \
         chain prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n    goto services\n  }}\n  \
         chain output {{\n    type nat hook output priority -100; policy accept;\n    goto services\n  }}\n  \
         chain forward {{\n    type filter hook forward priority filter; policy accept;\n    goto nothing-there\n  }}\n  \
         chain local {{\n    type filter hook output priority filter; policy accept;\n    goto nothing-there\n  }}\n  \
         chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n    meta mark {MASQUERADE_MARK} masquerade\n  }}\n}}\n"
    )
}

fn family(ip: IpAddr, port: u64) -> (&'static str, String) {
    match ip {
        IpAddr::V4(ip) => ("ip", format!("{ip}:{port}")),
        IpAddr::V6(ip) => ("ip6", format!("[{ip}]:{port}")),
    }
}

/// Everything that Services are reached at from inside.
fn frontends(store: &Store) -> Frontends {
    frontends_at(store, |service| {
        let listed = ["/spec/clusterIPs", "/spec/externalIPs"].map(|at| strings(service, at));
        listed.into_iter().flatten().chain(ingress(service)).collect()
    })
}

/// The addresses that load balancers gave.
pub(crate) fn load_balancers(store: &Store) -> Frontends {
    frontends_at(store, ingress)
}

fn ingress(service: &Value) -> Vec<&str> {
    let list = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    list.into_iter().flatten().map(|of| text(of, "/ip")).collect()
}

fn strings<'v>(service: &'v Value, pointer: &str) -> Vec<&'v str> {
    let list = service.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn frontends_at(store: &Store, addresses: impl Fn(&Value) -> Vec<&str>) -> Frontends {
    let mut all = BTreeMap::new();
    for (key, service) in store.kind("Service") {
        for ip in addresses(service).into_iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
            for port in service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten() {
                let Some(number) = port.get("port").and_then(Value::as_u64) else { continue };
                let protocol = text(port, "/protocol").to_owned();
                let front = Frontend { ip, protocol, port: number };
                all.insert(
                    front,
                    endpoints(store, &key.namespace, &key.name, text(port, "/name"), ip.is_ipv6()),
                );
            }
        }
    }
    all
}

/// Ready endpoints of a Service port in one family; terminating ones that still serve when there
/// is no other (KEP-1669).
fn endpoints(store: &Store, namespace: &str, service: &str, port: &str, ipv6: bool) -> Vec<(IpAddr, u64)> {
    let (mut ready, mut serving) = (Vec::new(), Vec::new());
    for (key, slice) in store.kind("EndpointSlice") {
        let of = slice
            .pointer("/metadata/labels")
            .and_then(|l| l.get("kubernetes.io/service-name"))
            .and_then(Value::as_str);
        if key.namespace != namespace || of != Some(service) {
            continue;
        }
        let ports = slice.get("ports").and_then(Value::as_array);
        let Some(number) = ports
            .into_iter()
            .flatten()
            .find(|p| text(p, "/name") == port)
            .and_then(|p| p.get("port")?.as_u64())
        else {
            continue;
        };
        for endpoint in slice.get("endpoints").and_then(Value::as_array).into_iter().flatten() {
            let is = |name: &str, default: bool| {
                endpoint.pointer(&format!("/conditions/{name}")).and_then(Value::as_bool).unwrap_or(default)
            };
            let first = endpoint
                .pointer("/addresses/0")
                .and_then(Value::as_str)
                .and_then(|a| a.parse::<IpAddr>().ok());
            let Some(ip) = first.filter(|ip| ip.is_ipv6() == ipv6) else { continue };
            if is("ready", true) {
                ready.push((ip, number));
            } else if is("serving", false) && is("terminating", false) {
                serving.push((ip, number));
            }
        }
    }
    if ready.is_empty() { serving } else { ready }
}

/// Loads a table in the lab's own network namespace, or in those of nodes.
pub(crate) async fn load(
    kubelet: &Kubelet,
    nodes: impl IntoIterator<Item = Option<Node>>,
    ruleset: &str,
) -> Result<()> {
    for node in nodes {
        let mut launch = Launch::program(vec!["nft".to_owned(), "-f".to_owned(), "-".to_owned()]);
        launch.netns = node.map(Node::netns);
        let mut child = kubelet
            .command(&launch)?
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(ruleset.as_bytes()).await?;
        }
        let out = child.wait_with_output().await.context("nft")?;
        if !out.status.success() {
            let place = node.map_or_else(|| "the lab".to_owned(), Node::name);
            bail!("nft on {place}: {}", String::from_utf8_lossy(&out.stderr).trim());
        }
    }
    Ok(())
}
