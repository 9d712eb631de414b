//! Pods, as a proxy needs to know them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::name::{ObjectName, Text};

/// One pod of the cluster that is neither terminal nor in the host's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The pod's UID: the key that a pod keeps for life. Names and addresses are reused.
    pub uid: Text,
    /// Namespace and name of the pod.
    pub pod: ObjectName,
    /// The name telemetry uses: the controlling owner's (Deployment, Job, …), else the pod's, so that it is bounded.
    pub workload: Text,
    /// The node the pod is bound to.
    pub node: Text,
    /// Every address of the pod.
    pub addresses: Vec<IpAddr>,
    /// The identity of the pod's service account.
    pub identity: Identity,
    /// How to reach it.
    pub protocol: WorkloadProtocol,
    /// What its node's proxy does with plaintext callers.
    pub mtls: MtlsMode,
    /// Ports of the pod that admit plaintext callers although `mtls` is strict ([`PLAINTEXT_PORTS_LABEL`]).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub plaintext_ports: BTreeSet<u16>,
    /// Ports of the pod whose application sees the pod's own address as its callers', so that connections to it serve
    /// callers of any address ([`PROXY_SOURCE_PORTS_LABEL`]).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub proxy_source_ports: BTreeSet<u16>,
    /// Set when packet filters of the host judge its traffic, and by whose order: `NetworkPolicy shop/db`, or the
    /// definition of another policy engine's kind. Its calls on its own node then pass the host as well (rule 24).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtered_by: Option<Text>,
    /// It wants no UDP that routes lead to it ([`UDP_LABEL`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refuses_udp: bool,
    /// Entering or leaving the mesh while it runs; `None`: captured if and only if `protocol` is a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
}

impl Workload {
    /// Whether its port admits callers in plaintext.
    pub fn admits_plaintext(&self, port: u16) -> bool {
        self.mtls == MtlsMode::Permissive || self.plaintext_ports.contains(&port)
    }

    /// Whether its node may begin to capture it while it runs: this table says what becomes of its connections then.
    pub fn may_be_captured(&self) -> bool {
        self.protocol == WorkloadProtocol::Tunnel || self.transition == Some(Transition::Enrolling)
    }

    /// Whether its node may stop capturing it: nobody calls it by tunnel any more.
    pub fn may_be_released(&self) -> bool {
        self.protocol == WorkloadProtocol::Plaintext && self.transition.is_none()
    }
}

/// What a running pod is on its way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transition {
    /// To be captured; called in plaintext until its proxy has reported that it serves the pod.
    Enrolling,
    /// To be released, once every proxy knows that it is to be called in plaintext.
    Leaving,
}

/// How a proxy reaches a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkloadProtocol {
    /// Not enrolled: plaintext.
    Plaintext,
    /// Enrolled: mutual TLS on port 15008, ALPN `h2`, `weft-h1` or `weft-h2`.
    Tunnel,
}

/// Whether an enrolled pod's proxy admits callers outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MtlsMode {
    /// Plaintext callers are refused.
    Strict,
    /// Plaintext callers are let in, without an identity.
    Permissive,
}

/// The label on a namespace or a pod that says whether it is part of the mesh: `enabled` or `disabled`; the pod's wins.
pub const MESH_LABEL: &str = "weft-mesh.dev/mesh";

/// The label on a namespace that lets plaintext callers in: `permissive`.
pub const MTLS_LABEL: &str = "weft-mesh.dev/mtls";

/// The label on a pod or a Service that opens ports to plaintext callers also where mutual TLS is demanded: numbers or
/// names of ports, joined by `_` (a label's value has no commas), such as `9090_metrics`.
pub const PLAINTEXT_PORTS_LABEL: &str = "weft-mesh.dev/plaintext-ports";

/// The label on a pod or a Service that gives the caller's address up for the sake of fewer connections to the
/// application; its value is as that of [`PLAINTEXT_PORTS_LABEL`].
pub const PROXY_SOURCE_PORTS_LABEL: &str = "weft-mesh.dev/proxy-source-ports";

/// The label on a namespace or a pod that says whether UDP which routes lead to it, and which is not encrypted, is let
/// through: `refuse`, or anything else; the pod's wins.
pub const UDP_LABEL: &str = "weft-mesh.dev/udp";

/// The label on a namespace that says how new pods enter while its running ones are still being enrolled:
/// `immediate` refuses plaintext callers of new pods at once.
pub const ENROL_LABEL: &str = "weft-mesh.dev/enrol";

/// Namespaces that are always exempt.
const ALWAYS_EXEMPT: [&str; 2] = ["kube-system", "weft-system"];

/// Namespaces whose pods are never enrolled, whatever labels say (dataplane rule 25): kube-system, weft-system, and those that
/// whoever installed Weft has exempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exempt(BTreeSet<Text>);

impl Exempt {
    /// With further ones.
    pub fn with(more: impl IntoIterator<Item: AsRef<str>>) -> Self {
        let mut all = Self::default();
        all.0.extend(more.into_iter().map(|name| Text::from(name.as_ref())));
        all
    }

    /// Whether a namespace is one of them.
    pub fn has(&self, namespace: &str) -> bool {
        self.0.contains(namespace)
    }

    /// All of them, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

impl Default for Exempt {
    fn default() -> Self {
        Self(ALWAYS_EXEMPT.map(Text::from).into())
    }
}

/// The label, always with the name of the controller, on everything that the controller makes for Gateways.
pub const MANAGED_BY_LABEL: &str = "weft-mesh.dev/managed-by";

/// What all labels of ours begin with.
pub const LABEL_PREFIX: &str = "weft-mesh.dev/";

/// Labels with their values; no values: any.
pub type Labels = [(&'static str, &'static [&'static str])];

/// The labels that a namespace may bear.
pub const NAMESPACE_LABELS: &Labels = &[
    (MESH_LABEL, &["enabled", "disabled"]),
    (MTLS_LABEL, &["strict", "permissive"]),
    (ENROL_LABEL, &["immediate"]),
    (UDP_LABEL, &[]),
];

/// The labels that a pod may bear.
pub const POD_LABELS: &Labels = &[
    (MESH_LABEL, &["enabled", "disabled"]),
    (PLAINTEXT_PORTS_LABEL, &[]),
    (PROXY_SOURCE_PORTS_LABEL, &[]),
    (UDP_LABEL, &[]),
    (MANAGED_BY_LABEL, &[]),
];

/// What of an object's labels means nothing to Weft although it is of Weft's, and what to write instead; each begins with
/// a verb, its subject is the object.
pub fn misunderstood<'l>(
    labels: impl IntoIterator<Item = (&'l String, &'l String)>,
    known: &Labels,
) -> Vec<String> {
    let ours = labels.into_iter().filter(|(key, _)| key.starts_with(LABEL_PREFIX));
    let judge = |(key, value): (&String, &String)| match known.iter().find(|(name, _)| name == key) {
        Some((_, [])) => None,
        Some((_, values)) if values.contains(&value.as_str()) => None,
        Some((_, values)) => {
            Some(format!("has {key}={value}, which counts as not there: write {}", values.join(" or ")))
        }
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            Some(format!("has the label {key}, which means nothing here: {}", names.join(", ")))
        }
    };
    ours.filter_map(judge).collect()
}

/// Whether a pod is to be part of the mesh, by the values of [`MESH_LABEL`] on its namespace and on itself.
/// Controller, agent and command line all judge by this one function. A value that is neither word counts as absent.
pub fn is_enrolled(
    exempt: &Exempt,
    namespace: &str,
    namespace_label: Option<&str>,
    pod_label: Option<&str>,
) -> bool {
    let said = |label: Option<&str>| match label {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    };
    !exempt.has(namespace) && said(pod_label).or_else(|| said(namespace_label)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::{Exempt, is_enrolled};

    #[test]
    fn pod_label_wins_over_namespace_label() {
        for (namespace, namespace_label, pod_label, enrolled) in [
            ("shop", None, None, false),
            ("shop", Some("enabled"), None, true),
            ("shop", Some("enabled"), Some("disabled"), false),
            ("shop", None, Some("enabled"), true),
            ("shop", Some("disabled"), Some("enabled"), true),
            ("shop", Some("enabled"), Some("maybe"), true),
            ("kube-system", Some("enabled"), Some("enabled"), false),
            ("storage", Some("enabled"), Some("enabled"), false),
        ] {
            assert_eq!(
                is_enrolled(&Exempt::with(["storage"]), namespace, namespace_label, pod_label),
                enrolled,
                "{namespace} {pod_label:?}"
            );
        }
    }
}
