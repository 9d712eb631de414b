//! Checks of what is enrolled: labels, pods in the mesh, and what gets around it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt as _;
use weft_model::workload::{self, MESH_LABEL, NAMESPACE_LABELS, POD_LABELS};

use super::list::View;
use super::verdict::{Finding, Verdict, error, info, warning};
use crate::mesh::{MESHED, Mesh, condition, has_address, in_host_network, pod_name, pod_namespace};
use crate::output::count;

/// Containers of other meshes.
const SIDECARS: &[(&str, &str)] = &[
    ("istio-proxy", "Istio"),
    ("linkerd-proxy", "Linkerd"),
    ("kuma-sidecar", "Kuma"),
    ("consul-dataplane", "Consul"),
];

/// WEFT020.
pub(super) fn namespace_labels(view: &View<'_>) -> Verdict {
    let mesh = Mesh::of(view.facts, view.namespace)?;
    let mut findings = Vec::new();
    for namespace in mesh.namespaces() {
        let object = format!("Namespace {}", namespace.name_any());
        findings.extend(misunderstood(&object, namespace.labels(), NAMESPACE_LABELS));
        let enrolled = namespace.labels().get(MESH_LABEL).is_some_and(|value| value == "enabled");
        if enrolled && mesh.is_exempt(&namespace.name_any()) {
            findings.push(warning(object, "is labelled, but exempt: its pods are never enrolled"));
        }
    }
    Ok(findings)
}

/// WEFT021.
pub(super) fn pod_labels(view: &View<'_>) -> Verdict {
    let mesh = Mesh::of(view.facts, view.namespace)?;
    Ok(mesh.pods().flat_map(|pod| misunderstood(&pod_name(pod), pod.labels(), POD_LABELS)).collect())
}

fn misunderstood(object: &str, labels: &BTreeMap<String, String>, known: &workload::Labels) -> Vec<Finding> {
    workload::misunderstood(labels, known).into_iter().map(|what| error(object, what)).collect()
}

/// WEFT022.
pub(super) fn meshed(view: &View<'_>) -> Verdict {
    let mesh = Mesh::of(view.facts, view.namespace)?;
    let enrolled = mesh.pods().filter(|pod| has_address(pod) && mesh.enrolled(pod));
    let judge = |pod: &Pod| {
        // A pod that is ending leaves the mesh by itself.
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let Some(condition) = condition(pod, MESHED) else {
            return Some(error(
                pod_name(pod),
                format!("has no condition {MESHED}: is its node's agent ready?"),
            ));
        };
        let reason = condition.reason.as_deref().unwrap_or("no reason");
        let message = condition.message.as_deref().unwrap_or("no message");
        (condition.status != "True").then(|| error(pod_name(pod), format!("{reason}: {message}")))
    };
    Ok(enrolled.filter_map(judge).collect())
}

/// WEFT023.
pub(super) fn host_network(view: &View<'_>) -> Verdict {
    let mesh = Mesh::of(view.facts, view.namespace)?;
    let outside = mesh.pods().filter(|pod| in_host_network(pod) && mesh.wants(pod));
    let message = "is in its node's network and therefore not in the mesh: strict pods refuse its calls";
    Ok(outside.map(|pod| warning(pod_name(pod), message)).collect())
}

/// WEFT024.
pub(super) fn capabilities(view: &View<'_>) -> Verdict {
    let mesh = Mesh::of(view.facts, view.namespace)?;
    let mut findings = Vec::new();
    let mut by_default: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in mesh.pods().filter(|pod| mesh.enrolled(pod)) {
        match powers(pod) {
            Powers::None => {}
            Powers::RawByDefault => *by_default.entry(pod_namespace(pod)).or_default() += 1,
            Powers::Asked(what) => findings.push(warning(
                pod_name(pod),
                format!("has {what}: it can get around the capture of what it sends itself"),
            )),
        }
    }
    for (namespace, pods) in by_default {
        findings.push(info(
            format!("Namespace {namespace}"),
            format!(
                "{} run as root and do not drop NET_RAW, which many runtimes give by default: \
                 they can get around the capture of what they send themselves",
                count(pods, "pod")
            ),
        ));
    }
    Ok(findings)
}

/// What a pod's containers can do to their own network.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Powers {
    /// Nothing.
    None,
    /// NET_RAW, which nobody asked for and nobody dropped.
    RawByDefault,
    /// What somebody asked for.
    Asked(String),
}

/// The most powerful container decides.
pub(crate) fn powers(pod: &Pod) -> Powers {
    let Some(spec) = &pod.spec else { return Powers::None };
    let non_root_pod = spec.security_context.as_ref().is_some_and(|context| {
        context.run_as_non_root == Some(true) || context.run_as_user.is_some_and(|user| user != 0)
    });
    let mut default = false;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let context = container.security_context.as_ref();
        if context.and_then(|context| context.privileged) == Some(true) {
            return Powers::Asked("a privileged container".to_owned());
        }
        let capabilities = context.and_then(|context| context.capabilities.as_ref());
        let added = capabilities.and_then(|capabilities| capabilities.add.as_ref()).into_iter().flatten();
        let mut added = added.map(|name| name.trim_start_matches("CAP_"));
        if let Some(name) = added.find(|name| matches!(*name, "NET_ADMIN" | "NET_RAW" | "SYS_ADMIN" | "ALL"))
        {
            return Powers::Asked(format!("the capability {name}"));
        }
        default |= keeps_raw(container, non_root_pod);
    }
    if default { Powers::RawByDefault } else { Powers::None }
}

/// Whether the runtime's default leaves NET_RAW to the container: to root only.
fn keeps_raw(container: &Container, non_root_pod: bool) -> bool {
    let context = container.security_context.as_ref();
    let user = context.and_then(|context| context.run_as_user);
    let non_root = match user {
        Some(user) => user != 0,
        None => non_root_pod || context.and_then(|context| context.run_as_non_root) == Some(true),
    };
    let capabilities = context.and_then(|context| context.capabilities.as_ref());
    let mut dropped = capabilities.and_then(|capabilities| capabilities.drop.as_ref()).into_iter().flatten();
    !non_root && !dropped.any(|name| matches!(name.trim_start_matches("CAP_"), "ALL" | "NET_RAW"))
}

/// WEFT025.
pub(super) fn sidecars(view: &View<'_>) -> Verdict {
    let mesh = Mesh::of(view.facts, view.namespace)?;
    let mut findings = Vec::new();
    for pod in mesh.pods().filter(|pod| mesh.enrolled(pod)) {
        let containers = pod.spec.iter().flat_map(|spec| {
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|one| one.name.as_str())
        });
        let mut foreign = containers.filter_map(|name| SIDECARS.iter().find(|(sidecar, _)| *sidecar == name));
        if let Some((container, mesh)) = foreign.next() {
            let message = format!(
                "has {mesh}'s sidecar ({container}), and two meshes cannot capture one pod: take it out of one of them"
            );
            findings.push(error(pod_name(pod), message));
        }
    }
    Ok(findings)
}
