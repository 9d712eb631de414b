//! A node's network configuration list (`.conflist`): a plugin that makes the pod's interface, `host-local` for its
//! addresses, and weft-cni last.

use serde_json::{Value, json};

use crate::config::{CniNetwork, LabConfig, Node};

/// The list of a node.
pub(crate) fn of(config: &LabConfig, node: Node) -> Value {
    let mut plugins = interface(config, node);
    if config.mesh {
        plugins.push(json!({"type": "weft-cni"}));
    }
    json!({"cniVersion": config.cni.version, "name": "weft-lab", "plugins": plugins})
}

/// The programs that the list runs, those that it runs by way of others included.
pub(crate) fn programs(config: &LabConfig) -> Vec<String> {
    let list = of(config, Node(1));
    let plugins = list.get("plugins").and_then(Value::as_array).into_iter().flatten();
    let kind = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
    plugins.flat_map(|p| [kind(p), p.get("ipam").and_then(kind)]).flatten().collect()
}

fn interface(config: &LabConfig, node: Node) -> Vec<Value> {
    let ipam = ipam(config, node);
    match config.cni.network {
        CniNetwork::Ptp => vec![json!({"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": ipam})],
        CniNetwork::Bridge => vec![
            json!({
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "mtu": 1500, "ipam": ipam,
            }),
            // Plugins from 1.6 on know the backend; older ones use iptables.
            json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true, "backend": "nftables"}),
        ],
    }
}

fn ipam(config: &LabConfig, node: Node) -> Value {
    let mut ranges = vec![json!([{"subnet": node.pod_range_v4()}])];
    let mut routes = vec![json!({"dst": "0.0.0.0/0"})];
    if config.ipv6 {
        ranges.push(json!([{"subnet": node.pod_range_v6()}]));
        routes.push(json!({"dst": "::/0"}));
    }
    let data = config.state.node(node).join("ipam");
    json!({"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": data})
}
