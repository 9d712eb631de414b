//! Defaults of the built-in kinds (Kubernetes' `SetDefaults_*`), as far as something in a mesh reads them.

use serde_json::{Map, Value, json};

/// The label by which namespaces are selected.
pub(super) fn namespace(object: &mut Value) {
    let Some(name) = object.pointer("/metadata/name").cloned() else { return };
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if let Some(labels) = metadata.entry("labels").or_insert_with(|| json!({})).as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}

pub(super) fn service(object: &mut Value) {
    let Some(spec) = fields(object, "/spec") else { return };
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    let external = spec.get("type").is_some_and(|kind| kind == "ExternalName");
    if !external {
        default(spec, "internalTrafficPolicy", "Cluster");
    }
    for port in items(spec, "ports") {
        default(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            default(port, "targetPort", number);
        }
    }
}

pub(super) fn pod(object: &mut Value) {
    let Some(spec) = fields(object, "/spec") else { return };
    // Of the service-account admission plugin, which sees pods but no templates.
    default(spec, "serviceAccountName", "default");
    pod_spec(spec);
}

pub(super) fn secret(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        default(fields, "type", "Opaque");
    }
}

pub(super) fn deployment(object: &mut Value) {
    let Some(spec) = fields(object, "/spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "strategy", json!({"type": "RollingUpdate"}));
    if let Some(spec) = fields(object, "/spec/template/spec") {
        pod_spec(spec);
    }
}

pub(super) fn endpoint_slice(object: &mut Value) {
    let Some(slice) = object.as_object_mut() else { return };
    for port in items(slice, "ports") {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    }
}

/// Ingress is always judged; egress where there are rules for it.
pub(super) fn network_policy(object: &mut Value) {
    let Some(spec) = fields(object, "/spec") else { return };
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                default(port, "protocol", "TCP");
            }
        }
    }
    let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    default(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
}

fn pod_spec(spec: &mut Map<String, Value>) {
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["initContainers", "containers"] {
        for container in items(spec, list) {
            for port in items(container, "ports") {
                default(port, "protocol", "TCP");
                if let Some(number) = port.get("containerPort").cloned().filter(|_| host_network) {
                    default(port, "hostPort", number);
                }
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
                    self::probe(probe);
                }
            }
        }
    }
}

fn probe(probe: &mut Map<String, Value>) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        default(probe, field, value);
    }
    if let Some(http) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
        default(http, "path", "/");
        default(http, "scheme", "HTTP");
    }
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        default(grpc, "service", "");
    }
}

fn fields<'v>(object: &'v mut Value, pointer: &str) -> Option<&'v mut Map<String, Value>> {
    object.pointer_mut(pointer)?.as_object_mut()
}

fn items<'v>(
    fields: &'v mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'v mut Map<String, Value>> {
    let items = fields.get_mut(name).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn default(fields: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if fields.get(name).is_none_or(Value::is_null) {
        fields.insert(name.to_owned(), value.into());
    }
}
