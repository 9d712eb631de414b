//! What Weft says in the statuses of Gateways, ListenerSets, XBackends and policies; and how conditions are read.

use std::collections::BTreeSet;

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;

use super::list::View;
use super::routes::CONTROLLER_NAME;
use super::verdict::{Finding, Verdict, warning};

/// Weft's name in GatewayClasses, and in what it says of Gateways.
pub(super) const GATEWAY_CONTROLLER_NAME: &str = "weft-mesh.dev/gateway";

/// WEFT034.
pub(super) fn gateways(view: &View<'_>) -> Verdict {
    let all = view.facts.gateways.as_ref().map_err(Clone::clone)?;
    let of_kind = |wanted: &'static str| all.iter().filter(move |object| kind(object) == wanted);
    let ours = |class: &&DynamicObject| text(&class.data, "/spec/controllerName") == GATEWAY_CONTROLLER_NAME;
    let classes: BTreeSet<String> = of_kind("GatewayClass").filter(ours).map(ResourceExt::name_any).collect();
    let ours = |gateway: &&DynamicObject| classes.contains(text(&gateway.data, "/spec/gatewayClassName"));
    let gateways: Vec<&DynamicObject> = of_kind("Gateway").filter(ours).collect();
    let has_parent = |set: &&DynamicObject| {
        let own = set.namespace().unwrap_or_default();
        let namespace = set.data.pointer("/spec/parentRef/namespace").and_then(Value::as_str).unwrap_or(&own);
        let parent = text(&set.data, "/spec/parentRef/name");
        gateways
            .iter()
            .any(|gateway| gateway.name_any() == parent && gateway.namespace().as_deref() == Some(namespace))
    };
    let sets = of_kind("ListenerSet").filter(has_parent);
    let asked = gateways.iter().copied().chain(sets).filter(|object| in_namespace(object, view));
    Ok(asked.flat_map(listeners).collect())
}

/// What the status of a Gateway or a ListenerSet says against it, or against one of its listeners.
fn listeners(object: &DynamicObject) -> Vec<Finding> {
    let of = |path: &str| object.data.pointer(path).unwrap_or(&Value::Null);
    if observed(of("/status/conditions")) != object.metadata.generation {
        return vec![warning(name(object), "has not been judged as it is now: is the controller ready?")];
    }
    let words =
        |conditions| against(conditions, &["Accepted", "Programmed", "ResolvedRefs"], &["Conflicted"]);
    let mut found: Vec<String> = words(of("/status/conditions")).collect();
    for listener in of("/status/listeners").as_array().into_iter().flatten() {
        let listener_name = text(listener, "/name");
        found
            .extend(words(&listener["conditions"]).map(|words| format!("listener {listener_name}: {words}")));
    }
    found.into_iter().map(|words| warning(name(object), words)).collect()
}

/// WEFT035.
pub(super) fn policies(view: &View<'_>) -> Verdict {
    let all = view.facts.policies.as_ref().map_err(Clone::clone)?;
    Ok(all.iter().filter(|policy| in_namespace(policy, view)).flat_map(policy).collect())
}

fn policy(policy: &DynamicObject) -> Vec<Finding> {
    let entries = policy.data.pointer("/status/ancestors").and_then(Value::as_array);
    let ours = |entry: &&Value| {
        [CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME].iter().any(|ours| entry["controllerName"] == *ours)
    };
    let entries: Vec<&Value> = entries.into_iter().flatten().filter(ours).collect();
    let unjudged = |what: &str| {
        let message = format!("has not been judged as it is now for {what}: is the controller ready?");
        warning(name(policy), message)
    };
    // One that is for Gateways alone has an entry only where a Gateway leads to its target, an XBackend where a route names it.
    let is_for_services = kind(policy) == "XBackendTrafficPolicy" && targets_a_service(policy);
    if entries.is_empty() && is_for_services {
        return vec![unjudged("its Services")];
    }
    let mut findings = Vec::new();
    for entry in entries {
        let ancestor = shown(&entry["ancestorRef"], policy);
        if observed(&entry["conditions"]) != policy.metadata.generation {
            findings.push(unjudged(&ancestor));
            continue;
        }
        let words = against(&entry["conditions"], &["Accepted", "ResolvedRefs"], &[]);
        findings.extend(words.map(|words| warning(name(policy), format!("{ancestor}: {words}"))));
    }
    findings
}

fn targets_a_service(policy: &DynamicObject) -> bool {
    let targets = policy.data.pointer("/spec/targetRefs").and_then(Value::as_array);
    targets
        .into_iter()
        .flatten()
        .any(|target| target["kind"] == "Service" && text(target, "/group").is_empty())
}

/// The conditions that speak against an object: those of `needed` that are not true, those of `unwanted` that are.
pub(super) fn against<'c>(
    conditions: &'c Value,
    needed: &'c [&'c str],
    unwanted: &'c [&'c str],
) -> impl Iterator<Item = String> + 'c {
    let speaks_against = |condition: &&Value| {
        let (kind, holds) = (text(condition, "/type"), condition["status"] == "True");
        if holds { unwanted.contains(&kind) } else { needed.contains(&kind) }
    };
    let all = conditions.as_array().into_iter().flatten();
    all.filter(speaks_against).map(|condition| {
        let [kind, status, reason, message] =
            ["/type", "/status", "/reason", "/message"].map(|field| text(condition, field));
        format!("{kind} {status}, {reason}: {message}")
    })
}

/// The newest generation that conditions speak of.
pub(super) fn observed(conditions: &Value) -> Option<i64> {
    let all = conditions.as_array().into_iter().flatten();
    all.filter_map(|one| one["observedGeneration"].as_i64()).max()
}

/// Whether the object is asked about.
pub(super) fn in_namespace(object: &DynamicObject, view: &View<'_>) -> bool {
    view.namespace.is_none_or(|only| object.namespace().is_some_and(|namespace| namespace == only))
}

/// `HTTPRoute shop/web`.
pub(super) fn name(object: &DynamicObject) -> String {
    format!("{} {}/{}", kind(object), object.namespace().unwrap_or_default(), object.name_any())
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("object", |types| types.kind.as_str())
}

/// `Service shop/web` or `Gateway shop/front`, with its port or listener where one is named.
pub(super) fn shown(parent: &Value, object: &DynamicObject) -> String {
    let own = object.namespace().unwrap_or_default();
    let namespace = parent["namespace"].as_str().unwrap_or(&own);
    let kind = parent["kind"].as_str().unwrap_or("Gateway");
    let section = if kind == "Service" { "port" } else { "listener" };
    let port = parent["port"].as_i64().map(|port| format!(" port {port}"));
    let section = parent["sectionName"].as_str().map(|name| format!(" {section} {name}"));
    format!("{kind} {namespace}/{}{}", text(parent, "/name"), port.or(section).unwrap_or_default())
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}
