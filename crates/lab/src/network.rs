//! The lab's network: one bridge without an uplink in the lab's own namespace, one network
//! namespace per node on it, routes between the nodes' pod ranges, and a namespace per pod.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use weft_runtime::netns::ip;

use crate::config::{LAB_V4, LAB_V6, LabConfig, Node, SERVICE_RANGE_V4, SERVICE_RANGE_V6};

/// Builds bridge, nodes and routes. Runs once, in the lab's own network namespace.
pub(crate) fn build(config: &LabConfig) -> Result<()> {
    set_sysctls(config.ipv6, config.uplink.exists())?;
    let mut script = format!("link set lo up\nlink add br0 type bridge\naddr add {LAB_V4}/24 dev br0\n");
    if config.ipv6 {
        script += &format!("addr add {LAB_V6}/64 dev br0 nodad\n");
    }
    script += "link set br0 up\n";
    script += &config.uplink.lab_script(config.ipv6);
    ip(None, &script)?;
    for node in config.all_nodes() {
        add_node(config, node)?;
    }
    let mut routes = String::new();
    for node in config.all_nodes() {
        routes += &pod_routes(config, node);
    }
    Ok(ip(None, &routes)?)
}

fn add_node(config: &LabConfig, node: Node) -> Result<()> {
    let name = node.name();
    add_netns(&name)?;
    let ipv6 = config.ipv6;
    in_netns(&node.netns(), move || set_sysctls(ipv6, true))??;
    ip(
        None,
        &format!("link add {name} type veth peer name eth0 netns {name}\nlink set {name} master br0 up\n"),
    )?;
    let mut script = format!("link set lo up\naddr add {}/24 dev eth0\n", node.address_v4());
    if ipv6 {
        script += &format!("addr add {}/64 dev eth0 nodad\n", node.address_v6());
    }
    script += "link set eth0 up\n";
    // Service addresses need a route for the forwarding rules to see the packet at all.
    script += &format!("route add {SERVICE_RANGE_V4} dev eth0\n");
    if ipv6 {
        script += &format!("route add {SERVICE_RANGE_V6} dev eth0\n");
    }
    script += &config.uplink.node_routes(ipv6);
    for other in config.all_nodes().filter(|o| *o != node) {
        script += &pod_routes(config, other);
    }
    Ok(ip(Some(&name), &script)?)
}

fn pod_routes(config: &LabConfig, to: Node) -> String {
    let mut routes = format!("route add {} via {}\n", to.pod_range_v4(), to.address_v4());
    if config.ipv6 {
        routes += &format!("route add {} via {}\n", to.pod_range_v6(), to.address_v6());
    }
    routes
}

/// A pod's empty network namespace, loopback up, ready for the CNI plugins.
pub(crate) fn add_pod(name: &str, ipv6: bool) -> Result<()> {
    add_netns(name)?;
    in_netns(&Path::new("/run/netns").join(name), move || set_sysctls(ipv6, false))??;
    Ok(ip(Some(name), "link set lo up\n")?)
}

fn add_netns(name: &str) -> Result<()> {
    Ok(ip(None, &format!("netns add {name}\n"))?)
}

/// Removes a namespace; its devices go with it.
pub(crate) fn delete_netns(name: &str) -> Result<()> {
    Ok(ip(None, &format!("netns delete {name}\n"))?)
}

/// Runs `work` on a thread of its own inside a network namespace.
pub(crate) fn in_netns<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let file = File::open(netns).with_context(|| format!("no network namespace {}", netns.display()))?;
    let thread = std::thread::spawn(move || -> Result<T> {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    });
    thread.join().map_err(|_| anyhow!("work in {} panicked", netns.display()))?
}

/// Settings of the namespace that the calling thread is in.
fn set_sysctls(ipv6: bool, router: bool) -> Result<()> {
    let set = |name: &str, value: &str| {
        fs::write(Path::new("/proc/sys/net").join(name), value)
            .with_context(|| format!("cannot set net/{name}"))
    };
    if router {
        set("ipv4/ip_forward", "1")?;
    }
    for scope in ["all", "default"] {
        set(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
        if ipv6 {
            // Addresses are unique by construction: no second of waiting for their detection.
            set(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
            set(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
            set(&format!("ipv6/conf/{scope}/forwarding"), if router { "1" } else { "0" })?;
        }
    }
    Ok(())
}
