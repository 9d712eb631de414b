//! What the statuses of Gateways and ListenerSets say; [`super::class`] has that of GatewayClasses.

use std::net::IpAddr;

use serde_json::Value;
use weft_model::ObjectName;
use weft_model::gateway::ListenerId;

use super::addresses::{self, Assigned};
use super::listener::Listener;
use super::{Facts, Gateways, Problem, SetFacts, class, is_ours};
use crate::infrastructure::refused;
use crate::inputs::{GATEWAY_API, Head, InForce, Inputs};
use crate::translate::Translated;
use crate::translate::status::{
    Condition, GatewayStatus, ListenerSetStatus, ListenerStatus, Status, SupportedKind,
};

/// What a condition is: status, reason, message.
type Verdict = (&'static str, &'static str, String);

/// Judges all of them.
pub(crate) fn judge(inputs: &Inputs, gateways: &Gateways<'_>, out: &mut Translated) {
    for class in inputs.gateway_classes.values().filter(|class| is_ours(class)) {
        out.statuses.insert(class.head.id.clone(), Status::GatewayClass(class::status(inputs, class)));
    }
    for facts in gateways.by_name.values() {
        let status = gateway_status(inputs, facts, gateways);
        out.statuses.insert(facts.gateway.head.id.clone(), Status::Gateway(status));
    }
    for set in gateways.sets.values() {
        let status = set_status(inputs, set, gateways);
        out.statuses.insert(set.set.head.id.clone(), Status::ListenerSet(status));
    }
}

fn condition(kind: &'static str, (status, reason, message): Verdict, generation: i64) -> Condition {
    Condition::new(kind, status, reason, message, generation)
}

fn refused(problem: &Problem) -> Verdict {
    ("False", problem.reason, problem.message.clone())
}

/// What proxies have in force of a Gateway, against what its object's status says.
struct View<'a> {
    in_force: Option<&'a InForce>,
}

impl<'a> View<'a> {
    fn of(inputs: &'a Inputs, gateway: &ObjectName) -> Self {
        Self { in_force: inputs.in_force.get(gateway) }
    }

    /// Whether a listener is in force as it is now to be served. As long as no proxy has been heard of, what is said
    /// of this generation already stays said: a controller that starts anew knows less than the one before it.
    fn has(&self, listener: &Listener, owner: &Head) -> bool {
        let Some(in_force) = self.in_force else {
            return said(owner, Some(&listener.id), "Programmed");
        };
        let listeners = in_force.gateway.iter().flat_map(|gateway| &gateway.listeners);
        listener.to_model().is_some_and(|wanted| listeners.into_iter().any(|one| *one == wanted))
    }

    fn trouble(&self) -> Option<&str> {
        self.in_force?.trouble.as_deref()
    }
}

/// Whether the object's own status says that a condition holds for the generation that it has.
fn said(head: &Head, listener: Option<&ListenerId>, kind: &str) -> bool {
    says(head, listener, kind, ("status", "True"))
}

/// Whether a condition in the object's own status, of the generation that it has, has this value in a field.
fn says(head: &Head, listener: Option<&ListenerId>, kind: &str, (field, value): (&str, &str)) -> bool {
    let list = |of: &Value, field: &str| of.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let conditions = match listener {
        None => list(&head.status, "conditions"),
        Some(id) => {
            let listeners = list(&head.status, "listeners");
            let this = |one: &&Value| one.get("name").is_some_and(|name| *name == *id.name);
            listeners.iter().find(this).map(|one| list(one, "conditions")).unwrap_or_default()
        }
    };
    conditions.iter().any(|one| {
        one.get("type").is_some_and(|it| it == kind)
            && one.get(field).is_some_and(|it| it == value)
            && one.get("observedGeneration").and_then(Value::as_i64) == Some(head.generation)
    })
}

fn listener_status(listener: &Listener, view: &View<'_>, owner: &Head) -> ListenerStatus {
    let generation = owner.generation;
    let accepted = match listener.conflict.as_ref().or(listener.unaccepted.as_ref()) {
        Some(problem) => refused(problem),
        None => ("True", "Accepted", "The listener is accepted.".to_owned()),
    };
    let conflicted = match &listener.conflict {
        Some(problem) => ("True", problem.reason, problem.message.clone()),
        None => ("False", "NoConflicts", "No other listener wants the same.".to_owned()),
    };
    let resolved = match &listener.unresolved {
        Some(problem) => refused(problem),
        None => ("True", "ResolvedRefs", "All references are resolved.".to_owned()),
    };
    let kind =
        |kind: &weft_model::route::RouteKind| SupportedKind { group: GATEWAY_API, kind: kind.as_str() };
    let mut conditions = vec![
        condition("Accepted", accepted, generation),
        condition("Conflicted", conflicted, generation),
        condition("Programmed", listener_programmed(listener, view, owner), generation),
        condition("ResolvedRefs", resolved, generation),
    ];
    // Must not be set when it is false.
    if let Some(Problem { reason, message }) = &listener.overlap {
        conditions.push(condition("OverlappingTLSConfig", ("True", reason, message.clone()), generation));
    }
    ListenerStatus {
        name: listener.id.name.to_string(),
        supported_kinds: listener.kinds.iter().map(kind).collect(),
        attached_routes: listener.attached,
        conditions,
    }
}

fn listener_programmed(listener: &Listener, view: &View<'_>, owner: &Head) -> Verdict {
    if let Some(problem) = &listener.conflict {
        return refused(problem);
    }
    if let Some(problem) = listener.invalid() {
        return ("False", "Invalid", problem.message.clone());
    }
    if view.has(listener, owner) {
        return ("True", "Programmed", "Every proxy serves the listener.".to_owned());
    }
    ("False", "Pending", "Not every proxy has the listener in force yet.".to_owned())
}

fn gateway_status(inputs: &Inputs, facts: &Facts<'_>, gateways: &Gateways<'_>) -> GatewayStatus {
    let head = &facts.gateway.head;
    let view = View::of(inputs, facts.name());
    let addresses = addresses::assign(inputs, facts);
    let resolved = match &facts.client_certificate {
        Some(Err(problem)) => refused(problem),
        _ => ("True", "ResolvedRefs", "All references are resolved.".to_owned()),
    };
    let mut conditions = vec![
        condition("Accepted", gateway_accepted(facts), head.generation),
        condition("Programmed", gateway_programmed(inputs, facts, &view, &addresses), head.generation),
        condition("ResolvedRefs", resolved, head.generation),
    ];
    if facts.insecure {
        let message =
            "Clients without a certificate that can be verified are let in: mode AllowInsecureFallback.";
        let insecure = ("True", "ConfigurationChanged", message.to_owned());
        conditions.push(condition("InsecureFrontendValidationMode", insecure, head.generation));
    }
    if let Some(assigned) = addresses_assigned(facts, &addresses) {
        conditions.push(condition("AddressesAssigned", assigned, head.generation));
    }
    let attached =
        gateways.sets.values().filter(|set| set.gateway == *facts.name() && is_attached(set, facts));
    GatewayStatus {
        addresses: addresses.usable,
        attached_listener_sets: attached.count(),
        conditions,
        listeners: facts.listeners_of(None).map(|listener| listener_status(listener, &view, head)).collect(),
    }
}

fn is_attached(set: &SetFacts<'_>, facts: &Facts<'_>) -> bool {
    let mut listeners = facts.listeners_of(Some(set.set.head.name()));
    set.unaccepted.is_none() && listeners.any(|listener| listener.invalid().is_none())
}

/// Of several listeners one that is accepted suffices; that some are not is said.
fn accepted_listeners(what: &str, listeners: &[&Listener]) -> Verdict {
    let accepted = listeners.iter().filter(|listener| listener.is_accepted()).count();
    if accepted == listeners.len() && accepted > 0 {
        return ("True", "Accepted", format!("The {what} is accepted."));
    }
    let first = listeners.iter().find_map(|listener| {
        let problem = listener.conflict.as_ref().or(listener.unaccepted.as_ref())?;
        Some(format!("listener {}: {}", listener.id, problem.message))
    });
    let message = first.unwrap_or_else(|| "there are no listeners".to_owned());
    (if accepted > 0 { "True" } else { "False" }, "ListenersNotValid", message)
}

fn gateway_accepted(facts: &Facts<'_>) -> Verdict {
    match &facts.unaccepted {
        Some(problem) => refused(problem),
        None => {
            let own: Vec<&Listener> = facts.listeners_of(None).collect();
            // Those of ListenerSets are judged there; a Gateway may have no others.
            match own.is_empty() {
                false => accepted_listeners("Gateway", &own),
                true => accepted_listeners("Gateway", &facts.listeners.iter().collect::<Vec<_>>()),
            }
        }
    }
}

/// AddressesAssigned (GEP-5093): not said before it was tried.
fn addresses_assigned(facts: &Facts<'_>, addresses: &Assigned) -> Option<Verdict> {
    if facts.unaccepted.is_some() || !addresses.tried {
        return None;
    }
    let missing = addresses.missing.join(", ");
    Some(match (addresses.usable.is_empty(), missing.is_empty()) {
        (true, true) => ("False", "NotAssigned", "the Gateway's Service has no address yet".to_owned()),
        (true, false) => ("False", "NotAssigned", format!("not to be had so far: {missing}")),
        (false, false) => ("False", "PartiallyAssigned", format!("not to be had so far: {missing}")),
        (false, true) => {
            let message = "The Gateway has an address for each that was asked for.";
            ("True", "AddressesAssigned", message.to_owned())
        }
    })
}

/// Programmed: reached at every address that was asked for, and every proxy serves the listeners that can be served.
fn gateway_programmed(inputs: &Inputs, facts: &Facts<'_>, view: &View<'_>, addresses: &Assigned) -> Verdict {
    if let Some(problem) = &facts.unaccepted {
        return ("False", "Invalid", problem.message.clone());
    }
    let valid: Vec<&Listener> = facts.listeners.iter().filter(|it| it.invalid().is_none()).collect();
    if valid.is_empty() {
        return ("False", "Invalid", "no listener can be served".to_owned());
    }
    if let Some(refused) = inputs.refused.get(facts.name()).and_then(refused::message) {
        return ("False", "NoResources", refused);
    }
    if let Some(without) = address_missing(inputs, facts, addresses) {
        return without;
    }
    if addresses.usable.is_empty() {
        return ("False", "AddressNotAssigned", "the Gateway's Service has no address yet".to_owned());
    }
    if let Some(trouble) = view.trouble() {
        return ("False", "Invalid", format!("a proxy cannot serve it: {trouble}"));
    }
    let own = &facts.gateway.head;
    let in_force = match view.in_force {
        Some(_) => valid.iter().all(|listener| view.has(listener, own)),
        None => said(own, None, "Programmed"),
    };
    if in_force {
        return ("True", "Programmed", "Every proxy serves the listeners.".to_owned());
    }
    ("False", "Pending", "Not every proxy has the listeners in force yet.".to_owned())
}

/// That an address which is asked for by value is not had: first it is waited for, then it is said not to be usable, and so
/// it is still said by a controller that starts anew.
fn address_missing(inputs: &Inputs, facts: &Facts<'_>, addresses: &Assigned) -> Option<Verdict> {
    const NOT_USABLE: &str = "AddressNotUsable";
    let head = &facts.gateway.head;
    let is_awaited = |address: &&IpAddr| inputs.awaited.contains(&(facts.name().clone(), **address));
    if let Some(address) = addresses.unusable.iter().find(|address| !is_awaited(address)) {
        let message = format!("{address} could not be had: no Service of the Gateway was given it");
        return Some(("False", NOT_USABLE, message));
    }
    let address = addresses.unusable.first()?;
    let reason = match says(head, None, "Programmed", ("reason", NOT_USABLE)) {
        true => NOT_USABLE,
        false => "Pending",
    };
    Some(("False", reason, format!("no Service of the Gateway has been given {address} yet")))
}

fn set_status(inputs: &Inputs, set: &SetFacts<'_>, gateways: &Gateways<'_>) -> ListenerSetStatus {
    let head = &set.set.head;
    let Some(facts) = gateways.by_name.get(&set.gateway).filter(|_| set.unaccepted.is_none()) else {
        let problem = set.unaccepted.clone();
        let problem = problem.unwrap_or_else(|| Problem::new("Pending", "its Gateway is not known"));
        let said = |kind| condition(kind, refused(&problem), head.generation);
        return ListenerSetStatus {
            conditions: vec![said("Accepted"), said("Programmed")],
            listeners: Vec::new(),
        };
    };
    let view = View::of(inputs, &set.gateway);
    let listeners: Vec<&Listener> = facts.listeners_of(Some(head.name())).collect();
    let accepted = match listeners.iter().find_map(|listener| listener.invalid()) {
        // One that nobody could be served by, for want of a certificate as well, is no use to a set.
        Some(problem) if listeners.iter().all(|listener| listener.invalid().is_some()) => {
            ("False", "ListenersNotValid", problem.message.clone())
        }
        _ => accepted_listeners("ListenerSet", &listeners),
    };
    let programmed = match accepted.0 {
        "True" => {
            let mut valid = listeners.iter().filter(|listener| listener.invalid().is_none()).peekable();
            match (valid.peek().is_some(), valid.all(|listener| view.has(listener, head))) {
                (false, _) => ("False", "Invalid", "no listener can be served".to_owned()),
                (true, true) => ("True", "Programmed", "Every proxy serves the listeners.".to_owned()),
                (true, false) => {
                    ("False", "Pending", "Not every proxy has the listeners in force yet.".to_owned())
                }
            }
        }
        _ => accepted.clone(),
    };
    ListenerSetStatus {
        conditions: vec![
            condition("Accepted", accepted, head.generation),
            condition("Programmed", programmed, head.generation),
        ],
        listeners: listeners.into_iter().map(|listener| listener_status(listener, &view, head)).collect(),
    }
}

#[cfg(test)]
mod tests;
