//! The endpoints behind a Service port, from its EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::discovery::v1::{
    Endpoint as SliceEndpoint, EndpointConditions, EndpointPort, EndpointSlice,
};
use weft_model::Text;
use weft_model::service::{Endpoint, Hints};

use super::service::Port;
use super::workload::Workloads;

/// The endpoints of one Service port: the union of its slices, each address once.
pub(crate) fn endpoints(
    port: &Port,
    slices: &[&EndpointSlice],
    workloads: &Workloads,
    notices: &mut BTreeSet<String>,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
    for slice in slices {
        let target = slice.ports.iter().flatten().find(|target| {
            target.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && target.protocol.as_deref().unwrap_or("TCP") == port.transport.as_str()
        });
        let Some(number) = target.and_then(|t| t.port).and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some((address, candidate)) = candidate(endpoint, number, workloads, notices) else {
                continue;
            };
            // An address that moves from slice to slice is in both for a moment: the better one counts.
            let known = found.entry(address).or_insert_with(|| candidate.clone());
            if candidate.state > known.state {
                *known = candidate;
            }
        }
    }
    // As kube-proxy, which judges each address family by itself: those that end but still serve are chosen only when no
    // other is ready.
    let any_ready = |v4: bool| found.iter().any(|(at, one)| at.is_ipv4() == v4 && one.state == State::Ready);
    let (any_v4, any_v6) = (any_ready(true), any_ready(false));
    let convert = |(address, candidate): (SocketAddr, Candidate)| {
        let Candidate { mut endpoint, state } = candidate;
        let any_ready = if address.is_ipv4() { any_v4 } else { any_v6 };
        endpoint.terminating = state == State::ServingTerminating;
        endpoint.ready = state == State::Ready || (endpoint.terminating && !any_ready);
        endpoint
    };
    found.into_iter().map(convert).collect()
}

/// An endpoint that is not yet compared with the others of its port.
#[derive(Clone, Debug)]
struct Candidate {
    endpoint: Endpoint,
    state: State,
}

/// From the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    NotReady,
    ServingTerminating,
    Ready,
}

fn candidate(
    endpoint: &SliceEndpoint,
    port: u16,
    workloads: &Workloads,
    notices: &mut BTreeSet<String>,
) -> Option<(SocketAddr, Candidate)> {
    // The API says that of several addresses only the first is used. An FQDN slice has none that parses.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    // `publishNotReadyAddresses` is the slice controller's business: it writes such endpoints as ready.
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let state = match (ready, serving && terminating) {
        (true, _) => State::Ready,
        (false, true) => State::ServingTerminating,
        (false, false) => State::NotReady,
    };
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let named = target.and_then(|target| target.uid.as_deref());
    let at = SocketAddr::new(address, port);
    let known = Endpoint {
        zone: endpoint.zone.as_deref().map(Text::from),
        node: endpoint.node_name.as_deref().map(Text::from),
        hints: hints(endpoint),
        ..Endpoint::at(at)
    };
    let workload = match (named, workloads.at(address)) {
        (Some(uid), Some(owner)) if **owner != *uid => {
            if let Some((one, other)) = workloads.rivals(uid, address) {
                // Listed, so that whoever calls it is told why it is refused. The pods' own notice tells the operator.
                let conflict = Some(format!("pods {one} and {other} both claim {address}").into());
                return Some((
                    at,
                    Candidate { endpoint: Endpoint { conflict, ..known }, state: State::NotReady },
                ));
            }
            notices.insert(format!(
                "endpoint {address} is listed for the pod with UID {uid} but belongs to another pod now: left out \
                 until its EndpointSlice is corrected"
            ));
            return None;
        }
        (_, Some(owner)) => Some(owner.clone()),
        (Some(uid), None) => workloads.has_uid(uid).then(|| Text::from(uid)),
        (None, None) => None,
    };
    Some((at, Candidate { endpoint: Endpoint { workload, ..known }, state }))
}

/// What Kubernetes would write for a Service that selects these pods and has these ports, which are the pods' own.
pub(crate) fn slice_of<'a>(pods: impl Iterator<Item = &'a Pod>, ports: &[Port]) -> EndpointSlice {
    let port = |port: &Port| EndpointPort {
        port: Some(i32::from(port.number)),
        protocol: Some(port.transport.as_str().to_owned()),
        ..EndpointPort::default()
    };
    EndpointSlice {
        endpoints: Some(pods.flat_map(of_pod).collect()),
        ports: Some(ports.iter().map(port).collect()),
        ..EndpointSlice::default()
    }
}

/// One for each of its addresses, as long as it has not ended.
fn of_pod(pod: &Pod) -> Vec<SliceEndpoint> {
    let Some(status) = &pod.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let listed = status.pod_ips.iter().flatten().map(|of| of.ip.as_str());
    let addresses: BTreeSet<&str> =
        listed.chain(status.pod_ip.as_deref()).filter(|ip| !ip.is_empty()).collect();
    let mut conditions = status.conditions.iter().flatten();
    let serving = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let of = |address: &str| SliceEndpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..SliceEndpoint::default()
    };
    addresses.into_iter().map(of).collect()
}

fn hints(endpoint: &SliceEndpoint) -> Hints {
    let hints = endpoint.hints.as_ref();
    let zones = hints.into_iter().flat_map(|hints| hints.for_zones.iter().flatten());
    let nodes = hints.into_iter().flat_map(|hints| hints.for_nodes.iter().flatten());
    Hints {
        zones: zones.map(|zone| Text::from(zone.name.as_str())).collect(),
        nodes: nodes.map(|node| Text::from(node.name.as_str())).collect(),
    }
}
