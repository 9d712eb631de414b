//! The pods of this node and whether each is to be enrolled.

mod facts;
mod folder;
mod kubernetes;
mod probes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;
use weft_api::probe::Probe;
use weft_model::workload::{Exempt, MESH_LABEL, is_enrolled};
use weft_model::{ObjectName, Text};

pub use facts::{Condition, Facts, MESHED, Owner};
pub use folder::Folder;
pub use kubernetes::Kubernetes;

/// The newest table; `None` until the source has been read once.
pub type Pods = watch::Receiver<Option<Arc<Table>>>;

/// Where pods come from.
pub trait PodSource {
    /// Publishes a table at first and at every change, for ever.
    fn run(self, tables: watch::Sender<Option<Arc<Table>>>) -> impl Future<Output = ()> + Send;
}

/// What the agent needs to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: Text,
    /// Its name.
    pub name: ObjectName,
    /// Its service account.
    pub service_account: Text,
    /// Its addresses, once it has any.
    pub addresses: Vec<IpAddr>,
    /// The node it is bound to.
    pub node: Option<Text>,
    /// It shares the node's network.
    pub host_network: bool,
    /// It has succeeded or failed for good.
    pub terminal: bool,
    /// Its value of [`MESH_LABEL`].
    pub label: Option<Text>,
    /// The container that brings another mesh's sidecar, if one has such a name.
    pub sidecar: Option<Text>,
    /// What the kubelet may ask of it.
    pub probes: Vec<Probe>,
}

impl Pod {
    /// Reads a Pod object; `None` when it has no name or UID.
    #[must_use]
    pub fn from_object(object: &Value) -> Option<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let addresses = object.pointer("/status/podIPs").and_then(Value::as_array);
        let addresses = addresses.into_iter().flatten();
        let addresses = addresses.filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok());
        Some(Self {
            uid: text("/metadata/uid")?.into(),
            name: ObjectName::new(text("/metadata/namespace")?, text("/metadata/name")?),
            service_account: text("/spec/serviceAccountName").unwrap_or("default").into(),
            addresses: addresses.collect(),
            node: text("/spec/nodeName").map(Into::into),
            host_network: object.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false),
            terminal: matches!(text("/status/phase"), Some("Succeeded" | "Failed")),
            label: label(object),
            sidecar: sidecar(object),
            probes: probes::declared(object),
        })
    }
}

/// The containers, by their usual names, that redirect a pod's traffic for another mesh.
const SIDECARS: [&str; 4] = ["istio-proxy", "istio-init", "linkerd-proxy", "linkerd-init"];

/// The first container or init container with such a name.
fn sidecar(object: &Value) -> Option<Text> {
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let mut names = list("/spec/containers")
        .chain(list("/spec/initContainers"))
        .filter_map(|container| container.get("name")?.as_str());
    names.find(|name| SIDECARS.contains(name)).map(Into::into)
}

/// An object's value of [`MESH_LABEL`].
fn label(object: &Value) -> Option<Text> {
    object.get("metadata")?.get("labels")?.get(MESH_LABEL)?.as_str().map(Into::into)
}

/// Is a pod to be enrolled?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Enrol,
    /// No.
    Leave,
    /// Its namespace is not known yet.
    Unknown,
}

/// Everything known about this node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Pods of this node.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// Every namespace and its value of [`MESH_LABEL`].
    pub namespaces: BTreeMap<Text, Option<Text>>,
    /// What else is known of pods, by UID. Empty where objects come from a folder.
    pub facts: BTreeMap<Text, Facts>,
    /// Namespaces that are never in the mesh.
    pub exempt: Exempt,
    /// Weft is being uninstalled: no pod is to be enrolled, whatever the labels say.
    pub leaving: bool,
}

/// Makes a table the newest, if it differs.
fn publish(tables: &watch::Sender<Option<Arc<Table>>>, table: Table) {
    tables.send_if_modified(|current| {
        let changed = current.as_deref() != Some(&table);
        if changed {
            *current = Some(Arc::new(table));
        }
        changed
    });
}

impl Table {
    /// Is this pod to be enrolled?
    #[must_use]
    pub fn decide(&self, pod: &Pod) -> Decision {
        if self.leaving || pod.host_network || pod.terminal || self.exempt.has(&pod.name.namespace) {
            return Decision::Leave;
        }
        let Some(namespace) = self.namespaces.get(&pod.name.namespace) else { return Decision::Unknown };
        let enrolled =
            is_enrolled(&self.exempt, &pod.name.namespace, namespace.as_deref(), pod.label.as_deref());
        if enrolled { Decision::Enrol } else { Decision::Leave }
    }
}

#[cfg(test)]
mod tests;
