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
use crate::config::{LabConfig, SERVICE_RANGE_V4, SERVICE_RANGE_V6};
use crate::kubelet::Kubelet;
use crate::launch::Launch;
use crate::objects::text;

/// Packets that have to leave with the node's address: a pod that reached itself.
const MASQUERADE_MARK: &str = "0x4000";

/// One Service port on one address.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frontend {
    ip: IpAddr,
    protocol: String,
    port: u64,
}

/// The whole table as text for `nft -f -`: replaced in one transaction.
pub(crate) fn ruleset(config: &LabConfig, store: &Store) -> String {
    let frontends = frontends(store);
    let mut out =
        String::from("table inet kube-proxy\ndelete table inet kube-proxy\ntable inet kube-proxy {\n");
    for (index, backends) in frontends.values().enumerate() {
        for (n, (ip, port)) in backends.iter().enumerate() {
            let (family, at) = family(*ip, *port);
            let _ = writeln!(
                out,
                "  chain ep-{index}-{n} {{\n    {family} saddr {ip} meta mark set {MASQUERADE_MARK}\n    meta l4proto {{ tcp, udp }} dnat {family} to {at}\n  }}"
            );
        }
        if !backends.is_empty() {
            let choices: Vec<String> =
                (0..backends.len()).map(|n| format!("{n} : goto ep-{index}-{n}")).collect();
            let _ = writeln!(
                out,
                "  chain svc-{index} {{\n    numgen random mod {} vmap {{ {} }}\n  }}",
                backends.len(),
                choices.join(", ")
            );
        }
    }
    let (mut services, mut empty) = (String::new(), String::new());
    for (index, (front, backends)) in frontends.iter().enumerate() {
        let family = if front.ip.is_ipv6() { "ip6" } else { "ip" };
        let matched =
            format!("{family} daddr {} {} dport {}", front.ip, front.protocol.to_lowercase(), front.port);
        if backends.is_empty() {
            let _ = writeln!(empty, "    {matched} goto refuse");
        } else {
            let _ = writeln!(services, "    {matched} goto svc-{index}");
        }
    }
    let mut unknown = format!("    ip daddr {SERVICE_RANGE_V4} goto refuse\n");
    if config.ipv6 {
        let _ = writeln!(unknown, "    ip6 daddr {SERVICE_RANGE_V6} goto refuse");
    }
    let _ = write!(
        out,
        "  chain refuse {{\n    meta l4proto tcp reject with tcp reset\n    reject\n  }}\n  chain services {{\n{services}  }}\n  \
         chain nothing-there {{\n{empty}{unknown}  }}\n  \
         chain prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n    goto services\n  }}\n  \
         chain output {{\n    type nat hook output priority -100; policy accept;\n    goto services\n  }}\n  \
         chain forward {{\n    type filter hook forward priority filter; policy accept;\n    goto nothing-there\n  }}\n  \
         chain local {{\n    type filter hook output priority filter; policy accept;\n    goto nothing-there\n  }}\n  \
         chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n    meta mark {MASQUERADE_MARK} masquerade\n  }}\n}}\n"
    );
    out
}

fn family(ip: IpAddr, port: u64) -> (&'static str, String) {
    match ip {
        IpAddr::V4(ip) => ("ip", format!("{ip}:{port}")),
        IpAddr::V6(ip) => ("ip6", format!("[{ip}]:{port}")),
    }
}

fn frontends(store: &Store) -> BTreeMap<Frontend, Vec<(IpAddr, u64)>> {
    let mut all = BTreeMap::new();
    for (key, service) in store.kind("Service") {
        let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
        let external = service.pointer("/spec/externalIPs").and_then(Value::as_array).into_iter().flatten();
        for ip in ips.chain(external).filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok()) {
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

/// Loads the table into every node.
pub(crate) async fn load(kubelet: &Kubelet, ruleset: &str) -> Result<()> {
    for node in kubelet.config.all_nodes() {
        let launch = Launch::on_node(
            node.netns(),
            Vec::new(),
            vec!["nft".to_owned(), "-f".to_owned(), "-".to_owned()],
        );
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
            bail!("nft on {}: {}", node.name(), String::from_utf8_lossy(&out.stderr).trim());
        }
    }
    Ok(())
}
