//! How pods are called while they enter the mesh and leave it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde_json::{Value, json};
use weft_model::workload::Transition;
use weft_model::{MeshConfig, Resource, TrustDomain};

use super::*;
use crate::inputs::Object;
use crate::translate::translate;

const SINCE: &str = "2026-01-01T12:00:00Z";

fn inputs(labels: &Value) -> Inputs {
    let mut inputs = Inputs::new(MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    });
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}});
    let pod = |name: &str, created: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": created},
            "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": if name == "old" { "10.1.0.1" } else { "10.1.0.2" }}]},
        })
    };
    for object in [namespace, pod("old", "2026-01-01T11:00:00Z"), pod("new", "2026-01-01T13:00:00Z")] {
        inputs.insert(&Object::decode(object).unwrap());
    }
    inputs
}

fn workload(inputs: &Inputs, uid: &str) -> (WorkloadProtocol, MtlsMode, Option<Transition>) {
    let translated = translate(inputs);
    let found = translated.resources.into_values().find_map(|resource| match resource {
        Resource::Workload(workload) if *workload.uid == *uid => Some(workload),
        _ => None,
    });
    found.map(|workload| (workload.protocol, workload.mtls, workload.transition)).unwrap()
}

use MtlsMode::{Permissive, Strict};
use WorkloadProtocol::{Plaintext, Tunnel};

#[test]
fn while_a_namespace_is_enrolled_plaintext_is_let_in_and_tunnels_go_to_those_who_are_served() {
    let mut inputs = inputs(&json!({"weft-mesh.dev/mesh": "enabled"}));
    assert_eq!(workload(&inputs, "old"), (Tunnel, Strict, None), "in doubt it is closed");
    inputs.enrolment.enrolling.insert("shop".into(), SINCE.parse().unwrap());
    inputs.enrolment.served.insert("old".into());
    assert_eq!(workload(&inputs, "old"), (Tunnel, Permissive, None));
    assert_eq!(workload(&inputs, "new"), (Plaintext, Permissive, Some(Transition::Enrolling)));
    inputs.enrolment.enrolling.clear();
    assert_eq!(workload(&inputs, "new"), (Tunnel, Strict, None), "it may be unserved, but never plaintext");
}

#[test]
fn new_pods_are_strict_at_once_where_the_namespace_says_so() {
    let mut inputs = inputs(&json!({"weft-mesh.dev/mesh": "enabled", "weft-mesh.dev/enrol": "immediate"}));
    inputs.enrolment.enrolling.insert("shop".into(), SINCE.parse().unwrap());
    assert_eq!(workload(&inputs, "old"), (Plaintext, Permissive, Some(Transition::Enrolling)));
    assert_eq!(workload(&inputs, "new"), (Tunnel, Strict, None));
}

#[test]
fn a_pod_that_leaves_lets_plaintext_in_before_callers_are_told() {
    let mut inputs = inputs(&json!({}));
    assert_eq!(workload(&inputs, "old"), (Plaintext, Permissive, None));
    assert!(translate(&inputs).nodes.is_empty());
    inputs.enrolment.served.insert("old".into());
    assert!(translate(&inputs).nodes["n1"].namespaces.contains("shop"), "its proxy needs to go on calling");
    inputs.enrolment = Enrolment { parting: ["old".into()].into(), ..Enrolment::default() };
    assert!(translate(&inputs).nodes["n1"].namespaces.contains("shop"), "for its last connections too");
    assert_eq!(workload(&inputs, "old"), (Plaintext, Permissive, None));
    inputs.enrolment.leaving.insert("old".into(), Leaving::Permitted);
    assert_eq!(workload(&inputs, "old"), (Tunnel, Permissive, None));
    inputs.enrolment.leaving.insert("old".into(), Leaving::Told);
    assert_eq!(workload(&inputs, "old"), (Plaintext, Permissive, Some(Transition::Leaving)));
}
