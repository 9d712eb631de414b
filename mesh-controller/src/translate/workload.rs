//! Pods: who they are, where they run, how they are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use weft_model::workload::{
    ENROL_LABEL, MTLS_LABEL, MtlsMode, Transition, UDP_LABEL, Workload, WorkloadProtocol,
};
use weft_model::{Identity, ObjectName, Text};

use super::Translated;
use super::network_policy::Filters;
use crate::enrolment::{Enrolment, Leaving};
use crate::inputs::Inputs;

/// The live pods, with indexes.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    by_uid: BTreeMap<Text, Workload>,
    by_address: BTreeMap<IpAddr, Text>,
    /// Addresses that a live pod claims and another is taken to have: address and UID, and the pod's name.
    contested: BTreeMap<(IpAddr, Text), ObjectName>,
}

impl Workloads {
    pub(crate) fn has_uid(&self, uid: &str) -> bool {
        self.by_uid.contains_key(uid)
    }

    /// The UID of the pod that owns an address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Text> {
        self.by_address.get(&address)
    }

    /// The pod of this UID.
    pub(crate) fn by_uid_mut(&mut self, uid: &str) -> Option<&mut Workload> {
        self.by_uid.get_mut(uid)
    }

    /// The pod of this UID and the one that its address is taken to be of, where both claim it.
    pub(crate) fn rivals(&self, uid: &str, address: IpAddr) -> Option<(&ObjectName, &ObjectName)> {
        let claimant = self.contested.get(&(address, uid.into()))?;
        let owner = self.by_uid.get(self.at(address)?)?;
        Some((claimant, &owner.pod))
    }

    pub(crate) fn into_workloads(self) -> impl Iterator<Item = Workload> {
        self.by_uid.into_values()
    }
}

/// Converts every pod that is live, bound to a node and in a network of its own. Also notes what runs on which node.
pub(crate) fn convert(inputs: &Inputs, out: &mut Translated) -> Workloads {
    let mut candidates: Vec<(Seniority, Workload)> = Vec::new();
    let filters = Filters::of(inputs);
    for (name, pod) in &inputs.pods {
        let Some(mut workload) = convert_pod(inputs, name, pod) else { continue };
        workload.filtered_by = filters.of_pod(name, pod);
        // A pod that is served still needs what it calls by, until its node has let go of its last connection.
        let Enrolment { served, parting, .. } = &inputs.enrolment;
        let carried = served.contains(&workload.uid) || parting.contains(&workload.uid);
        if carried || inputs.is_wanted(name, pod) {
            let node = out.nodes.entry(workload.node.clone()).or_default();
            node.identities.insert(workload.identity.clone());
            node.namespaces.insert(name.namespace.clone());
        }
        workload.addresses = addresses(name, pod, &mut out.notices);
        if !workload.addresses.is_empty() {
            candidates.push((Seniority::of(pod), workload));
        }
    }
    // The newest running pod wins an address that several claim: an old one's status can be stale, and an address
    // that meant two pods would mean two identities.
    candidates.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.uid.cmp(&other.uid)));
    let mut workloads = Workloads::default();
    for (_, workload) in candidates {
        workloads.add(workload, &mut out.notices);
    }
    workloads
}

impl Workloads {
    fn add(&mut self, mut workload: Workload, notices: &mut BTreeSet<String>) {
        if let Some(other) = self.by_uid.get(&workload.uid) {
            notices.insert(format!(
                "pods {} and {} have the same UID {}: the second is left out",
                other.pod, workload.pod, workload.uid
            ));
            return;
        }
        let owners = &self.by_address;
        let (mine, taken): (Vec<IpAddr>, Vec<IpAddr>) =
            workload.addresses.iter().partition(|address| !owners.contains_key(address));
        for address in taken {
            self.contested.insert((address, workload.uid.clone()), workload.pod.clone());
            let owner = owners.get(&address).and_then(|uid| self.by_uid.get(uid)).map(|w| w.pod.to_string());
            notices.insert(format!(
                "pod {} and the newer running pod {} both claim {address}: it is taken to be the newer one's; \
                 if both run, the cluster's network gave out one address twice",
                workload.pod,
                owner.unwrap_or_default()
            ));
        }
        if mine.is_empty() {
            return;
        }
        self.by_address.extend(mine.iter().map(|address| (*address, workload.uid.clone())));
        workload.addresses = mine;
        self.by_uid.insert(workload.uid.clone(), workload);
    }
}

/// Which of two pods that claim one address is believed: the greater.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seniority {
    running: bool,
    created: i64,
}

impl Seniority {
    fn of(pod: &Pod) -> Self {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let created = pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        Self { running: phase == Some("Running") && pod.metadata.deletion_timestamp.is_none(), created }
    }
}

/// A pod that is neither terminal nor unbound nor in the host's network.
#[derive(Clone, Copy, Debug)]
pub struct LivePod<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// The node it is bound to.
    pub node: &'a str,
    pod: &'a Pod,
}

impl<'a> LivePod<'a> {
    /// `None`: it is not live.
    pub fn of(pod: &'a Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let node = spec.node_name.as_deref().filter(|node| !node.is_empty())?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) || spec.host_network == Some(true) {
            return None;
        }
        Some(Self { uid: pod.metadata.uid.as_deref()?, node, pod })
    }

    /// Whether its network has been made.
    pub fn has_address(&self) -> bool {
        let status = self.pod.status.as_ref();
        status
            .is_some_and(|status| status.pod_ip.is_some() || status.pod_ips.iter().flatten().next().is_some())
    }
}

/// Everything but the addresses; `None` for a pod that is not live.
fn convert_pod(inputs: &Inputs, name: &ObjectName, pod: &Pod) -> Option<Workload> {
    let LivePod { uid, node, .. } = LivePod::of(pod)?;
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let (protocol, mtls, transition) = way(inputs, name, pod, uid);
    Some(Workload {
        uid: uid.into(),
        pod: name.clone(),
        workload: owner_name(name, pod),
        node: node.into(),
        addresses: Vec::new(),
        identity: Identity {
            trust_domain: inputs.mesh.trust_domain.clone(),
            namespace: name.namespace.clone(),
            service_account: account.filter(|name| !name.is_empty()).unwrap_or("default").into(),
        },
        plaintext_ports: BTreeSet::new(),
        proxy_source_ports: BTreeSet::new(),
        refuses_udp: refuses_udp(inputs, name, pod),
        protocol,
        mtls,
        filtered_by: None,
        transition,
    })
}

fn refuses_udp(inputs: &Inputs, name: &ObjectName, pod: &Pod) -> bool {
    let own = pod.metadata.labels.as_ref().and_then(|labels| labels.get(UDP_LABEL));
    let said = own.map(String::as_str).or_else(|| inputs.namespace_label(&name.namespace, UDP_LABEL));
    said == Some("refuse")
}

/// How a pod is called, and what its proxy does with plaintext. In doubt the label counts: a tunnel to a pod that is
/// not served is refused, where plaintext would go around the mesh.
fn way(
    inputs: &Inputs,
    name: &ObjectName,
    pod: &Pod,
    uid: &str,
) -> (WorkloadProtocol, MtlsMode, Option<Transition>) {
    let enrolment = &inputs.enrolment;
    if !inputs.is_wanted(name, pod) {
        // Nobody captures it, or its proxy is to let go of it: plaintext is how it is called.
        return match enrolment.leaving.get(uid) {
            None => (WorkloadProtocol::Plaintext, MtlsMode::Permissive, None),
            Some(Leaving::Permitted) => (WorkloadProtocol::Tunnel, MtlsMode::Permissive, None),
            Some(Leaving::Told) => {
                (WorkloadProtocol::Plaintext, MtlsMode::Permissive, Some(Transition::Leaving))
            }
        };
    }
    let label = |label| inputs.namespace_label(&name.namespace, label);
    let mode = match label(MTLS_LABEL) {
        Some("permissive") => MtlsMode::Permissive,
        _ => MtlsMode::Strict,
    };
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    match enrolment.enrolling.get(&name.namespace) {
        None => (WorkloadProtocol::Tunnel, mode, None),
        Some(since)
            if label(ENROL_LABEL) == Some("immediate") && created.is_some_and(|time| time > *since) =>
        {
            (WorkloadProtocol::Tunnel, mode, None)
        }
        Some(_) if enrolment.served.contains(uid) => (WorkloadProtocol::Tunnel, MtlsMode::Permissive, None),
        Some(_) => (WorkloadProtocol::Plaintext, MtlsMode::Permissive, Some(Transition::Enrolling)),
    }
}

/// `status.podIPs`, or `status.podIP` where only that is set.
fn addresses(name: &ObjectName, pod: &Pod, notices: &mut BTreeSet<String>) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let texts: BTreeSet<&str> = listed.chain(status.pod_ip.as_deref()).filter(|ip| !ip.is_empty()).collect();
    let mut addresses = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                notices.insert(format!("pod {name}: {text:?} in status.podIPs is not an address: left out"));
            }
        }
    }
    addresses
}

/// The name that telemetry uses for all pods of one owner. Deployments and CronJobs own through an object whose name
/// ends in a part that differs from roll-out to roll-out; that part is cut off, so that the names stay few.
fn owner_name(name: &ObjectName, pod: &Pod) -> Text {
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
        return name.name.clone();
    };
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let cut = match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => {
            owner.name.strip_suffix(hash.as_str()).and_then(|name| name.strip_suffix('-'))
        }
        ("Job", _) => owner
            .name
            .rsplit_once('-')
            .filter(|(_, time)| time.len() >= 8 && time.bytes().all(|b| b.is_ascii_digit()))
            .map(|(name, _)| name),
        _ => None,
    };
    cut.unwrap_or(&owner.name).into()
}

#[cfg(test)]
mod tests;
