//! Merging into a list shared with other controllers, and writing files.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::inputs::{Head, Object};
use crate::translate::status::{
    AncestorStatus, Condition, GatewayStatus, ListenerStatus, ParentStatus, PolicyStatus, RouteStatus,
    StatusParentRef,
};

fn ours(service: &str, accepted: &'static str, generation: i64) -> ParentStatus {
    ParentStatus {
        parent_ref: StatusParentRef {
            group: "",
            kind: "Service",
            namespace: "shop".into(),
            name: service.into(),
            section_name: None,
            port: Some(80),
        },
        controller_name: CONTROLLER_NAME,
        conditions: vec![Condition {
            kind: "Accepted",
            status: accepted,
            reason: "Accepted",
            message: String::new(),
            observed_generation: generation,
        }],
    }
}

fn status(parents: Vec<ParentStatus>) -> Status {
    Status::Route(RouteStatus { parents })
}

fn times(status: &Value) -> Vec<&str> {
    let parents = status["parents"].as_array().unwrap();
    parents.iter().map(|p| p["conditions"][0]["lastTransitionTime"].as_str().unwrap()).collect()
}

fn foreign() -> Value {
    json!({
        "parentRef": {"group": "", "kind": "Service", "namespace": "shop", "name": "cart", "port": 80},
        "controllerName": "example.com/other",
        "conditions": [{"type": "Accepted", "status": "False", "lastTransitionTime": "then", "observedGeneration": 1}],
    })
}

#[test]
fn a_condition_is_written_once_even_if_somebody_else_wrote_its_type_before() {
    let mut said = ours("cart", "True", 2);
    said.conditions[0].kind = "example.com/Unheard";
    let old = |kind: &str| json!({"type": kind, "status": "False", "lastTransitionTime": "then"});
    let mut current = foreign();
    current["controllerName"] = CONTROLLER_NAME.into();
    current["conditions"] = json!([old("example.com/Unheard"), old("example.com/Theirs")]);
    let merged = merge(&json!({"parents": [current]}), None, &status(vec![said]), "now");
    let kinds: Vec<_> = merged["parents"][0]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["type"].clone())
        .collect();
    assert_eq!(kinds, ["example.com/Unheard", "example.com/Theirs"]);
    assert_eq!(merged["parents"][0]["conditions"][0]["status"], "True");
}

#[test]
fn entries_of_other_controllers_stay_as_they_are() {
    let current = json!({"parents": [foreign()], "other": 1});
    let merged = merge(&current, None, &status(vec![ours("cart", "True", 2)]), "now");
    assert_eq!(merged["parents"][0], foreign());
    assert_eq!(merged["parents"][1]["controllerName"], CONTROLLER_NAME);
    assert_eq!(merged["other"], 1);
}

#[test]
fn entries_keep_their_places_so_that_two_controllers_do_not_push_each_other_about() {
    let mut current = merge(&Value::Null, None, &status(vec![ours("cart", "True", 1)]), "then");
    current["parents"].as_array_mut().unwrap().push(foreign());
    assert_eq!(merge(&current, None, &status(vec![ours("cart", "True", 1)]), "now"), current);

    let merged = merge(&current, None, &status(vec![ours("new", "True", 2), ours("cart", "True", 2)]), "now");
    let entries = merged["parents"].as_array().unwrap();
    let of: Vec<_> = entries.iter().map(|e| e["controllerName"].as_str().unwrap()).collect();
    assert_eq!(of, [CONTROLLER_NAME, "example.com/other", CONTROLLER_NAME]);
    assert_eq!(entries[2]["parentRef"]["name"], "new");
}

#[test]
fn our_entries_for_parents_that_are_gone_go() {
    let before =
        merge(&Value::Null, None, &status(vec![ours("old", "True", 1), ours("cart", "True", 1)]), "then");
    let merged = merge(&before, None, &status(vec![ours("cart", "True", 2)]), "now");
    assert_eq!(merged["parents"].as_array().unwrap().len(), 1);
    assert_eq!(merged["parents"][0]["parentRef"]["name"], "cart");
    assert_eq!(merged["parents"][0]["conditions"][0]["observedGeneration"], 2);
}

#[test]
fn transition_time_moves_only_when_the_status_of_the_condition_does() {
    let before = merge(&Value::Null, None, &status(vec![ours("a", "True", 1), ours("b", "True", 1)]), "then");
    let now = status(vec![ours("a", "True", 2), ours("b", "False", 2)]);
    assert_eq!(times(&merge(&Value::Null, Some(&before), &now, "now")), ["then", "now"]);
    assert_eq!(times(&merge(&before, None, &now, "now")), ["then", "now"]);
}

#[test]
fn conditions_of_unknown_types_stay_in_our_entries() {
    let mut before = merge(&Value::Null, None, &status(vec![ours("cart", "True", 1)]), "then");
    let theirs = json!({"type": "example.com/Checked", "status": "True"});
    let conditions = before["parents"][0]["conditions"].as_array_mut().unwrap();
    conditions.push(theirs.clone());
    conditions.push(json!({"type": "PartiallyInvalid", "status": "True"}));
    let merged = merge(&before, None, &status(vec![ours("cart", "True", 2)]), "now");
    let conditions = merged["parents"][0]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 2, "{conditions:?}");
    assert_eq!(conditions[1], theirs);
}

#[test]
fn list_never_grows_beyond_what_the_api_admits() {
    let current = json!({"parents": vec![foreign(); 31]});
    let merged = merge(&current, None, &status(vec![ours("a", "True", 1), ours("b", "True", 1)]), "now");
    assert_eq!(merged["parents"].as_array().unwrap().len(), 32);
    let ancestors = |count: usize| {
        let ancestor = |number| AncestorStatus {
            ancestor_ref: ours(&format!("s{number}"), "True", 1).parent_ref,
            controller_name: CONTROLLER_NAME,
            conditions: Vec::new(),
        };
        PolicyStatus { ancestors: (0..count).map(ancestor).collect() }
    };
    for (status, most) in [(Status::Policy(ancestors(40)), 16), (Status::XBackend(ancestors(40)), 32)] {
        let merged = merge(&Value::Null, None, &status, "now");
        assert_eq!(merged["ancestors"].as_array().unwrap().len(), most);
    }
}

fn route(name: &str) -> Arc<Head> {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": name, "uid": "u", "generation": 1}, "spec": {},
    });
    match Object::decode(object).unwrap() {
        Object::Route(route) => Arc::clone(&route.head),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unchanged_files_are_left_alone_and_those_of_gone_routes_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(format!("HTTPRoute/shop/{name}.json"));
    let routes: Heads = ["a", "b"].map(|name| (route(name).id.clone(), route(name))).into();
    let statuses = |names: &[&str]| -> Statuses {
        let named = |name: &&str| (route(name).id.clone(), status(vec![ours("cart", "True", 1)]));
        Arc::new(names.iter().map(named).collect())
    };
    let mut writer = StatusWriter::new(folder.path());
    assert!(writer.write(&statuses(&["a", "b"]), &routes, "then").is_empty());
    let written = std::fs::metadata(file("a")).unwrap().modified().unwrap();
    let text = std::fs::read_to_string(file("a")).unwrap();
    assert!(text.contains("\"lastTransitionTime\": \"then\""), "{text}");

    assert!(writer.write(&statuses(&["a"]), &routes, "now").is_empty());
    assert_eq!(std::fs::metadata(file("a")).unwrap().modified().unwrap(), written);
    assert!(!file("b").exists());

    // Another process goes on where the first one stopped.
    let mut writer = StatusWriter::new(folder.path());
    assert!(writer.write(&statuses(&["a"]), &routes, "later").is_empty());
    assert_eq!(std::fs::metadata(file("a")).unwrap().modified().unwrap(), written);
    let mut writer = StatusWriter::new(folder.path());
    assert!(writer.write(&statuses(&[]), &routes, "later").is_empty());
    assert!(!file("a").exists());
}

#[test]
fn status_that_cannot_be_written_keeps_no_other_from_being_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("HTTPRoute/shop/a.json")).unwrap();
    let routes: Heads = ["a", "b"].map(|name| (route(name).id.clone(), route(name))).into();
    let statuses = routes.keys().map(|name| (name.clone(), status(vec![ours("cart", "True", 1)])));
    let statuses = Arc::new(statuses.collect());
    let errors = StatusWriter::new(folder.path()).write(&statuses, &routes, "now");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("HTTPRoute/shop/a"), "{errors:?}");
    assert!(folder.path().join("HTTPRoute/shop/b.json").is_file());
}

fn condition(kind: &'static str, status: &'static str, generation: i64) -> Condition {
    Condition { kind, status, reason: kind, message: String::new(), observed_generation: generation }
}

#[test]
fn conditions_of_others_stay_on_a_gateway_and_on_its_listeners_and_nothing_stays_of_removed_listeners() {
    let foreign = json!({"type": "example.com/Seen", "status": "True", "lastTransitionTime": "then", "observedGeneration": 1});
    let old =
        json!({"type": "Accepted", "status": "True", "lastTransitionTime": "then", "observedGeneration": 1});
    let current = json!({
        "conditions": [foreign, old, {"type": "Programmed", "status": "False", "lastTransitionTime": "then"}],
        "listeners": [
            {"name": "web", "conditions": [old, foreign]},
            {"name": "gone", "conditions": [foreign]},
        ],
        "other": 1,
    });
    let listener = ListenerStatus {
        name: "web".into(),
        supported_kinds: Vec::new(),
        attached_routes: 0,
        conditions: vec![condition("Accepted", "True", 2)],
    };
    let ours = Status::Gateway(GatewayStatus {
        addresses: Vec::new(),
        attached_listener_sets: 0,
        conditions: vec![condition("Accepted", "True", 2), condition("Programmed", "True", 2)],
        listeners: vec![listener],
    });
    let merged = merge(&current, None, &ours, "now");
    let conditions = merged["conditions"].as_array().unwrap();
    assert_eq!(conditions[2], foreign);
    assert_eq!(
        (&conditions[0]["lastTransitionTime"], &conditions[0]["observedGeneration"]),
        (&json!("then"), &json!(2))
    );
    assert_eq!(conditions[1]["lastTransitionTime"], "now");
    assert_eq!(merged["listeners"].as_array().unwrap().len(), 1);
    assert_eq!(merged["listeners"][0]["conditions"][1], foreign);
    assert_eq!(merged["listeners"][0]["conditions"][0]["lastTransitionTime"], "then");
    assert_eq!(part(&merged, &ours).get("other"), None, "only what is ours is sent");
    assert_eq!(merge(&merged, None, &ours, "later"), merged);
}

#[test]
fn same_parent_under_another_controller_of_ours_is_another_entry() {
    let mut gateway = ours("web", "True", 1);
    gateway.controller_name = GATEWAY_CONTROLLER_NAME;
    let first = merge(&Value::Null, None, &status(vec![ours("web", "False", 1), gateway.clone()]), "then");
    let second = merge(&first, None, &status(vec![gateway]), "now");
    assert_eq!(second["parents"].as_array().unwrap().len(), 1);
    assert_eq!(second["parents"][0], first["parents"][1]);
}
