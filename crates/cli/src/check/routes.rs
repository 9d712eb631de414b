//! Checks of routes that are attached to Services, and to Gateways.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;

use super::list::View;
use super::statuses::{GATEWAY_CONTROLLER_NAME, against, in_namespace, name, observed, shown};
use super::verdict::{Finding, Verdict, warning};

/// Weft's name in routes' statuses.
pub(crate) const CONTROLLER_NAME: &str = "weft-mesh.dev/mesh";

/// WEFT031.
pub(super) fn accepted(view: &View<'_>) -> Verdict {
    Ok(asked(view)?.iter().flat_map(|route| refusals(route, CONTROLLER_NAME)).collect())
}

/// WEFT033.
pub(super) fn accepted_at_gateways(view: &View<'_>) -> Verdict {
    Ok(asked(view)?.iter().flat_map(|route| refusals(route, GATEWAY_CONTROLLER_NAME)).collect())
}

/// WEFT032.
pub(super) fn judged(view: &View<'_>) -> Verdict {
    let mut findings = Vec::new();
    for route in asked(view)? {
        let unjudged = service_parents(route).filter(|parent| {
            let current = |entry: &Value| observed(&entry["conditions"]) == route.metadata.generation;
            let mut entries = entries(route, CONTROLLER_NAME);
            !entries.any(|entry| same_parent(&entry["parentRef"], parent, route) && current(entry))
        });
        for parent in unjudged {
            let message = format!(
                "has not been judged as it is now for its parent {}: is the controller ready?",
                shown(parent, route)
            );
            findings.push(warning(name(route), message));
        }
    }
    Ok(findings)
}

fn asked<'a>(view: &View<'a>) -> Result<Vec<&'a DynamicObject>, crate::cluster::Unknown> {
    let routes = view.facts.routes.as_ref().map_err(Clone::clone)?;
    Ok(routes.iter().filter(|route| in_namespace(route, view)).collect())
}

/// Parents that are Services.
fn service_parents(route: &DynamicObject) -> impl Iterator<Item = &Value> {
    let parents = route.data.pointer("/spec/parentRefs").and_then(Value::as_array);
    parents.into_iter().flatten().filter(|parent| is_service(parent))
}

fn is_service(parent: &Value) -> bool {
    parent["kind"] == "Service"
        && parent["group"].as_str().is_some_and(|group| group.is_empty() || group == "core")
}

/// A controller's entries in the route's status.
fn entries<'r>(route: &'r DynamicObject, controller: &'r str) -> impl Iterator<Item = &'r Value> {
    let entries = route.data.pointer("/status/parents").and_then(Value::as_array);
    entries.into_iter().flatten().filter(move |entry| entry["controllerName"] == controller)
}

fn same_parent(one: &Value, other: &Value, route: &DynamicObject) -> bool {
    let own = route.namespace().unwrap_or_default();
    let namespace = |parent: &Value| parent["namespace"].as_str().unwrap_or(&own).to_owned();
    ["name", "sectionName", "port"].iter().all(|field| one[*field] == other[*field])
        && is_service(one) == is_service(other)
        && namespace(one) == namespace(other)
}

/// What a controller of Weft's says against the route.
fn refusals(route: &DynamicObject, controller: &str) -> Vec<Finding> {
    let finding = |entry: &Value, words: &str| {
        warning(name(route), format!("{}: {words}", shown(&entry["parentRef"], route)))
    };
    entries(route, controller)
        .flat_map(|entry| {
            let words = against(&entry["conditions"], &["Accepted", "ResolvedRefs"], &["PartiallyInvalid"]);
            words.map(move |words| finding(entry, &words))
        })
        .collect()
}
