//! The cluster's network: a bridge without an uplink in its host namespace, a network namespace per node on it, and routes
//! to pods, Services and load balancers.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use weft_runtime::netns::{NetNamespace, ip};

use crate::config::{
    Config, HOST_V4, HOST_V6, LOAD_BALANCERS_V4, LOAD_BALANCERS_V6, Node, SERVICES_V4, SERVICES_V6,
};

/// Builds everything but the nodes. Runs once, in the cluster's own network namespace.
pub(crate) fn build(config: &Config) -> Result<()> {
    set_sysctls(config.dual_stack)?;
    let mut script = format!("link set lo up\nlink add br0 type bridge\naddr add {HOST_V4}/24 dev br0\n");
    if config.dual_stack {
        script += &format!("addr add {HOST_V6}/64 dev br0 nodad\n");
    }
    ip(None, &(script + "link set br0 up\n"))?;
    let mut routes: String = config.all_nodes().map(|node| pod_routes(config, node)).collect();
    // The host has no kube-proxy: the first node forwards what the API server sends to Services.
    let first = Node(1);
    for range in [SERVICES_V4, LOAD_BALANCERS_V4] {
        routes += &format!("route add {range} via {}\n", first.v4());
    }
    if config.dual_stack {
        for range in [SERVICES_V6, LOAD_BALANCERS_V6] {
            routes += &format!("route add {range} via {}\n", first.v6());
        }
    }
    Ok(ip(None, &routes)?)
}

/// Builds a node's network namespace, in place of what it had before it ended.
pub(crate) fn add_node(config: &Config, node: Node) -> Result<()> {
    let name = node.name();
    if node.netns().exists() {
        ip(None, &format!("netns delete {name}\n"))?;
        // The kernel takes the devices away in its own time, and their names are needed again.
        let _ = ip(None, &format!("link delete {name}\n"));
    }
    ip(None, &format!("netns add {name}\n"))?;
    NetNamespace::open(node.netns())?.run_in(|| set_sysctls(config.dual_stack))??;
    ip(
        None,
        &format!("link add {name} type veth peer name eth0 netns {name}\nlink set {name} master br0 up\n"),
    )?;
    let mut script = format!("link set lo up\naddr add {}/24 dev eth0\n", node.v4());
    if config.dual_stack {
        script += &format!("addr add {}/64 dev eth0 nodad\n", node.v6());
    }
    script += &format!("link set eth0 up\nroute add default via {HOST_V4}\n");
    if config.dual_stack {
        script += &format!("route add default via {HOST_V6}\n");
    }
    for other in config.all_nodes().filter(|other| *other != node) {
        script += &pod_routes(config, other);
    }
    Ok(ip(Some(&name), &script)?)
}

fn pod_routes(config: &Config, to: Node) -> String {
    let mut routes = format!("route add {} via {}\n", to.pods_v4(), to.v4());
    if config.dual_stack {
        routes += &format!("route add {} via {}\n", to.pods_v6(), to.v6());
    }
    routes
}

/// Makes the calling thread's network namespace a router.
fn set_sysctls(ipv6: bool) -> Result<()> {
    let set = |name: &str, value: &str| {
        fs::write(Path::new("/proc/sys/net").join(name), value)
            .with_context(|| format!("cannot set net/{name}"))
    };
    set("ipv4/ip_forward", "1")?;
    for scope in ["all", "default"] {
        set(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
        if ipv6 {
            set(&format!("ipv6/conf/{scope}/forwarding"), "1")?;
            set(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
            // Addresses are unique by construction: no second of waiting for their detection.
            set(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        }
    }
    Ok(())
}
