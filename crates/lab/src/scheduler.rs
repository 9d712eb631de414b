//! Plays Deployment controller and scheduler: which pods are wanted, and on which node each runs.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use serde_json::{Value, json};

use crate::apiserver::Store;
use crate::config::{LabConfig, Node};
use crate::objects::{Key, now, random_suffix, set, set_metadata, text};

/// A set of equal pods that somebody asked for: one Deployment, or one bare Pod.
pub(crate) struct Wanted {
    /// The Deployment's or Pod's key.
    pub(crate) owner: Key,
    /// Changes when the pods have to be replaced.
    pub(crate) revision: String,
    pub(crate) replicas: usize,
    /// A Pod object without name suffix, uid and node.
    pub(crate) template: Value,
}

impl Wanted {
    fn deployment(key: &Key, object: &Value) -> Self {
        let template = object.pointer("/spec/template").cloned().unwrap_or_else(|| json!({}));
        let revision = hash(&template);
        let replicas = object.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
        let mut labels = template.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
        set(&mut labels, "pod-template-hash", json!(revision));
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{}-{revision}", key.name),
            "uid": text(object, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true,
        }]);
        let mut pod = template;
        set(&mut pod, "apiVersion", json!("v1"));
        set(&mut pod, "kind", json!("Pod"));
        set_metadata(&mut pod, "namespace", json!(key.namespace));
        set_metadata(&mut pod, "labels", labels);
        set_metadata(&mut pod, "ownerReferences", owner);
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
        Self { owner: key.clone(), revision, replicas, template: pod }
    }

    fn bare(key: &Key, object: &Value) -> Self {
        let revision = hash(object.get("spec").unwrap_or(&Value::Null));
        Self { owner: key.clone(), revision, replicas: 1, template: object.clone() }
    }

    /// Labels may change on a running bare pod.
    pub(crate) fn is_bare(&self) -> bool {
        self.owner.kind == "Pod"
    }

    /// A name for the next pod of the set.
    pub(crate) fn pod_name(&self) -> String {
        if self.is_bare() {
            return self.owner.name.clone();
        }
        format!("{}-{}-{}", self.owner.name, self.revision, random_suffix(5))
    }

    /// Completes the template for one pod, as the API server and the scheduler would.
    pub(crate) fn pod(&self, name: &str, uid: &str, node: Node) -> Value {
        let mut pod = self.template.clone();
        set_metadata(&mut pod, "name", json!(name));
        set_metadata(&mut pod, "uid", json!(uid));
        set_metadata(&mut pod, "creationTimestamp", json!(now()));
        let mut spec = pod.get("spec").cloned().unwrap_or_else(|| json!({}));
        set(&mut spec, "nodeName", json!(node.name()));
        for (field, value) in [("serviceAccountName", json!("default")), ("restartPolicy", json!("Always"))] {
            if spec.get(field).is_none() {
                set(&mut spec, field, value);
            }
        }
        if spec.get("terminationGracePeriodSeconds").is_none() {
            set(&mut spec, "terminationGracePeriodSeconds", json!(30));
        }
        set(&mut pod, "spec", spec);
        pod
    }
}

/// Everything that is to run.
pub(crate) fn wanted(store: &Store) -> Vec<Wanted> {
    let deployments = store.kind("Deployment").map(|(key, object)| Wanted::deployment(key, object));
    deployments.chain(store.pod_templates().iter().map(|(key, object)| Wanted::bare(key, object))).collect()
}

fn hash(value: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    format!("{:010x}", hasher.finish() & 0xff_ffff_ffff)
}

/// The node for the next pod: the one asked for, else the one with the fewest pods of the same
/// owner, then the fewest pods.
pub(crate) fn choose(
    config: &LabConfig,
    spec: &Value,
    same_owner: &[Node],
    all: &[Node],
) -> Result<Node, String> {
    let asked = match text(spec, "/nodeName") {
        "" => text(spec, "/nodeSelector/kubernetes.io~1hostname"),
        name => name,
    };
    if !asked.is_empty() {
        return config
            .node(asked)
            .ok_or_else(|| format!("there is no node {asked:?}: the lab has node1 to node{}", config.nodes));
    }
    let count = |nodes: &[Node], node: Node| nodes.iter().filter(|n| **n == node).count();
    config
        .all_nodes()
        .min_by_key(|node| (count(same_owner, *node), count(all, *node), *node))
        .ok_or_else(|| "the lab has no node".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_one_deployment_spread_over_the_nodes() {
        let config = LabConfig::for_tests("/".as_ref());
        let spec = json!({});
        assert_eq!(choose(&config, &spec, &[], &[Node(1)]), Ok(Node(2)));
        assert_eq!(choose(&config, &spec, &[Node(2)], &[Node(1), Node(1), Node(2)]), Ok(Node(1)));
        assert_eq!(choose(&config, &json!({"nodeName": "node2"}), &[Node(2)], &[]), Ok(Node(2)));
        let selector = json!({"nodeSelector": {"kubernetes.io/hostname": "node1"}});
        assert_eq!(choose(&config, &selector, &[Node(1)], &[]), Ok(Node(1)));
        assert!(choose(&config, &json!({"nodeName": "node3"}), &[], &[]).is_err());
    }
}
