//! What the mesh does not cover, said in sentences: nothing of it is hidden behind a green table.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use weft_model::workload::MESH_LABEL;

use crate::check::{Powers, powers};
use crate::facts::Facts;
use crate::mesh::{Mesh, in_host_network, pod_name, pod_namespace};
use crate::output::count;

/// All gaps that the objects show.
pub(super) fn gaps(facts: &Facts, mesh: &Mesh<'_>) -> Vec<String> {
    let mut gaps = host_network(mesh);
    gaps.extend(exempt(mesh));
    gaps.extend(left_out(mesh));
    gaps.extend(datagrams(facts, mesh));
    gaps.extend(around(mesh));
    gaps
}

fn host_network(mesh: &Mesh<'_>) -> Vec<String> {
    let pods = mesh.pods().filter(|pod| in_host_network(pod) && mesh.wants(pod));
    pods.map(|pod| format!("{} is in its node's network: not in the mesh", pod_name(pod))).collect()
}

/// Namespaces that are labelled and never in the mesh.
fn exempt(mesh: &Mesh<'_>) -> Vec<String> {
    let labelled = mesh.namespaces().filter(|one| is_enabled(one) && mesh.is_exempt(&one.name_any()));
    labelled
        .map(|one| {
            format!("Namespace {} is labelled, but exempt: its pods are never enrolled", one.name_any())
        })
        .collect()
}

/// Pods of enrolled namespaces that are labelled out.
fn left_out(mesh: &Mesh<'_>) -> Vec<String> {
    let mut by_namespace: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in mesh.pods() {
        let enrolled =
            mesh.namespace(pod_namespace(pod)).is_some_and(is_enabled) && !mesh.is_exempt(pod_namespace(pod));
        if enrolled && !mesh.wants(pod) {
            *by_namespace.entry(pod_namespace(pod)).or_default() += 1;
        }
    }
    by_namespace
        .into_iter()
        .map(|(namespace, pods)| {
            format!(
                "{} of Namespace {namespace} left out by the label {MESH_LABEL}=disabled",
                count(pods, "pod")
            )
        })
        .collect()
}

fn is_enabled(namespace: &k8s_openapi::api::core::v1::Namespace) -> bool {
    namespace.labels().get(MESH_LABEL).is_some_and(|value| value == "enabled")
}

/// UDP and SCTP of Services in enrolled namespaces.
fn datagrams(facts: &Facts, mesh: &Mesh<'_>) -> Vec<String> {
    let enrolled: Vec<String> =
        mesh.namespaces().filter(|one| is_enabled(one)).map(|one| one.name_any()).collect();
    let services = facts.services.iter().flatten();
    let here = services.filter(|service| service.namespace().is_some_and(|one| enrolled.contains(&one)));
    here.filter_map(uncaptured).collect()
}

fn uncaptured(service: &Service) -> Option<String> {
    let ports = service.spec.as_ref()?.ports.iter().flatten();
    let other = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") != "TCP");
    let list: Vec<String> =
        other.map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or_default())).collect();
    let name = format!("Service {}/{}", service.namespace().unwrap_or_default(), service.name_any());
    (!list.is_empty()).then(|| format!("{name}: {} is not encrypted", list.join(", ")))
}

/// Pods that can change their own rules.
fn around(mesh: &Mesh<'_>) -> Vec<String> {
    let enrolled = mesh.pods().filter(|pod| mesh.enrolled(pod));
    let able = enrolled.filter_map(|pod| match powers(pod) {
        Powers::Asked(what) => {
            Some(format!("{} has {what} and can get around the capture of what it sends", pod_name(pod)))
        }
        Powers::None | Powers::RawByDefault => None,
    });
    able.collect()
}
