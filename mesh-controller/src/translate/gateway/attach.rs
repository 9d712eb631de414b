//! Which listeners a route is attached to: parentRefs that name Gateways of ours or ListenerSets of one.

use std::collections::BTreeSet;

use weft_model::gateway::Attachment;
use weft_model::route::RouteKind;
use weft_model::{ObjectName, Text};

use super::listener::Listener;
use super::{Facts, Gateways, Problem, hostname, lower};
use crate::inputs::{Inputs, ParentRef, Route};

/// A parentRef that names a Gateway or ListenerSet of ours.
#[derive(Debug)]
pub(crate) struct GatewayParent<'a> {
    pub(crate) parent_ref: &'a ParentRef,
    /// The Gateway or ListenerSet.
    pub(crate) parent: ObjectName,
    /// Where it is attached, or why it is nowhere.
    pub(crate) attached: Result<Vec<Attachment>, Problem>,
}

/// Resolves the parentRefs of a route that are ours, and counts it at the listeners that it is attached to.
pub(crate) fn resolve<'a>(
    inputs: &Inputs,
    route: &'a Route,
    gateways: &mut Gateways<'_>,
) -> Vec<GatewayParent<'a>> {
    let (mut seen, mut counted) = (BTreeSet::new(), BTreeSet::new());
    let mut parents = Vec::new();
    for parent_ref in route.parent_refs.iter().filter(|parent| seen.insert(*parent)) {
        let own = &*route.name.name.namespace;
        let namespace = parent_ref.namespace.as_deref().unwrap_or(own);
        let parent = ObjectName::new(namespace, parent_ref.name.as_str());
        let Some((gateway, set)) = gateway_of(gateways, parent_ref, &parent) else { continue };
        let refused = set.as_ref().and_then(|set| gateways.sets.get(set)?.unaccepted.as_ref());
        let attached = match (refused, gateways.by_name.get_mut(&gateway)) {
            (Some(problem), _) => {
                let message = format!("ListenerSet {parent} is not accepted: {}", problem.message);
                Err(Problem::new("NoMatchingParent", message))
            }
            (None, None) => continue,
            (None, Some(facts)) => {
                let chosen = choose(inputs, route, parent_ref, facts, set.as_ref());
                chosen.and_then(|chosen| {
                    count(facts, &chosen, &mut counted);
                    in_force(facts, chosen)
                })
            }
        };
        parents.push(GatewayParent { parent_ref, parent, attached });
    }
    parents
}

/// The Gateway that a parentRef leads to, and the ListenerSet that it names.
fn gateway_of(
    gateways: &Gateways<'_>,
    parent_ref: &ParentRef,
    parent: &ObjectName,
) -> Option<(ObjectName, Option<ObjectName>)> {
    if parent_ref.is_gateway() {
        return gateways.by_name.contains_key(parent).then(|| (parent.clone(), None));
    }
    let set = gateways.sets.get(parent).filter(|_| parent_ref.is_listener_set())?;
    Some((set.gateway.clone(), Some(parent.clone())))
}

/// The listeners that a parentRef selects and that admit the route.
fn choose(
    inputs: &Inputs,
    route: &Route,
    parent_ref: &ParentRef,
    facts: &Facts<'_>,
    set: Option<&ObjectName>,
) -> Result<Vec<Attachment>, Problem> {
    let selects = |listener: &&Listener| {
        parent_ref.section_name.as_deref().is_none_or(|name| *listener.id.name == *name)
            && parent_ref.port.is_none_or(|port| i64::from(listener.port) == port)
    };
    let selected: Vec<&Listener> = facts.listeners_of(set).filter(selects).collect();
    if selected.is_empty() {
        let message = format!("there is no listener{} at it", described(parent_ref));
        return Err(Problem::new("NoMatchingParent", message));
    }
    let namespace = &*route.name.name.namespace;
    let admits = |listener: &&&Listener| {
        listener.kinds.contains(&route.name.kind)
            && listener.namespaces.allow(inputs, &listener.namespace, namespace)
    };
    let admitting: Vec<&Listener> = selected.iter().filter(admits).copied().collect();
    if admitting.is_empty() {
        let message = format!(
            "no listener{} allows a {} of namespace {namespace}",
            described(parent_ref),
            route.name.kind
        );
        return Err(Problem::new("NotAllowedByListeners", message));
    }
    let named = lower(&route.hostnames);
    let attach = |listener: &Listener| {
        let hostnames = common(route.name.kind, listener, &named)?;
        Some(Attachment { gateway: facts.name().clone(), listener: listener.id.clone(), hostnames })
    };
    let attached: Vec<Attachment> = admitting.into_iter().filter_map(attach).collect();
    if attached.is_empty() {
        let message = format!("no listener{} has a hostname in common with it", described(parent_ref));
        return Err(Problem::new("NoMatchingListenerHostname", message));
    }
    Ok(attached)
}

fn described(parent_ref: &ParentRef) -> String {
    let name = parent_ref.section_name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
    let port = parent_ref.port.map(|port| format!(" of port {port}")).unwrap_or_default();
    format!("{name}{port}")
}

/// The route's hostnames that have names in common with the listener's; `None`: it names some, and none has.
fn common(kind: RouteKind, listener: &Listener, hostnames: &[Text]) -> Option<Vec<Text>> {
    let matched_by_name = matches!(kind, RouteKind::Grpc | RouteKind::Http | RouteKind::Tls);
    let (Some(own), true, false) = (&listener.hostname, matched_by_name, hostnames.is_empty()) else {
        return Some(if matched_by_name { hostnames.to_vec() } else { Vec::new() });
    };
    let common: Vec<Text> = hostnames.iter().filter(|name| hostname::intersect(own, name)).cloned().collect();
    (!common.is_empty()).then_some(common)
}

/// A route counts once at a listener, whether or not that is accepted.
fn count(
    facts: &mut Facts<'_>,
    attached: &[Attachment],
    counted: &mut BTreeSet<(ObjectName, weft_model::gateway::ListenerId)>,
) {
    for listener in &mut facts.listeners {
        let this = |one: &Attachment| one.listener == listener.id;
        if attached.iter().any(this)
            && counted.insert((facts.gateway.head.name().clone(), listener.id.clone()))
        {
            listener.attached += 1;
        }
    }
}

/// What is left without listeners that are not accepted.
fn in_force(facts: &Facts<'_>, attached: Vec<Attachment>) -> Result<Vec<Attachment>, Problem> {
    let accepted = |one: &Attachment| {
        facts.listeners.iter().any(|listener| listener.id == one.listener && listener.is_accepted())
    };
    if let Some(problem) = &facts.unaccepted {
        let message = format!("Gateway {} is not accepted: {}", facts.name(), problem.message);
        return Err(Problem::new("NoMatchingParent", message));
    }
    let left: Vec<Attachment> = attached.into_iter().filter(accepted).collect();
    if left.is_empty() {
        return Err(Problem::new("NoMatchingParent", "no listener that it would be attached to is accepted"));
    }
    Ok(left)
}
