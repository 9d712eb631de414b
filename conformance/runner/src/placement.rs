//! Where the suite's pods run. Its manifests say nothing about nodes and stay as they are: while every node is cordoned, so
//! that the scheduler leaves these pods alone, the runner binds each of them itself, as a scheduler does, and then reads
//! back where it really ran.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What every namespace of the suite begins with.
const NAMESPACES: &str = "gateway-conformance";

/// How the suite's pods are spread over two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All on the first node.
    Together,
    /// Version v1 in the mesh's namespace on the first node, everything else on the second: what v1 sends to v2, and what the
    /// consumer's namespace sends to v1, crosses the wire.
    Apart,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Together => "all on one node",
            Self::Apart => "v1 and v2 apart",
        })
    }
}

/// A pod of the suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its label `version`.
    pub version: String,
    /// The node it is bound to.
    pub node: Option<String>,
}

impl Pod {
    /// Reads a Pod object; `None` if it is not the suite's.
    #[must_use]
    pub fn read(object: &Value) -> Option<Self> {
        let text = |path| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let namespace = text("/metadata/namespace")?;
        (text("/kind")? == "Pod" && namespace.starts_with(NAMESPACES)).then_some(())?;
        Some(Self {
            namespace,
            name: text("/metadata/name")?,
            version: text("/metadata/labels/version").unwrap_or_default(),
            node: text("/spec/nodeName"),
        })
    }

    /// The object that binds the pod to a node.
    #[must_use]
    pub fn binding(&self, node: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "namespace": self.namespace, "name": self.name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        })
    }

    fn is_mesh_v1(&self) -> bool {
        self.version == "v1" && !self.namespace.ends_with("-consumer")
    }
}

impl Placement {
    /// The node that a pod belongs on.
    #[must_use]
    pub fn node<'n>(self, pod: &Pod, [first, second]: [&'n str; 2]) -> &'n str {
        match self {
            Self::Together => first,
            Self::Apart if pod.is_mesh_v1() => first,
            Self::Apart => second,
        }
    }
}

/// Where the suite's pods ran, as read back from the API server.
#[derive(Clone, Debug, Default)]
pub struct Record(BTreeMap<(String, String), Pod>);

impl Record {
    /// Notes what an object says, and returns the pod if it still needs a node.
    pub fn see(&mut self, object: &Value) -> Option<Pod> {
        let pod = Pod::read(object)?;
        let deleted = object.pointer("/metadata/deletionTimestamp").is_some();
        let unbound = pod.node.is_none() && !deleted;
        if pod.node.is_some() {
            self.0.insert((pod.namespace.clone(), pod.name.clone()), pod.clone());
        }
        unbound.then_some(pod)
    }

    /// All pods that ever had a node.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.0.values()
    }

    /// Fails if a pod ran elsewhere than it should, or if both versions were not seen.
    ///
    /// # Errors
    /// In exactly these cases.
    pub fn judge(&self, placement: Placement, nodes: [&str; 2]) -> Result<()> {
        for version in ["v1", "v2"] {
            if !self.pods().any(|pod| pod.version == version) {
                bail!("no pod of version {version} was seen on any node, so the placement proves nothing");
            }
        }
        for pod in self.pods() {
            let (wanted, was) = (placement.node(pod, nodes), pod.node.as_deref().unwrap_or_default());
            if was != wanted {
                bail!("wrong placement: {}/{} ran on {was} instead of {wanted}", pod.namespace, pod.name);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pod in self.pods() {
            let node = pod.node.as_deref().unwrap_or("nowhere");
            writeln!(f, "   {:<8} {}/{}", node, pod.namespace, pod.name)?;
        }
        Ok(())
    }
}

/// Reads the objects that `kubectl get --watch --output json` prints, one after the other.
///
/// # Errors
/// If something is no JSON.
pub fn objects(source: impl std::io::Read) -> impl Iterator<Item = Result<Value>> {
    serde_json::Deserializer::from_reader(source)
        .into_iter::<Value>()
        .map(|object| object.context("reading what kubectl prints"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 2] = ["one", "two"];

    fn pod(namespace: &str, version: &str, node: Option<&str>) -> Value {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": { "namespace": namespace, "name": format!("echo-{version}-1-x"), "labels": { "version": version } },
            "spec": {},
        });
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        pod
    }

    fn record(of: &[Value]) -> Record {
        let mut record = Record::default();
        for object in of {
            record.see(object);
        }
        record
    }

    #[test]
    fn only_unbound_pods_of_the_suite_are_to_be_bound() {
        let mut record = Record::default();
        let unbound = record.see(&pod("gateway-conformance-mesh", "v1", None)).expect("to bind");
        assert_eq!(unbound.binding("one")["target"]["name"], "one");
        assert_eq!(record.see(&pod("gateway-conformance-mesh", "v1", Some("one"))), None);
        assert_eq!(record.see(&pod("kube-system", "v1", None)), None);
        let mut going = pod("gateway-conformance-mesh", "v1", None);
        going["metadata"]["deletionTimestamp"] = "now".into();
        assert_eq!(record.see(&going), None);
    }

    #[test]
    fn wrong_placement_fails() {
        let (mesh, consumer) = ("gateway-conformance-mesh", "gateway-conformance-mesh-consumer");
        let together =
            [pod(mesh, "v1", Some("one")), pod(mesh, "v2", Some("one")), pod(consumer, "v1", Some("one"))];
        let apart =
            [pod(mesh, "v1", Some("one")), pod(mesh, "v2", Some("two")), pod(consumer, "v1", Some("two"))];
        assert!(record(&together).judge(Placement::Together, NODES).is_ok());
        assert!(record(&apart).judge(Placement::Apart, NODES).is_ok());
        assert!(record(&together).judge(Placement::Apart, NODES).is_err());
        assert!(record(&apart).judge(Placement::Together, NODES).is_err());
        assert!(record(&together[..1]).judge(Placement::Together, NODES).is_err(), "v2 was never seen");
    }

    #[test]
    fn objects_follow_each_other() {
        let text = "{\"a\": 1}\n{\n \"a\": 2\n}\n";
        let all: Vec<Value> = objects(text.as_bytes()).collect::<Result<_>>().expect("JSON");
        assert_eq!(all, [json!({"a": 1}), json!({"a": 2})]);
        assert!(objects("{]".as_bytes()).next().expect("one").is_err());
    }
}
