//! An object as the API server sends it: JSON that is taken in whatever it says, so that one odd object cannot make a
//! list or a watch fail. What no translation reads is dropped at once; it is most of a cluster's bytes.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::inputs::{Kind, Object, Undecodable};

/// Annotations that say nothing about the object.
const NOISE: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// What is kept of a Pod. The rest, volumes and environments above all, is several times as large and changes while a
/// pod lives; whoever needs another field adds it here.
const POD: &[(&str, &[&str])] = &[
    (
        "metadata",
        &[
            "name",
            "namespace",
            "uid",
            "labels",
            "annotations",
            "ownerReferences",
            "creationTimestamp",
            "deletionTimestamp",
        ],
    ),
    ("spec", &["nodeName", "hostNetwork", "serviceAccountName", "containers", "initContainers"]),
    ("status", &["phase", "podIP", "podIPs", "conditions"]),
];

/// What is kept of a Pod's containers.
const CONTAINER: &[&str] =
    &["name", "ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "restartPolicy"];

/// What is kept of a Pod's conditions, of which only whether it is ready is. The others and their times change while a pod lives.
const CONDITION: &[&str] = &["type", "status"];

/// The key of a ConfigMap with roots.
const ROOTS: &str = "ca.crt";
/// What parameters of Gateways hold at most, in bytes.
const PARAMETERS: usize = 16 * 1024;

/// An object of any kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raw {
    /// Name, namespace, UID and resource version, as far as they can be read.
    meta: ObjectMeta,
    /// Everything, but for managed fields and such.
    pub(crate) json: Value,
}

impl Raw {
    /// A text in the object; empty if it is not there.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// `metadata.generation`; 0 when absent.
    pub(crate) fn generation(&self) -> i64 {
        self.meta.generation.unwrap_or_default()
    }

    /// Decodes it as an object of a kind. Lists of built-in kinds leave out what the kind is, so it is filled in.
    pub(crate) fn decode(mut self, kind: Kind, resource: &ApiResource) -> Result<Object, Undecodable> {
        if let Some(object) = self.json.as_object_mut() {
            object.insert("apiVersion".to_owned(), resource.api_version.as_str().into());
            object.insert("kind".to_owned(), resource.kind.as_str().into());
            match kind {
                Kind::Pod => trim_pod(object),
                Kind::ConfigMap => trim_config_map(object),
                Kind::Namespace => trim_namespace(object),
                _ => {}
            }
        }
        // Two versions of an object that differ in nothing else are the same object. Some are written to.
        if !kind.has_status()
            && let Some(metadata) = self.json.get_mut("metadata").and_then(Value::as_object_mut)
        {
            metadata.remove("resourceVersion");
        }
        Object::decode(self.json)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut json = Value::deserialize(deserializer)?;
        if let Some(metadata) = json.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.retain(|name, _| !NOISE.contains(&name.as_str()));
            }
        }
        let text = |at: &str| json.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let meta = ObjectMeta {
            name: text("/metadata/name"),
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            resource_version: text("/metadata/resourceVersion"),
            generation: json.pointer("/metadata/generation").and_then(Value::as_i64),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, json })
    }
}

impl Serialize for Raw {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

impl From<Value> for Raw {
    fn from(json: Value) -> Self {
        // Taking in JSON cannot fail.
        Self::deserialize(json).unwrap_or_default()
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Of a ConfigMap its roots are kept, and the rest if it can be parameters: there are ConfigMaps of a megabyte.
fn trim_config_map(object: &mut Map<String, Value>) {
    object.remove("binaryData");
    let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) else { return };
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    let others: usize = data.iter().filter(|(key, _)| *key != ROOTS).map(size).sum();
    if others > PARAMETERS {
        data.retain(|key, _| key == ROOTS);
    }
}

/// Annotations and status are written by the leader itself, among others; a translation reads neither.
fn trim_namespace(namespace: &mut Map<String, Value>) {
    namespace.remove("status");
    if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("annotations");
    }
}

fn keep(value: &mut Value, fields: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|field, _| fields.contains(&field.as_str()));
    }
}

fn trim_pod(pod: &mut Map<String, Value>) {
    for (part, kept) in POD {
        if let Some(part) = pod.get_mut(*part) {
            keep(part, kept);
        }
    }
    let conditions = pod.get_mut("status").and_then(|status| status.get_mut("conditions")?.as_array_mut());
    if let Some(conditions) = conditions {
        conditions.retain(|one| one.get("type").is_some_and(|of| of == "Ready"));
        conditions.iter_mut().for_each(|one| keep(one, CONDITION));
    }
    let Some(spec) = pod.get_mut("spec") else { return };
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            keep(container, CONTAINER);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::kinds;

    #[test]
    fn what_no_translation_reads_is_dropped() {
        let raw = Raw::from(json!({
            "metadata": {
                "name": "a", "namespace": "shop", "uid": "u", "resourceVersion": "7", "managedFields": [{"f": 1}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "yes"},
            },
            "spec": {
                "nodeName": "n", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "env": [{"name": "E"}], "ports": [{"containerPort": 80}]}],
            },
            "status": {"phase": "Running", "qosClass": "Burstable", "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        }));
        assert_eq!(raw.text("/metadata/annotations/kept"), "yes");
        assert_eq!(raw.json.pointer("/metadata/managedFields"), None);
        assert_eq!(raw.meta().resource_version.as_deref(), Some("7"));
        let resource = kinds::resource(Kind::Pod, "v1");
        let Object::Pod(_, pod) = raw.decode(Kind::Pod, &resource).unwrap() else { panic!("no pod") };
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(pod.metadata.annotations.as_ref().unwrap().len(), 1);
        assert_eq!(pod.metadata.resource_version, None);
        assert_eq!((spec.volumes.as_ref(), spec.containers[0].env.as_ref()), (None, None));
        assert_eq!(spec.containers[0].ports.as_ref().unwrap()[0].container_port, 80);
        let status = pod.status.as_ref().unwrap();
        let ready =
            PodCondition { type_: "Ready".to_owned(), status: "True".to_owned(), ..PodCondition::default() };
        assert_eq!((status.qos_class.as_ref(), status.conditions.as_ref()), (None, Some(&vec![ready])));
    }

    #[test]
    fn whatever_json_is_taken_in() {
        for odd in [json!(5), json!([]), json!({}), json!({"metadata": 5}), json!({"metadata": {"name": 7}})]
        {
            let raw = Raw::from(odd.clone());
            assert_eq!((raw.json, raw.meta.name), (odd, None));
        }
    }
}
