//! What the API server refuses in the built-in kinds beyond their types.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::names::{is_dns_label, is_label_value, is_qualified_name};
use crate::object::FieldError;
use crate::schema::{child, element};

type Errors = Vec<FieldError>;

pub(super) fn metadata(object: &Value, is_name: fn(&str) -> bool, errors: &mut Errors) {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    match text("/metadata/name") {
        None => errors.push(FieldError::new("metadata.name", "required field is missing")),
        Some(name) if !is_name(name) => errors.push(name_error("metadata.name", name)),
        Some(_) => {}
    }
    if let Some(namespace) = text("/metadata/namespace").filter(|namespace| !is_dns_label(namespace)) {
        errors.push(name_error("metadata.namespace", namespace));
    }
    labels(object.pointer("/metadata/labels"), "metadata.labels", errors);
}

fn name_error(field: &str, name: &str) -> FieldError {
    let message = format!("{name:?} is not allowed: lower-case letters, digits and '-', ends alphanumeric");
    FieldError::new(field, message)
}

fn labels(labels: Option<&Value>, path: &str, errors: &mut Errors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if !is_qualified_name(key) {
            errors.push(FieldError::new(path, format!("{key:?} is no label name")));
        }
        if !value.as_str().is_some_and(is_label_value) {
            errors.push(FieldError::new(child(path, key), format!("{value} is no label value")));
        }
    }
}

pub(super) fn service(object: &Value, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let of_type = spec.get("type").and_then(Value::as_str).unwrap_or_default();
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&of_type) {
        let message = format!("must be ClusterIP, NodePort, LoadBalancer or ExternalName, is {of_type}");
        errors.push(FieldError::new("spec.type", message));
    }
    let headless = spec.get("clusterIP").is_some_and(|address| address == "None");
    let ports = list(spec, "ports");
    if ports.is_empty() && !headless && of_type != "ExternalName" {
        errors.push(FieldError::new("spec.ports", "required field is missing"));
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (place, port) in ports.iter().enumerate() {
        let path = element("spec.ports", place);
        port_number(port.get("port"), &child(&path, "port"), errors);
        if port.get("targetPort").is_some_and(Value::is_number) {
            port_number(port.get("targetPort"), &child(&path, "targetPort"), errors);
        }
        protocol(port, &path, errors);
        let name = port.get("name").and_then(Value::as_str).unwrap_or_default();
        match name {
            "" if ports.len() > 1 => {
                errors.push(FieldError::new(child(&path, "name"), "required when there are several ports"))
            }
            "" => {}
            name if !is_dns_label(name) => errors.push(name_error(&child(&path, "name"), name)),
            name if !names.insert(name) => {
                errors.push(FieldError::new(child(&path, "name"), format!("{name:?} is there twice")))
            }
            _ => {}
        }
        if !numbers
            .insert((port.get("port").map(Value::to_string), port.get("protocol").map(Value::to_string)))
        {
            errors.push(FieldError::new(path, "another port has the same port and protocol"));
        }
    }
}

fn protocol(port: &Value, path: &str, errors: &mut Errors) {
    let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or_default();
    if !["TCP", "UDP", "SCTP"].contains(&protocol) {
        errors.push(FieldError::new(
            child(path, "protocol"),
            format!("must be TCP, UDP or SCTP, is {protocol}"),
        ));
    }
}

fn port_number(port: Option<&Value>, path: &str, errors: &mut Errors) {
    let number = port.and_then(Value::as_i64).unwrap_or_default();
    if !(1..=65535).contains(&number) {
        errors.push(FieldError::new(path, format!("must be between 1 and 65535, is {number}")));
    }
}

/// The `spec` below `path`, of a pod or of a pod template.
pub(super) fn pod_spec(object: &Value, path: &str, errors: &mut Errors) {
    let path = child(path, "spec");
    let Some(spec) = object.get("spec") else {
        errors.push(FieldError::new(path, "required field is missing"));
        return;
    };
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::new(child(&path, "containers"), "must have at least one container"));
    }
    let mut names = BTreeSet::new();
    for field in ["initContainers", "containers"] {
        for (place, container) in list(spec, field).iter().enumerate() {
            let path = element(&child(&path, field), place);
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            if !is_dns_label(name) {
                errors.push(name_error(&child(&path, "name"), name));
            }
            if !names.insert(name) {
                errors.push(FieldError::new(child(&path, "name"), format!("{name:?} is there twice")));
            }
            for (place, port) in list(container, "ports").iter().enumerate() {
                let path = element(&child(&path, "ports"), place);
                port_number(port.get("containerPort"), &child(&path, "containerPort"), errors);
                protocol(port, &path, errors);
            }
        }
    }
}

/// A Secret of a type that Kubernetes knows holds what the type promises.
pub(super) fn secret(object: &Value, errors: &mut Errors) {
    if object.get("type").and_then(Value::as_str) != Some("kubernetes.io/tls") {
        return;
    }
    for key in ["tls.crt", "tls.key"] {
        let has = |field: &str| object.get(field).and_then(|data| data.get(key)).is_some();
        if !has("data") && !has("stringData") {
            errors.push(FieldError::new(format!("data[{key}]"), "required field is missing"));
        }
    }
}

pub(super) fn deployment(object: &Value, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let replicas = spec.get("replicas").and_then(Value::as_i64).unwrap_or_default();
    if replicas < 0 {
        errors.push(FieldError::new("spec.replicas", format!("must be at least 0, is {replicas}")));
    }
    let template = spec.get("template").unwrap_or(&Value::Null);
    pod_spec(template, "spec.template", errors);
    let of_pod = template.pointer("/metadata/labels");
    labels(of_pod, "spec.template.metadata.labels", errors);
    let wanted = spec.pointer("/selector/matchLabels").and_then(Value::as_object);
    let selects = |(key, value): (&String, &Value)| of_pod.and_then(|labels| labels.get(key)) == Some(value);
    if wanted.is_some_and(|wanted| !wanted.iter().all(selects)) {
        errors.push(FieldError::new(
            "spec.template.metadata.labels",
            "spec.selector does not select these labels",
        ));
    }
    let by_expression = spec.pointer("/selector/matchExpressions").and_then(Value::as_array);
    if wanted.is_none_or(|wanted| wanted.is_empty()) && by_expression.is_none_or(Vec::is_empty) {
        errors.push(FieldError::new("spec.selector", "an empty selector would select every pod"));
    }
}

pub(super) fn endpoint_slice(object: &Value, errors: &mut Errors) {
    let family = object.get("addressType").and_then(Value::as_str).unwrap_or_default();
    if !["IPv4", "IPv6", "FQDN"].contains(&family) {
        errors.push(FieldError::new("addressType", format!("must be IPv4, IPv6 or FQDN, is {family:?}")));
    }
    for (place, endpoint) in list(object, "endpoints").iter().enumerate() {
        let path = child(&element("endpoints", place), "addresses");
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() {
            errors.push(FieldError::new(path.clone(), "must have at least one address"));
        }
        for (place, address) in addresses.iter().enumerate() {
            let address = address.as_str().unwrap_or_default();
            let fits = match (family, address.parse::<IpAddr>()) {
                ("IPv4", Ok(address)) => address.is_ipv4(),
                ("IPv6", Ok(address)) => address.is_ipv6(),
                ("IPv4" | "IPv6", Err(_)) => false,
                _ => true,
            };
            if !fits {
                errors.push(FieldError::new(
                    element(&path, place),
                    format!("{address:?} is no {family} address"),
                ));
            }
        }
    }
    for (place, port) in list(object, "ports").iter().enumerate() {
        protocol(port, &element("ports", place), errors);
    }
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
