//! Pods leave the mesh: the agents' DaemonSet is given a note, which agents and controller read; each agent says on its
//! own pod when its node is out. The note goes with the DaemonSet.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use weft_model::uninstall::{ANNOTATION, CONDITION};

use crate::check::part;
use crate::cluster::Cluster;
use crate::facts::HOME;
use crate::mesh::{MESHED, condition, node_of};
use crate::output::count;

/// Gives the note. Returns whether there was anything to give it to.
pub(super) async fn announce(cluster: &Cluster) -> Result<bool> {
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), HOME);
    let note = json!({"metadata": {"annotations": {ANNOTATION: "true"}}});
    match sets.patch("weft-agent", &PatchParams::default(), &Patch::Merge(note)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).context("cannot annotate the DaemonSet weft-agent"),
    }
}

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Nodes that are out.
    done: Vec<String>,
    /// Nodes that are not.
    pub(super) waiting: Vec<String>,
    /// Nodes that cannot be waited for.
    lost: Vec<String>,
    /// Pods that are still in the mesh on nodes that can be asked.
    meshed: usize,
}

/// Asks the cluster.
pub(super) async fn progress(cluster: &Cluster) -> Result<Progress> {
    let (nodes, pods) = tokio::try_join!(cluster.all::<Node>(), cluster.all::<Pod>())?;
    Ok(judge(&nodes, &pods))
}

fn judge(nodes: &[Node], pods: &[Pod]) -> Progress {
    let mut progress = Progress::default();
    for agent in part(pods, "weft-agent") {
        let node = node_of(agent).to_owned();
        let answers = nodes.iter().any(|one| one.name_any() == node && is_ready(one));
        let out = condition(agent, CONDITION).is_some_and(|condition| condition.status == "True");
        match () {
            () if out => progress.done.push(node),
            () if answers => progress.waiting.push(node),
            () => progress.lost.push(node),
        }
    }
    let meshed = pods.iter().filter(|pod| {
        let is_meshed = condition(pod, MESHED).is_some_and(|condition| condition.status == "True");
        is_meshed && progress.waiting.iter().any(|node| node == node_of(pod))
    });
    progress.meshed = meshed.count();
    progress
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

impl Progress {
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn sentence(&self) -> String {
        let all = self.done.len() + self.waiting.len();
        let mut text = format!(
            "{} of {} out of the mesh, {} still in it",
            self.done.len(),
            count(all, "node"),
            count(self.meshed, "pod")
        );
        if !self.lost.is_empty() {
            text.push_str(&format!(
                "; not ready, so not waited for: {} (their pods stay closed until they are deleted)",
                self.lost.join(", ")
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HEALTHY, facts};

    fn at(changes: &[&str]) -> Progress {
        let ready = |name: &str| {
            format!(
                "kind: Node\nmetadata: {{name: {name}}}\nstatus: {{conditions: [{{type: Ready, status: 'True'}}]}}"
            )
        };
        let nodes = [ready("node1"), ready("node2")];
        let facts = facts(&[&[HEALTHY, &nodes[0], &nodes[1]], changes].concat());
        judge(facts.nodes.as_ref().unwrap(), facts.pods.as_ref().unwrap())
    }

    fn out(node: &str) -> String {
        let agent =
            HEALTHY.split("\n---\n").find(|text| text.contains(&format!("name: weft-agent-{node}"))).unwrap();
        agent.replace("conditions: [", &format!("conditions: [{{type: {CONDITION}, status: 'True'}}, "))
    }

    #[test]
    fn every_node_that_answers_is_waited_for() {
        assert_eq!(at(&[]).sentence(), "0 of 2 nodes out of the mesh, 2 pods still in it");
        let half = at(&[&out("node1")]);
        assert_eq!(half.sentence(), "1 of 2 nodes out of the mesh, 1 pod still in it");
        assert!(!half.is_done());
        assert!(at(&[&out("node1"), &out("node2")]).is_done());
    }

    #[test]
    fn a_node_that_does_not_answer_is_named_and_not_waited_for() {
        let gone =
            "kind: Node\nmetadata: {name: node2}\nstatus: {conditions: [{type: Ready, status: Unknown}]}";
        let progress = at(&[&out("node1"), gone]);
        assert!(progress.is_done());
        assert!(progress.sentence().contains("not waited for: node2"), "{}", progress.sentence());
    }
}
