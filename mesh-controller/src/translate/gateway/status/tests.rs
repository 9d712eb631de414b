//! What a Gateway's status says of what was refused. Everything else about statuses is shown by goldens.

use serde_json::{Value, json};
use weft_model::{MeshConfig, ObjectName, TrustDomain};

use crate::infrastructure::plan::{Id, Made};
use crate::inputs::{Inputs, Object};
use crate::translate::status::{Condition, Status};
use crate::translate::translate;

fn inputs(objects: impl IntoIterator<Item = Value>) -> Inputs {
    let mut inputs = Inputs::new(MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    });
    for object in objects {
        inputs.insert(&Object::decode(object).unwrap());
    }
    inputs
}

fn gateway() -> Inputs {
    inputs([
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": {"name": "weft"}, "spec": {"controllerName": "weft-mesh.dev/gateway"},
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "web", "namespace": "edge", "generation": 3},
            "spec": {
                "gatewayClassName": "weft", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
            },
        }),
    ])
}

fn programmed(inputs: &Inputs) -> Condition {
    let status = translate(inputs).statuses.into_values().find_map(|status| match status {
        Status::Gateway(status) => Some(status),
        _ => None,
    });
    status.unwrap().conditions.into_iter().find(|it| it.kind == "Programmed").unwrap()
}

#[test]
fn what_the_api_server_refuses_is_told_by_the_gateway_that_needs_it() {
    let mut inputs = gateway();
    assert_eq!(programmed(&inputs).reason, "AddressNotAssigned");
    let id = Id { made: Made::Deployment, name: ObjectName::new("edge", "web-weft") };
    let why = "pods is forbidden: exceeded quota: small".to_owned();
    inputs.refused.insert(ObjectName::new("edge", "web"), [(id, why)].into());
    let condition = programmed(&inputs);
    assert_eq!((condition.status, condition.reason), ("False", "NoResources"));
    let said = &condition.message;
    assert!(said.contains("Deployment edge/web-weft: pods is forbidden: exceeded quota: small"), "{said}");
    assert!(said.contains("change what refuses it"), "{said}");
}

#[test]
fn an_address_that_is_asked_for_is_awaited_before_it_is_said_not_to_be_usable() {
    let asking = |status: Value| {
        let mut inputs = inputs([
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
                "metadata": {"name": "weft"}, "spec": {"controllerName": "weft-mesh.dev/gateway"},
            }),
            json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
                "metadata": {"name": "web", "namespace": "edge", "generation": 3},
                "spec": {
                    "gatewayClassName": "weft", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
                    "addresses": [{"type": "IPAddress", "value": "192.0.2.1"}, {"type": "IPAddress", "value": "192.0.2.2"}],
                },
                "status": status,
            }),
        ]);
        let name = ObjectName::new("edge", "web");
        inputs.awaited = ["192.0.2.1", "192.0.2.2"].map(|it| (name.clone(), it.parse().unwrap())).into();
        inputs
    };
    let reason = |inputs: &Inputs| programmed(inputs).reason;
    let mut inputs = asking(json!({}));
    assert_eq!(reason(&inputs), "Pending");
    inputs.awaited.pop_last();
    assert_eq!(reason(&inputs), "AddressNotUsable", "one of them has had its time");
    assert!(programmed(&inputs).message.contains("192.0.2.2"));

    // Whoever starts anew says what was said of this generation.
    let said = |generation| {
        let condition = json!({
            "type": "Programmed", "status": "False", "reason": "AddressNotUsable", "observedGeneration": generation,
        });
        asking(json!({"conditions": [condition]}))
    };
    assert_eq!(reason(&said(3)), "AddressNotUsable");
    assert_eq!(reason(&said(2)), "Pending");
}
