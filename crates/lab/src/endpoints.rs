//! Plays the EndpointSlice controller: for every Service with a selector, slices per address
//! family and per set of resolved ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::apiserver::Store;
use crate::config::Node;
use crate::objects::{Key, selects, text};

/// What the endpoints of a pod depend on.
pub(crate) struct Backend<'a> {
    /// The Pod object.
    pub(crate) pod: &'a Value,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
}

impl Backend<'_> {
    /// Node and zone.
    fn place(&self) -> (&str, Option<&'static str>) {
        let node = text(self.pod, "/spec/nodeName");
        (node, Node::named(node).map(Node::zone))
    }
}

/// All slices of all Services with a selector.
pub(crate) fn slices(store: &Store, backends: &[Backend<'_>]) -> Vec<(Key, Value)> {
    store
        .kind("Service")
        .filter(|(_, service)| service.pointer("/spec/selector").is_some())
        .flat_map(|(key, service)| service_slices(key, service, backends))
        .collect()
}

fn service_slices(key: &Key, service: &Value, backends: &[Backend<'_>]) -> Vec<(Key, Value)> {
    let families = service.pointer("/spec/ipFamilies").and_then(Value::as_array).cloned().unwrap_or_default();
    let selector = service.pointer("/spec/selector").unwrap_or(&Value::Null);
    let unready_too =
        service.pointer("/spec/publishNotReadyAddresses").and_then(Value::as_bool).unwrap_or(false);
    let mut all = Vec::new();
    for family in families.iter().filter_map(Value::as_str) {
        // Pods may map a named target port to different numbers: a slice per outcome.
        let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
        for backend in backends {
            let labels = backend.pod.pointer("/metadata/labels").unwrap_or(&Value::Null);
            let same_namespace = text(backend.pod, "/metadata/namespace") == key.namespace;
            let address = backend.addresses.iter().find(|ip| ip.is_ipv6() == (family == "IPv6"));
            let (true, true, Some(address)) = (same_namespace, selects(selector, labels), address) else {
                continue;
            };
            let ports = resolved_ports(service, backend.pod);
            let group = groups.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new()));
            let near = text(service, "/spec/trafficDistribution");
            group.1.push(with_hints(endpoint(backend, *address, unready_too), near));
        }
        if groups.is_empty() {
            groups.insert(String::new(), (json!([]), Vec::new()));
        }
        for (index, (ports, endpoints)) in groups.into_values().enumerate() {
            all.push(slice(key, service, family, index, ports, endpoints));
        }
    }
    all
}

fn endpoint(backend: &Backend<'_>, address: IpAddr, unready_too: bool) -> Value {
    let serving = backend.ready;
    let (node, zone) = backend.place();
    json!({
        "addresses": [address],
        "conditions": {
            "ready": unready_too || (serving && !backend.terminating),
            "serving": serving,
            "terminating": backend.terminating,
        },
        "nodeName": node,
        "zone": zone,
        "targetRef": {
            "kind": "Pod",
            "namespace": text(backend.pod, "/metadata/namespace"),
            "name": text(backend.pod, "/metadata/name"),
            "uid": text(backend.pod, "/metadata/uid"),
        },
    })
}

/// Whom an endpoint is meant for by its Service's `trafficDistribution`: its own zone, and its own node where that comes
/// first. Those that are not ready have no hints.
fn with_hints(mut endpoint: Value, near: &str) -> Value {
    let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(false);
    let of = |field: &str| json!([{ "name": endpoint.get(field) }]);
    let hints = match near {
        _ if !ready => return endpoint,
        "PreferClose" | "PreferSameZone" => json!({ "forZones": of("zone") }),
        "PreferSameNode" => json!({ "forZones": of("zone"), "forNodes": of("nodeName") }),
        _ => return endpoint,
    };
    crate::objects::set(&mut endpoint, "hints", hints);
    endpoint
}

fn resolved_ports(service: &Value, pod: &Value) -> Value {
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let resolved = ports.iter().filter_map(|port| {
        let target = port.get("targetPort").or_else(|| port.get("port"))?;
        let number = target.as_u64().or_else(|| named_port(pod, target.as_str()?))?;
        let mut out = json!({"name": text(port, "/name"), "port": number, "protocol": port.get("protocol").cloned().unwrap_or_else(|| json!("TCP"))});
        if let (Some(app), Some(map)) = (port.get("appProtocol"), out.as_object_mut()) {
            map.insert("appProtocol".to_owned(), app.clone());
        }
        Some(out)
    });
    Value::Array(resolved.collect())
}

fn named_port(pod: &Value, name: &str) -> Option<u64> {
    let containers = pod.pointer("/spec/containers")?.as_array()?;
    let mut ports = containers.iter().filter_map(|c| c.get("ports")?.as_array()).flatten();
    ports.find(|p| text(p, "/name") == name)?.get("containerPort")?.as_u64()
}

fn slice(
    key: &Key,
    service: &Value,
    family: &str,
    index: usize,
    ports: Value,
    endpoints: Vec<Value>,
) -> (Key, Value) {
    let mut name = format!("{}-{}", key.name, family.to_lowercase());
    if index > 0 {
        name += &format!("-{index}");
    }
    let slice_key = Key::new("EndpointSlice", &key.namespace, &name);
    let mut labels = json!({
        "kubernetes.io/service-name": key.name,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    if text(service, "/spec/clusterIP") == "None" {
        crate::objects::set(&mut labels, "service.kubernetes.io/headless", json!(""));
    }
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": key.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": key.name,
                "uid": text(service, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    });
    (slice_key, value)
}
