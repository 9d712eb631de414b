//! Facts from YAML, for tests that need no cluster.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::{Fact, Unknown};
use crate::facts::Facts;

/// A cluster in which all is well.
pub(crate) const HEALTHY: &str = include_str!("testing/healthy.yaml");

/// The facts that these documents are.
pub(crate) fn facts(texts: &[&str]) -> Facts {
    let documents: Vec<Value> = texts
        .iter()
        .flat_map(|text| text.split("\n---\n"))
        .filter(|document| document.lines().any(|line| !line.starts_with('#') && !line.trim().is_empty()))
        .map(|document| {
            serde_saphyr::from_str(&document.replace("VERSION", env!("CARGO_PKG_VERSION"))).unwrap()
        })
        .collect();
    let routes = ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute"];
    Facts {
        version: Ok("v1.35.4".to_owned()),
        nodes: all(&documents, &["Node"]),
        namespaces: all(&documents, &["Namespace"]),
        pods: all(&documents, &["Pod"]),
        services: all(&documents, &["Service"]),
        network_policies: all(&documents, &["NetworkPolicy"]),
        service_ranges: all(&documents, &["ServiceCIDR"]),
        kubeadm: one(&documents, "ConfigMap", "kubeadm-config"),
        definitions: all::<CustomResourceDefinition>(&documents, &["CustomResourceDefinition"]),
        routes: all(&documents, &routes),
        meshes: all(&documents, &["XMesh"]),
        gateways: all(&documents, &["GatewayClass", "Gateway", "ListenerSet"]),
        policies: all(&documents, &["BackendTLSPolicy", "XBackend", "XBackendTrafficPolicy"]),
        deployments: all(&documents, &["Deployment"]),
        daemon_sets: all(&documents, &["DaemonSet"]),
        trust: one(&documents, "ConfigMap", "weft-trust"),
        lease: one(&documents, "Lease", "weft-controller"),
    }
}

/// Later documents stand for earlier ones of the same kind and name.
fn all<T: DeserializeOwned>(documents: &[Value], kinds: &[&str]) -> Fact<Vec<T>> {
    let key = |document: &Value| {
        let metadata = &document["metadata"];
        (document["kind"].clone(), metadata["namespace"].clone(), metadata["name"].clone())
    };
    let wanted: Vec<&Value> =
        documents.iter().filter(|one| kinds.iter().any(|kind| one["kind"] == *kind)).collect();
    let last = wanted
        .iter()
        .enumerate()
        .filter(|(i, one)| !wanted.iter().skip(i + 1).any(|later| key(later) == key(one)));
    Ok(last.map(|(_, one)| serde_json::from_value((*one).clone()).unwrap()).collect())
}

fn one<T: DeserializeOwned>(documents: &[Value], kind: &str, name: &str) -> Fact<T> {
    let found = documents.iter().rev().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    match found {
        Some(found) => Ok(serde_json::from_value(found.clone()).unwrap()),
        None => Err(Unknown::Absent(format!("{kind} {name}"))),
    }
}
