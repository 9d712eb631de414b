//! What the controller says about Gateways, routes and what belongs to them: read from the folder of statuses.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::apiserver::Store;
use crate::config::State;
use crate::objects::{Key, text};
use crate::report::ObjectReport;

/// Whose Gateways Weft serves.
const CONTROLLER: &str = "weft-mesh.dev/gateway";
/// The kinds whose statuses are shown, in this order.
const KINDS: [&str; 10] = [
    "Gateway",
    "ListenerSet",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "BackendTLSPolicy",
    "XBackend",
    "XBackendTrafficPolicy",
];
/// Conditions that are bad news when they are true, and none otherwise.
const BAD: [&str; 4] =
    ["Conflicted", "InsecureFrontendValidationMode", "OverlappingTLSConfig", "PartiallyInvalid"];
/// Why a Gateway is not programmed when that only takes its time.
const ON_THE_WAY: [&str; 3] = ["", "Pending", "AddressNotAssigned"];

/// All statuses, a row for each listener and each parent of a route.
pub(crate) fn all(state: &State) -> Vec<ObjectReport> {
    let mut rows = Vec::new();
    for kind in KINDS {
        for namespace in sorted(&state.status().join(kind)) {
            for file in sorted(&namespace) {
                if let Some(object) = read(&file) {
                    describe(&object, &mut rows);
                }
            }
        }
    }
    rows
}

/// The Gateways of Weft that will serve and do not yet, in words.
pub(crate) fn waited_for(store: &Store, state: &State) -> Vec<String> {
    let is_ours = |gateway: &Value| {
        let class = Key::new("GatewayClass", "", text(gateway, "/spec/gatewayClassName"));
        store.get(&class).is_some_and(|class| text(class, "/spec/controllerName") == CONTROLLER)
    };
    let gateways = store.kind("Gateway").filter(|(_, gateway)| is_ours(gateway));
    gateways
        .filter_map(|(key, gateway)| {
            let status = read(&state.status().join(key.path())).unwrap_or_default();
            let generation = |of: &Value| of.pointer("/metadata/generation").cloned();
            let (reason, message) = match generation(&status) == generation(gateway) {
                true => not_programmed(&status)?,
                false => (String::new(), "the controller has not judged it yet".to_owned()),
            };
            ON_THE_WAY.contains(&&*reason).then(|| format!("{key} is not programmed: {message}"))
        })
        .collect()
}

fn not_programmed(status: &Value) -> Option<(String, String)> {
    let conditions = list(status.pointer("/status/conditions"));
    let programmed = conditions.iter().find(|condition| text(condition, "/type") == "Programmed")?;
    let words = |field| text(programmed, field).to_owned();
    (text(programmed, "/status") != "True").then(|| (words("/reason"), words("/message")))
}

fn describe(object: &Value, rows: &mut Vec<ObjectReport>) {
    let key = Key::of(object);
    let row = |of: String, addresses: Vec<String>, conditions: Option<&Value>| {
        let (status, message) = judged(list(conditions));
        let Key { kind, namespace, name } = key.clone();
        ObjectReport { kind, namespace, name, of, addresses, status, message }
    };
    let status = object.get("status").unwrap_or(&Value::Null);
    if status.get("conditions").is_some() {
        let addresses = list(status.get("addresses")).iter().map(|of| text(of, "/value").to_owned());
        rows.push(row(String::new(), addresses.collect(), status.get("conditions")));
    }
    for listener in list(status.get("listeners")) {
        let routes = listener.get("attachedRoutes").and_then(Value::as_u64).unwrap_or(0);
        let plural = if routes == 1 { "" } else { "s" };
        let of = format!("listener {}, {routes} route{plural}", text(listener, "/name"));
        rows.push(row(of, Vec::new(), listener.get("conditions")));
    }
    let shared = [("parents", "/parentRef"), ("ancestors", "/ancestorRef")];
    for (field, pointer) in shared {
        for entry in list(status.get(field)) {
            let of = entry.pointer(pointer).map(reference).unwrap_or_default();
            rows.push(row(of, Vec::new(), entry.get("conditions")));
        }
    }
}

/// A parentRef in words.
fn reference(of: &Value) -> String {
    let kind = match text(of, "/kind") {
        "" => "Gateway",
        kind => kind,
    };
    let mut words = format!("{kind} {}", text(of, "/name"));
    if let Some(port) = of.get("port") {
        words += &format!(" port {port}");
    }
    match text(of, "/sectionName") {
        "" => words,
        section => format!("{words} section {section}"),
    }
}

/// Conditions in short, and the message of the first that is bad news.
fn judged(conditions: &[Value]) -> (String, String) {
    let (mut words, mut message) = (Vec::new(), String::new());
    for condition in conditions {
        let (kind, holds) = (text(condition, "/type"), text(condition, "/status") == "True");
        match (BAD.contains(&kind), holds) {
            (true, false) => continue,
            (false, true) => words.push(kind.to_owned()),
            (true, true) | (false, false) => {
                let not = if holds { "" } else { "not " };
                words.push(format!("{not}{kind} ({})", text(condition, "/reason")));
                if message.is_empty() {
                    text(condition, "/message").clone_into(&mut message);
                }
            }
        }
    }
    (words.join(", "), message)
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn sorted(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let shown = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut paths: Vec<_> = shown.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn read(file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_listener_and_each_parent_has_a_row() {
        let yes = |kind: &str| json!({"type": kind, "status": "True"});
        let no = json!({"type": "Accepted", "status": "False", "reason": "NoMatchingParent", "message": "no port 1"});
        let gateway = json!({
            "kind": "Gateway", "metadata": {"namespace": "shop", "name": "front"},
            "status": {
                "addresses": [{"type": "IPAddress", "value": "198.18.1.10"}],
                "conditions": [yes("Accepted"), yes("Programmed")],
                "listeners": [{"name": "http", "attachedRoutes": 1, "conditions": [
                    yes("Accepted"), {"type": "Conflicted", "status": "False"},
                ]}],
            },
        });
        let route = json!({
            "kind": "HTTPRoute", "metadata": {"namespace": "shop", "name": "front"},
            "status": {"parents": [
                {"parentRef": {"name": "front", "sectionName": "http"}, "conditions": [yes("Accepted")]},
                {"parentRef": {"kind": "Service", "name": "catalog", "port": 1}, "conditions": [no]},
            ]},
        });
        let mut rows = Vec::new();
        describe(&gateway, &mut rows);
        describe(&route, &mut rows);
        let shown: Vec<_> = rows.iter().map(|row| (row.of.as_str(), row.status.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("", "Accepted, Programmed"),
                ("listener http, 1 route", "Accepted"),
                ("Gateway front section http", "Accepted"),
                ("Service catalog port 1", "not Accepted (NoMatchingParent)"),
            ]
        );
        assert_eq!((rows[0].addresses[0].as_str(), rows[3].message.as_str()), ("198.18.1.10", "no port 1"));
    }
}
