//! The kinds that the lab takes, and the checks that an API server makes on every object.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::objects::{Key, decode, text};

/// Core kinds: group/version, kind, namespaced.
const CORE: [(&str, &str, bool); 9] = [
    ("v1", "Namespace", false),
    ("v1", "ServiceAccount", true),
    ("v1", "Service", true),
    ("v1", "ConfigMap", true),
    ("v1", "Pod", true),
    ("apps/v1", "Deployment", true),
    ("discovery.k8s.io/v1", "EndpointSlice", true),
    ("v1", "Node", false),
    ("v1", "Secret", true),
];

/// Gateway API kinds of group `gateway.networking.k8s.io` and whether they are namespaced.
const GATEWAY: [(&str, bool); 8] = [
    ("HTTPRoute", true),
    ("GRPCRoute", true),
    ("TCPRoute", true),
    ("TLSRoute", true),
    ("UDPRoute", true),
    ("ReferenceGrant", true),
    ("Gateway", true),
    ("GatewayClass", false),
];

/// The key of an object; the namespace defaults as kubectl would.
pub(crate) fn key(object: &Value) -> Key {
    let mut key = Key::of(object);
    if !namespaced(&key.kind) {
        key.namespace.clear();
    } else if key.namespace.is_empty() {
        "default".clone_into(&mut key.namespace);
    }
    key
}

fn namespaced(kind: &str) -> bool {
    let core = CORE.iter().find(|k| k.1 == kind).map(|k| k.2);
    core.or_else(|| GATEWAY.iter().find(|k| k.0 == kind).map(|k| k.1)).unwrap_or(true)
}

/// Refuses what an API server would refuse about kind, version, name and core types.
pub(crate) fn admit(key: &Key, object: &Value) -> Result<(), String> {
    let version = text(object, "/apiVersion");
    let known = CORE.iter().any(|k| k.0 == version && k.1 == key.kind);
    let gateway = version.split_once('/').is_some_and(|(group, _)| group == "gateway.networking.k8s.io");
    if !known && !(gateway && GATEWAY.iter().any(|k| k.0 == key.kind)) {
        return Err(format!(
            "no matches for kind {:?} in version {version:?}: the lab knows Namespace, ServiceAccount, Service, ConfigMap, \
             Pod, Deployment, EndpointSlice and the Gateway API kinds",
            key.kind
        ));
    }
    check_name(&key.name)?;
    match key.kind.as_str() {
        "Service" => typed::<k8s_openapi::api::core::v1::Service>(object),
        "Pod" => typed::<k8s_openapi::api::core::v1::Pod>(object),
        "Deployment" => deployment(object),
        "EndpointSlice" => typed::<k8s_openapi::api::discovery::v1::EndpointSlice>(object),
        "ConfigMap" => typed::<k8s_openapi::api::core::v1::ConfigMap>(object),
        "Node" => Err("nodes are the lab's own: choose their number with --nodes".to_owned()),
        _ => Ok(()),
    }
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<(), String> {
    decode::<T>(object).map(drop)
}

fn deployment(object: &Value) -> Result<(), String> {
    typed::<k8s_openapi::api::apps::v1::Deployment>(object)?;
    let selector = object.pointer("/spec/selector/matchLabels").unwrap_or(&Value::Null);
    let labels = object.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
    if !crate::objects::selects(selector, labels) {
        return Err("spec.template.metadata.labels: `selector` does not match template `labels`".to_owned());
    }
    Ok(())
}

/// RFC 1123 subdomain, as Kubernetes demands of names.
fn check_name(name: &str) -> Result<(), String> {
    let part_ok = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.is_empty() {
        return Err("metadata.name: Required value".to_owned());
    }
    if name.len() > 253 || !name.split('.').all(part_ok) {
        return Err(format!("metadata.name: {name:?} is not a lowercase RFC 1123 subdomain"));
    }
    Ok(())
}
