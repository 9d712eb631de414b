//! What is read from Pod objects, and which pods are to be enrolled.

use super::*;
use serde_json::json;

fn pod(label: Option<&str>, extra: Value) -> Pod {
    let mut object = json!({
        "metadata": {"namespace": "shop", "name": "a", "uid": "u1", "labels": {}},
        "spec": {"nodeName": "one"}, "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
    });
    if let Some(label) = label {
        object["metadata"]["labels"][MESH_LABEL] = label.into();
    }
    for (key, value) in extra.as_object().unwrap() {
        *object.pointer_mut(key).unwrap() = value.clone();
    }
    Pod::from_object(&object).unwrap()
}

#[test]
fn label_of_the_pod_wins_over_the_namespace() {
    for (namespace, own, expected) in [
        (None, None, Decision::Leave),
        (Some("enabled"), None, Decision::Enrol),
        (Some("disabled"), None, Decision::Leave),
        (Some("enabled"), Some("disabled"), Decision::Leave),
        (Some("disabled"), Some("enabled"), Decision::Enrol),
        (None, Some("enabled"), Decision::Enrol),
        (Some("Enabled"), None, Decision::Leave),
    ] {
        let mut table = Table::default();
        table.namespaces.insert("shop".into(), namespace.map(Into::into));
        assert_eq!(table.decide(&pod(own, json!({}))), expected, "{namespace:?} {own:?}");
    }
}

#[test]
fn host_network_terminal_and_system_pods_are_never_enrolled() {
    let mut table = Table::default();
    for namespace in ["shop", "kube-system", "weft-system"] {
        table.namespaces.insert(namespace.into(), Some("enabled".into()));
    }
    for extra in [
        json!({"/spec": {"hostNetwork": true}}),
        json!({"/status": {"phase": "Succeeded"}}),
        json!({"/status": {"phase": "Failed"}}),
        json!({"/metadata/namespace": "kube-system"}),
        json!({"/metadata/namespace": "weft-system"}),
    ] {
        assert_eq!(table.decide(&pod(Some("enabled"), extra.clone())), Decision::Leave, "{extra}");
    }
}

#[test]
fn pods_of_exempt_namespaces_are_never_enrolled() {
    let exempt = Exempt::with(["storage"]);
    let mut table = Table { exempt, ..Table::default() };
    for namespace in ["shop", "storage"] {
        table.namespaces.insert(namespace.into(), Some("enabled".into()));
    }
    let of = |namespace: &str| pod(Some("enabled"), json!({"/metadata/namespace": namespace}));
    assert_eq!(table.decide(&of("storage")), Decision::Leave);
    assert_eq!(table.decide(&of("shop")), Decision::Enrol);
}

#[test]
fn no_pod_is_enrolled_while_weft_is_uninstalled() {
    let mut table = Table { leaving: true, ..Table::default() };
    table.namespaces.insert("shop".into(), Some("enabled".into()));
    assert_eq!(table.decide(&pod(Some("enabled"), json!({}))), Decision::Leave);
}

/// Jobs, init containers, native sidecars, several containers, a pod that is being deleted: the network namespace is
/// the pod's, so nothing but its end decides.
#[test]
fn what_runs_in_a_pod_does_not_decide() {
    let mut table = Table::default();
    table.namespaces.insert("shop".into(), Some("enabled".into()));
    for extra in [
        json!({"/metadata": {"namespace": "shop", "name": "a", "uid": "u1",
            "ownerReferences": [{"kind": "Job", "name": "a", "controller": true}]}}),
        json!({"/spec": {"nodeName": "one", "restartPolicy": "Never", "initContainers": [
            {"name": "first"}, {"name": "sidecar", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]}}),
        json!({"/status": {"phase": "Pending"}}),
        json!({"/status": {"phase": "Running", "initContainerStatuses": [{"state": {"terminated": {}}}]}}),
        json!({"/status": {"phase": "Unknown"}}),
        json!({"/metadata": {"namespace": "shop", "name": "a", "uid": "u1",
            "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        json!({"/spec": {"nodeName": "one", "hostNetwork": false, "hostPID": true, "hostIPC": true}}),
    ] {
        assert_eq!(table.decide(&pod(None, extra.clone())), Decision::Enrol, "{extra}");
    }
}

#[test]
fn pod_of_an_unknown_namespace_is_undecided() {
    assert_eq!(Table::default().decide(&pod(None, json!({}))), Decision::Unknown);
}

#[test]
fn sidecar_of_another_mesh_is_told_by_its_containers_name() {
    let named =
        |place: &str, name: &str| pod(None, json!({"/spec": {place: [{"name": "a"}, {"name": name}]}}));
    for (place, name) in [("containers", "istio-proxy"), ("initContainers", "linkerd-init")] {
        assert_eq!(named(place, name).sidecar.as_deref(), Some(name));
    }
    assert_eq!(named("containers", "my-istio-proxy").sidecar, None);
}

#[test]
fn both_addresses_are_read() {
    let pod = pod(None, json!({}));
    assert_eq!(pod.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!(&*pod.service_account, "default");
}
