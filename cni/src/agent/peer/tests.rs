//! How the peer of a socket is told by its control group: paths as runtimes write them.

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::agent::pods::Facts;

const UID: &str = "0f9d3c1e-5a77-4b0e-9d3c-aa0000000001";
const TENANT: &str = "7c2b9a44-1111-4b0e-9d3c-bb0000000002";
const CONTAINER: &str = "4f5e6d7c8b9a0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899a";
const TENANTS: &str = "aaaaaaaa8b9a0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899a";

fn object(namespace: &str, name: &str, account: &str, uid: &str, container: &str) -> Value {
    json!({
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "ownerReferences": [
            {"kind": "DaemonSet", "name": account, "controller": true}]},
        "spec": {"nodeName": "one", "serviceAccountName": account},
        "status": {"containerStatuses": [{"containerID": format!("containerd://{container}")}]},
    })
}

fn table(objects: &[Value]) -> Table {
    let mut table = Table::default();
    for object in objects {
        let pod = Pod::from_object(object).unwrap();
        table.facts.insert(pod.uid.clone(), Facts::from_object(object));
        table.pods.insert(pod.name.clone(), pod);
    }
    table
}

fn node() -> Table {
    table(&[
        object("weft-system", "weft-proxy-1", "weft-proxy", UID, CONTAINER),
        object("shop", "cart-1", "cart", TENANT, TENANTS),
    ])
}

fn judged(paths: &[String], table: &Table) -> Result<ObjectName, Stranger> {
    judge(paths, table, &Config::parse_from(["weft-agent", "--node=one", "--kubernetes"]))
}

fn paths(uid: &str, container: &str) -> Vec<Vec<String>> {
    let under = uid.replace('-', "_");
    let v1 = format!("/kubepods/besteffort/pod{uid}/{container}");
    vec![
        // cgroup v1, without and with systemd; a hierarchy that the runtime leaves alone.
        vec![v1.clone(), "/".into(), v1],
        vec![
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{container}.scope"
            ),
            "/system.slice/containerd.service".into(),
        ],
        // cgroup v2, guaranteed, and as seen from another cgroup namespace.
        vec![format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{container}.scope")],
        vec![format!("/../../kubepods-burstable-pod{under}.slice/cri-containerd-{container}.scope")],
        // A node inside a container.
        vec![format!(
            "/docker/{}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice/cri-containerd-{container}.scope",
            "0".repeat(64)
        )],
        // A kubelet that makes no cgroups for pods.
        vec![format!("/k8s.io/{container}"), "/".into()],
        vec![format!("/system.slice/cri-containerd-{container}.scope")],
    ]
}

#[test]
fn proxys_pod_is_known_in_every_form_of_cgroup_and_a_tenants_is_refused() {
    for paths in paths(UID, CONTAINER) {
        assert_eq!(judged(&paths, &node()), Ok(ObjectName::new("weft-system", "weft-proxy-1")), "{paths:?}");
    }
    for paths in paths(TENANT, TENANTS) {
        let refused = Err(Stranger::Pod(ObjectName::new("shop", "cart-1")));
        assert_eq!(judged(&paths, &node()), refused, "{paths:?}");
    }
}

#[test]
fn host_processes_and_unknown_pods_are_strangers() {
    let mut others = paths("99999999-1111-4b0e-9d3c-bb0000000002", &"b".repeat(64));
    others.push(vec!["/".into()]);
    others.push(vec![
        "/user.slice/user-0.slice/session-1.scope".into(),
        "/system.slice/kubelet.service".into(),
    ]);
    others.push(vec![]);
    for paths in others {
        assert!(matches!(judged(&paths, &node()), Err(Stranger::Unknown(_))), "{paths:?}");
    }
}

#[test]
fn names_of_cgroups_that_a_pod_made_itself_do_not_count() {
    for inner in [format!("pod{UID}/{CONTAINER}"), CONTAINER.to_owned()] {
        let path = format!("/kubepods/pod{TENANT}/{TENANTS}/{inner}");
        assert!(matches!(judged(&[path], &node()), Err(Stranger::Pod(_))), "{inner}");
    }
    let mixed = [format!("/kubepods/pod{UID}/{CONTAINER}"), format!("/kubepods/pod{TENANT}/{TENANTS}")];
    assert!(matches!(judged(&mixed, &node()), Err(Stranger::Pod(_))));
}

#[test]
fn the_proxys_name_alone_is_not_enough() {
    let path = [format!("/kubepods/pod{UID}/{CONTAINER}")];
    let mut standalone = object("weft-system", "weft-proxy-1", "weft-proxy", UID, CONTAINER);
    standalone["metadata"]["ownerReferences"] = json!([]);
    for other in [
        object("shop", "weft-proxy-1", "weft-proxy", UID, CONTAINER),
        object("weft-system", "weft-proxy-1", "other", UID, CONTAINER),
        standalone,
    ] {
        assert!(matches!(judged(&path, &table(&[other])), Err(Stranger::Pod(_))));
    }
}
