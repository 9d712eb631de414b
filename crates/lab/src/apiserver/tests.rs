//! What an API server does to objects, checked on the store.

use std::path::Path;

use super::*;

fn store(folder: &Path) -> Store {
    Store::new(&LabConfig::for_tests(folder))
}

fn documents(file: &str, objects: &[Value]) -> Vec<Document> {
    objects
        .iter()
        .enumerate()
        .map(|(i, o)| Document { file: file.into(), line: i + 1, object: o.clone(), made: false })
        .collect()
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "a"}, "spec": spec})
}

#[test]
fn generation_counts_spec_changes_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    let key = Key::new("Service", "a", "web");
    let mut object = service("web", json!({"ports": [{"port": 80}]}));
    store.apply_folder(documents("f", &[namespace("a"), object.clone()]), vec![]);
    let first = store.get(&key).unwrap().clone();
    assert_eq!(first["metadata"]["generation"], 1);
    object["metadata"]["labels"] = json!({"x": "y"});
    store.apply_folder(documents("f", &[namespace("a"), object.clone()]), vec![]);
    let second = store.get(&key).unwrap().clone();
    assert_eq!(second["metadata"]["generation"], 1);
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    object["spec"]["ports"][0]["port"] = json!(81);
    store.apply_folder(documents("f", &[namespace("a"), object]), vec![]);
    let third = store.get(&key).unwrap();
    assert_eq!(third["metadata"]["generation"], 2);
    assert_eq!(third["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(third["spec"]["clusterIP"], first["spec"]["clusterIP"]);
}

#[test]
fn a_refused_edit_keeps_the_last_good_version() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    let good = service("web", json!({"ports": [{"port": 80}]}));
    store.apply_folder(documents("f", &[namespace("a"), good]), vec![]);
    let bad = service("web", json!({"ports": [{"port": 0}]}));
    store.apply_folder(documents("f", &[namespace("a"), bad]), vec![]);
    assert_eq!(store.get(&Key::new("Service", "a", "web")).unwrap()["spec"]["ports"][0]["port"], 80);
    assert_eq!(store.rejected.len(), 1);
    assert_eq!(store.rejected[0].place, "f:2");
}

#[test]
fn an_unreadable_file_keeps_its_objects_and_a_missing_one_loses_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    store.apply_folder(documents("f", &[namespace("a")]), vec![]);
    let broken = RejectedObject { place: "f:1".to_owned(), ..RejectedObject::default() };
    store.apply_folder(vec![], vec![broken]);
    assert!(store.get(&Key::new("Namespace", "", "a")).is_some());
    store.apply_folder(vec![], vec![]);
    assert!(store.get(&Key::new("Namespace", "", "a")).is_none());
    assert!(store.get(&Key::new("ServiceAccount", "a", "default")).is_none());
}

#[test]
fn services_get_addresses_of_the_families_they_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    store.apply_folder(
        documents(
            "f",
            &[
                namespace("a"),
                service("single", json!({"ports": [{"port": 80}]})),
                service("dual", json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"})),
                service("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
                service("fixed", json!({"clusterIP": "10.96.0.77", "ports": [{"port": 80}]})),
                service("taken", json!({"clusterIP": "10.96.0.77", "ports": [{"port": 80}]})),
                service("foreign", json!({"clusterIP": "10.1.0.77", "ports": [{"port": 80}]})),
            ],
        ),
        vec![],
    );
    let ips = |name: &str| {
        store.get(&Key::new("Service", "a", name)).map(|s| s["spec"]["clusterIPs"].as_array().unwrap().len())
    };
    assert_eq!(ips("single"), Some(1));
    assert_eq!(ips("dual"), Some(2));
    assert_eq!(
        store.get(&Key::new("Service", "a", "headless")).unwrap()["spec"]["clusterIPs"],
        json!(["None"])
    );
    assert_eq!(store.get(&Key::new("Service", "a", "fixed")).unwrap()["spec"]["clusterIP"], "10.96.0.77");
    assert_eq!((ips("taken"), ips("foreign")), (None, None));
    assert_eq!(store.rejected.len(), 2);
}

#[test]
fn object_in_an_unknown_namespace_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    store.apply_folder(documents("f", &[service("web", json!({"ports": [{"port": 80}]}))]), vec![]);
    assert!(store.rejected[0].message.contains("namespaces \"a\" not found"));
}

#[test]
fn cluster_folder_holds_one_file_per_object_and_loses_deleted_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    store.apply_folder(documents("f", &[namespace("a")]), vec![]);
    store.sync().unwrap();
    let file = folder.path().join("cluster/Namespace/_/a.json");
    assert!(file.exists());
    store.apply_folder(vec![], vec![]);
    store.sync().unwrap();
    assert!(!file.exists());
}
