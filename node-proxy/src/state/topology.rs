//! Which endpoints of a Service may be chosen from one node, as kube-proxy of Kubernetes 1.35 judges: `internalTrafficPolicy`,
//! hints (which is what `trafficDistribution` comes to), and endpoints that terminate but serve where no other is left.

use std::sync::Arc;

use weft_model::service::{Endpoint, Endpoints, TrafficPolicy};

/// Where callers are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's zone, if it is known.
    pub zone: Option<&'a str>,
}

/// The same endpoints; `ready` says of each whether it may be chosen from `place`.
pub(super) fn judge(endpoints: &Arc<Endpoints>, policy: TrafficPolicy, place: Place<'_>) -> Arc<Endpoints> {
    let plain = |one: &Endpoint| one.hints.is_empty() && !one.terminating;
    let all = || endpoints.ports.values().chain(endpoints.udp_ports.values()).flatten();
    if policy == TrafficPolicy::Cluster && all().all(plain) {
        return Arc::clone(endpoints);
    }
    let mut judged = Endpoints::clone(endpoints);
    for port in judged.ports.values_mut().chain(judged.udp_ports.values_mut()) {
        for v4 in [true, false] {
            // Each address family by itself, as an EndpointSlice has one.
            let family = || port.iter().filter(|one| one.address.is_ipv4() == v4);
            let preference = Preference::of(family(), policy, place);
            for one in port.iter_mut().filter(|one| one.address.is_ipv4() == v4) {
                one.ready = preference.admits(one, place);
            }
        }
    }
    Arc::new(judged)
}

/// Which endpoints of one port and address family are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preference {
    /// Those that are ready.
    Ready,
    /// Those that are ready and meant for this node.
    SameNode,
    /// Those that are ready and meant for this zone.
    SameZone,
    /// None is ready: those that terminate and serve still.
    Terminating,
    /// Those that are ready and on this node.
    ReadyHere,
    /// None on this node is ready: those on it that terminate and serve still.
    TerminatingHere,
}

impl Preference {
    fn of<'e>(
        endpoints: impl Iterator<Item = &'e Endpoint> + Clone,
        policy: TrafficPolicy,
        place: Place<'_>,
    ) -> Self {
        let mut ready = endpoints.filter(|one| is_ready(one)).peekable();
        if policy == TrafficPolicy::Local {
            return if ready.any(|one| is_here(one, place)) {
                Self::ReadyHere
            } else {
                Self::TerminatingHere
            };
        }
        if ready.peek().is_none() {
            return Self::Terminating;
        }
        // A hint that one endpoint lacks, or that none has for this place, is no hint.
        let all_for_nodes = ready.clone().all(|one| !one.hints.nodes.is_empty());
        if all_for_nodes && ready.clone().any(|one| is_for_node(one, place)) {
            return Self::SameNode;
        }
        let all_for_zones = ready.clone().all(|one| !one.hints.zones.is_empty());
        if all_for_zones && ready.any(|one| is_for_zone(one, place)) { Self::SameZone } else { Self::Ready }
    }

    fn admits(self, one: &Endpoint, place: Place<'_>) -> bool {
        match self {
            Self::Ready => is_ready(one),
            Self::SameNode => is_ready(one) && is_for_node(one, place),
            Self::SameZone => is_ready(one) && is_for_zone(one, place),
            Self::Terminating => one.terminating,
            Self::ReadyHere => is_ready(one) && is_here(one, place),
            Self::TerminatingHere => one.terminating && is_here(one, place),
        }
    }
}

/// The controller marks one that terminates as ready where it is the last resort of the whole cluster.
const fn is_ready(one: &Endpoint) -> bool {
    one.ready && !one.terminating
}

fn is_here(one: &Endpoint, place: Place<'_>) -> bool {
    one.node.as_deref() == Some(place.node)
}

fn is_for_node(one: &Endpoint, place: Place<'_>) -> bool {
    one.hints.nodes.iter().any(|node| **node == *place.node)
}

fn is_for_zone(one: &Endpoint, place: Place<'_>) -> bool {
    one.hints.zones.iter().any(|zone| Some(&**zone) == place.zone)
}

#[cfg(test)]
mod tests;
