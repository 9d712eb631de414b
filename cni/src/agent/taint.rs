//! The taint `weft-mesh.dev/agent-not-ready`, which fresh nodes register with: taken away once this node can enrol pods.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::health::Health;

/// The taint's key.
const KEY: &str = "weft-mesh.dev/agent-not-ready";
/// How soon it is looked for: while it has to go, and later, since a node may register anew.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Takes the taint away whenever it is there and the node is ready for pods, for ever.
pub(super) async fn run(client: &Client, node: &str, health: &Health) {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        health.ready().await;
        let pause = match take_away(&nodes, node).await {
            Ok(()) => INTERVALS.1,
            Err(error) => {
                tracing::warn!(%error, "the taint {KEY} was not looked at; trying again");
                INTERVALS.0
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn take_away(nodes: &Api<Node>, name: &str) -> Result<(), kube::Error> {
    let node = nodes.get(name).await?;
    let Some(patch) = patch(&node) else { return Ok(()) };
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    tracing::info!("took the taint {KEY} off the node");
    Ok(())
}

/// The patch that leaves every other taint, of just this version of the node: the list is replaced as a whole, and
/// another program's change must not be lost.
fn patch(node: &Node) -> Option<Value> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let others: Vec<&Taint> = taints.iter().filter(|taint| taint.key != KEY).collect();
    if others.len() == taints.len() {
        return None;
    }
    Some(json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": others},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_taint_goes_and_only_from_the_node_as_it_was_read() {
        let node = |taints: Value| -> Node {
            let object =
                json!({"metadata": {"name": "one", "resourceVersion": "7"}, "spec": {"taints": taints}});
            serde_json::from_value(object).unwrap()
        };
        let other = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        let ours = |effect: &str| json!({"key": KEY, "effect": effect});
        let taken = patch(&node(json!([ours("NoSchedule"), other, ours("NoExecute")]))).unwrap();
        assert_eq!(taken, json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other]}}));
        assert_eq!(patch(&node(json!([ours("NoSchedule")]))).unwrap()["spec"]["taints"], json!([]));
        assert_eq!(patch(&node(json!([other]))), None);
        assert_eq!(patch(&node(Value::Null)), None);
        assert_eq!(patch(&Node::default()), None);
    }
}
