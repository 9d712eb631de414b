//! What the enrolment of namespaces is judged by, at one moment.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::workload::{MESH_LABEL, NAMESPACE_LABELS, misunderstood};
use weft_model::{ObjectName, Text};

use crate::inputs::Inputs;
use crate::translate::LivePod;

/// Objects and proxies' progress, as far as enrolment needs them.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Namespaces whose label enrols their pods.
    pub labelled: BTreeSet<Text>,
    /// What of a namespace's labels means nothing, and what to write instead.
    pub mislabelled: BTreeMap<Text, Vec<String>>,
    /// The pods that run: live, bound to a node, in a network of their own, with an address.
    pub pods: Vec<PodView>,
    /// Nodes whose proxies are or were connected.
    pub nodes: BTreeMap<Text, NodeView>,
}

/// A running pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its UID.
    pub uid: Text,
    /// Its name.
    pub name: ObjectName,
    /// Its node.
    pub node: Text,
    /// Labels say that it is to be in the mesh.
    pub wanted: bool,
}

/// What a node's proxies say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// UIDs of the pods that are served; `None`: not reported yet.
    pub served: Option<BTreeSet<Text>>,
    /// UIDs of pods that are no longer served while connections of theirs go on.
    pub parting: BTreeSet<Text>,
    /// Why pods that are to be served are not.
    pub unserved: BTreeMap<Text, String>,
    /// The newest version that is wholly in force in all of the node's proxies.
    pub in_force: u64,
}

impl View {
    /// Of objects and the nodes' progress.
    pub fn new(inputs: &Inputs, nodes: BTreeMap<Text, NodeView>) -> Self {
        let label =
            |name: &Text| !inputs.uninstalling && inputs.namespace_label(name, MESH_LABEL) == Some("enabled");
        let labelled = inputs.namespaces.keys().filter(|name| label(name) && !inputs.exempt.has(name));
        let mut pods = Vec::new();
        for (name, pod) in &inputs.pods {
            let Some(live) = LivePod::of(pod).filter(LivePod::has_address) else { continue };
            pods.push(PodView {
                uid: live.uid.into(),
                name: name.clone(),
                node: live.node.into(),
                wanted: inputs.is_wanted(name, pod),
            });
        }
        let mut mislabelled = BTreeMap::new();
        for (name, namespace) in inputs.namespaces.iter().filter(|_| !inputs.uninstalling) {
            let wrong = misunderstood(namespace.metadata.labels.iter().flatten(), NAMESPACE_LABELS);
            if !wrong.is_empty() {
                mislabelled.insert(name.clone(), wrong);
            }
        }
        Self { labelled: labelled.cloned().collect(), mislabelled, pods, nodes }
    }

    /// Whether the proxy of the pod's own node serves it; nobody else's word counts.
    pub(super) fn serves(&self, pod: &PodView) -> bool {
        let served = self.nodes.get(&pod.node).and_then(|node| node.served.as_ref());
        served.is_some_and(|served| served.contains(&pod.uid))
    }

    /// Whether the proxy of the pod's own node still carries connections of it.
    fn parts(&self, pod: &PodView) -> bool {
        self.nodes.get(&pod.node).is_some_and(|node| node.parting.contains(&pod.uid))
    }

    /// The UIDs of all served pods.
    pub(super) fn served(&self) -> BTreeSet<Text> {
        self.pods.iter().filter(|pod| self.serves(pod)).map(|pod| pod.uid.clone()).collect()
    }

    /// The UIDs of all pods that are no longer served while connections of theirs go on.
    pub(super) fn parting(&self) -> BTreeSet<Text> {
        self.pods.iter().filter(|pod| self.parts(pod)).map(|pod| pod.uid.clone()).collect()
    }

    pub(super) fn has_reported(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|node| node.served.is_some())
    }

    pub(super) fn wanted_in(&self, namespace: &Text) -> impl Iterator<Item = &PodView> {
        self.pods.iter().filter(move |pod| pod.wanted && pod.name.namespace == *namespace)
    }

    /// The nodes with pods of the mesh, whose proxies carry calls, that have not taken in `version` yet.
    pub(super) fn behind(&self, version: u64) -> impl Iterator<Item = &Text> {
        let carried = |pod: &&PodView| pod.wanted || self.serves(pod) || self.parts(pod);
        let carrying: BTreeSet<&Text> = self.pods.iter().filter(carried).map(|pod| &pod.node).collect();
        let in_force = |node: &Text| self.nodes.get(node).map_or(0, |node| node.in_force);
        carrying.into_iter().filter(move |node| in_force(node) < version)
    }

    pub(super) fn why_unserved(&self, pod: &PodView) -> String {
        let node = &pod.node;
        match self.nodes.get(node) {
            None => format!("weft-proxy on {node} has not connected to weft-controller: does it run?"),
            Some(NodeView { served: None, .. }) => {
                format!("weft-proxy on {node} has not heard from weft-agent yet: does that run?")
            }
            Some(known) => match known.unserved.get(&pod.uid) {
                Some(why) => why.clone(),
                None => format!("weft-agent on {node} has not enrolled it yet: does it run?"),
            },
        }
    }
}
