//! Checks of routes that are attached to Services.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;

use super::list::View;
use super::verdict::{Finding, Verdict, warning};

/// Weft's name in routes' statuses.
pub(crate) const CONTROLLER_NAME: &str = "weft-mesh.dev/mesh";

/// WEFT031.
pub(super) fn accepted(view: &View<'_>) -> Verdict {
    Ok(asked(view)?.iter().flat_map(|route| refusals(route)).collect())
}

/// WEFT032.
pub(super) fn judged(view: &View<'_>) -> Verdict {
    let mut findings = Vec::new();
    for route in asked(view)? {
        let unjudged = service_parents(route).filter(|parent| {
            let current = |entry: &&Value| {
                let conditions = entry["conditions"].as_array();
                let seen =
                    conditions.into_iter().flatten().filter_map(|one| one["observedGeneration"].as_i64());
                seen.max() == route.metadata.generation
            };
            !entries(route).any(|entry| same_parent(&entry["parentRef"], parent, route) && current(&entry))
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
    let wanted = |route: &&DynamicObject| {
        view.namespace.is_none_or(|only| route.namespace().is_some_and(|namespace| namespace == only))
    };
    Ok(routes.iter().filter(wanted).collect())
}

/// `HTTPRoute shop/web`.
fn name(route: &DynamicObject) -> String {
    let kind = route.types.as_ref().map_or("route", |types| types.kind.as_str());
    format!("{kind} {}/{}", route.namespace().unwrap_or_default(), route.name_any())
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

/// Weft's entries in the route's status.
fn entries(route: &DynamicObject) -> impl Iterator<Item = &Value> {
    let entries = route.data.pointer("/status/parents").and_then(Value::as_array);
    entries.into_iter().flatten().filter(|entry| entry["controllerName"] == CONTROLLER_NAME)
}

fn same_parent(one: &Value, other: &Value, route: &DynamicObject) -> bool {
    let own = route.namespace().unwrap_or_default();
    let namespace = |parent: &Value| parent["namespace"].as_str().unwrap_or(&own).to_owned();
    ["name", "sectionName", "port"].iter().all(|field| one[*field] == other[*field])
        && is_service(one) == is_service(other)
        && namespace(one) == namespace(other)
}

/// `Service shop/web`, with its port where one is named.
fn shown(parent: &Value, route: &DynamicObject) -> String {
    let own = route.namespace().unwrap_or_default();
    let namespace = parent["namespace"].as_str().unwrap_or(&own);
    let port = parent["port"].as_i64().map(|port| format!(" port {port}"));
    let section = parent["sectionName"].as_str().map(|section| format!(" port {section}"));
    let name = parent["name"].as_str().unwrap_or_default();
    format!("Service {namespace}/{name}{}", port.or(section).unwrap_or_default())
}

/// What Weft's conditions say against the route.
fn refusals(route: &DynamicObject) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in entries(route).filter(|entry| is_service(&entry["parentRef"])) {
        let conditions = entry["conditions"].as_array().into_iter().flatten();
        let against = conditions.filter(|condition| match condition["type"].as_str() {
            Some("Accepted" | "ResolvedRefs") => condition["status"] != "True",
            Some("PartiallyInvalid") => condition["status"] == "True",
            _ => false,
        });
        for condition in against {
            let field = |key: &str| condition[key].as_str().unwrap_or_default();
            let message = format!(
                "{}: {} {}, {}: {}",
                shown(&entry["parentRef"], route),
                field("type"),
                field("status"),
                field("reason"),
                field("message")
            );
            findings.push(warning(name(route), message));
        }
    }
    findings
}
