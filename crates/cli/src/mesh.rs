//! Which pods are in the mesh, by their labels, and what their nodes' agents say of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodCondition};
use kube::ResourceExt as _;
use weft_model::workload::{Exempt, MESH_LABEL, is_enrolled};

use crate::cluster::Fact;
use crate::facts::Facts;

/// The condition on a pod by which its node's agent says that kernel and proxy have it.
pub(crate) const MESHED: &str = "weft-mesh.dev/Meshed";

/// The pods, beside the namespaces that decide about them.
pub(crate) struct Mesh<'a> {
    namespaces: BTreeMap<&'a str, &'a Namespace>,
    pods: &'a [Pod],
    /// Only this namespace is asked about.
    only: Option<&'a str>,
    exempt: Exempt,
}

impl<'a> Mesh<'a> {
    /// Fails when pods or namespaces are not known.
    pub(crate) fn of(facts: &'a Facts, only: Option<&'a str>) -> Fact<Self> {
        let namespaces = facts.namespaces.as_ref().map_err(Clone::clone)?;
        let pods = facts.pods.as_ref().map_err(Clone::clone)?;
        let namespaces = namespaces
            .iter()
            .filter_map(|namespace| Some((namespace.metadata.name.as_deref()?, namespace)))
            .collect();
        Ok(Self { namespaces, pods, only, exempt: exempt(facts) })
    }

    /// A namespace by its name.
    pub(crate) fn namespace(&self, name: &str) -> Option<&'a Namespace> {
        self.namespaces.get(name).copied()
    }

    /// Namespaces that are asked about.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &'a Namespace> {
        let only = self.only;
        self.namespaces
            .iter()
            .filter(move |(name, _)| only.is_none_or(|only| only == **name))
            .map(|(_, namespace)| *namespace)
    }

    /// Pods that are asked about and have not ended.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &'a Pod> {
        let only = self.only;
        self.everywhere().filter(move |pod| only.is_none_or(|only| only == pod_namespace(pod)))
    }

    /// Pods of all namespaces that have not ended.
    pub(crate) fn everywhere(&self) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(|pod| !has_ended(pod))
    }

    /// Whether the labels ask for the pod to be in the mesh.
    pub(crate) fn wants(&self, pod: &Pod) -> bool {
        let name = pod_namespace(pod);
        let of_namespace = self.namespace(name).and_then(|namespace| namespace.labels().get(MESH_LABEL));
        let of_pod = pod.labels().get(MESH_LABEL);
        is_enrolled(&self.exempt, name, of_namespace.map(String::as_str), of_pod.map(String::as_str))
    }

    /// Whether a namespace is never in the mesh, whatever labels say.
    pub(crate) fn is_exempt(&self, namespace: &str) -> bool {
        self.exempt.has(namespace)
    }

    /// Whether the pod is to be in the mesh: its labels ask for it, and it has a network of its own.
    pub(crate) fn enrolled(&self, pod: &Pod) -> bool {
        !in_host_network(pod) && self.wants(pod)
    }
}

/// The namespaces that the agents are told to keep out of the mesh. Where they may not be read, those that always are.
fn exempt(facts: &Facts) -> Exempt {
    let sets = facts.daemon_sets.iter().flatten().filter(|set| set.name_any() == "weft-agent");
    let pods = sets.filter_map(|set| set.spec.template.spec.as_ref());
    let words =
        pods.flat_map(|pod| &pod.containers).flat_map(|one| one.command.iter().chain(&one.args)).flatten();
    let named = words.filter_map(|word| word.strip_prefix("--exempt-namespace="));
    Exempt::with(named.flat_map(|names| names.split(',')))
}

/// `Pod shop/web`.
pub(crate) fn pod_name(pod: &Pod) -> String {
    format!("Pod {}/{}", pod_namespace(pod), pod.name_any())
}

/// The pod's namespace.
pub(crate) fn pod_namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The node that the pod runs on.
pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The pod shares its node's network.
pub(crate) fn in_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default()
}

/// The pod has been given addresses.
pub(crate) fn has_address(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty()))
}

/// The pod's addresses.
pub(crate) fn addresses(pod: &Pod) -> impl Iterator<Item = std::net::IpAddr> {
    let addresses = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    addresses.into_iter().flatten().filter_map(|address| address.ip.parse().ok())
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A condition of a pod.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// All of the pod's containers are ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// `5 s`, `3 min`, `2 h`, `4 d`.
pub(crate) fn age(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second().saturating_sub(from.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
