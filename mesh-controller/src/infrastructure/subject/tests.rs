//! What a Gateway's class and parameters make of it.

use serde_json::{Value, json};
use weft_model::gateway::{Listener, ListenerId};
use weft_model::{MeshConfig, TrustDomain};

use super::super::names;
use super::super::tests::settings;
use super::*;
use crate::inputs::Object;

fn inputs(gateway: Value, more: Vec<Value>) -> Inputs {
    let mut inputs = Inputs::new(MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    });
    let classes = [(names::CLASS, CONTROLLER_NAME), ("other", "example.com/other")].map(|(name, controller)| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": name},
            "spec": {"controllerName": controller},
        })
    });
    for object in classes.into_iter().chain([gateway]).chain(more) {
        inputs.insert(&Object::decode(object).unwrap());
    }
    inputs
}

fn gateway(class: &str, spec: Value) -> Value {
    let mut gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "front", "namespace": "shop", "uid": "u"},
        "spec": {
            "gatewayClassName": class,
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    });
    gateway["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    gateway
}

fn config_map(data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "shop"}, "data": data,
    })
}

/// The Gateway as it is translated: this port is served.
fn translated(port: u16, protocol: ListenerProtocol) -> BTreeMap<ResourceName, Resource> {
    let listener = Listener {
        id: ListenerId { listener_set: None, name: "one".into() },
        port,
        protocol,
        hostname: None,
        tls: None,
        filters: vec![],
        service_routes: false,
        refusal: None,
        refused_without: Vec::new(),
    };
    let gateway = Resource::Gateway(weft_model::gateway::Gateway {
        name: ObjectName::new("shop", "front"),
        generation: 1,
        listeners: vec![listener],
        client_certificate: None,
    });
    [(gateway.name(), gateway)].into()
}

fn objects(of: &Desired) -> &[Value] {
    match of.values().next().unwrap() {
        ForGateway::Exactly { objects, .. } => objects,
        ForGateway::AsItIs => panic!("nothing was decided"),
    }
}

fn services(of: &Desired) -> Vec<&Value> {
    objects(of).iter().filter(|object| object["kind"] == "Service").collect()
}

#[test]
fn only_gateways_of_our_classes_are_given_anything() {
    let resources = translated(80, ListenerProtocol::Http);
    let ours = all(&inputs(gateway("weft", json!({})), vec![]), &resources, &settings());
    assert_eq!(services(&ours).len(), 1);
    let others = all(&inputs(gateway("other", json!({})), vec![]), &resources, &settings());
    assert!(others.is_empty());
    let unknown = all(&inputs(gateway("gone", json!({})), vec![]), &resources, &settings());
    assert!(unknown.values().eq([&ForGateway::AsItIs]), "what is there is kept when a class is not known");
}

#[test]
fn ports_are_those_of_the_listeners_that_are_served() {
    let wanted =
        all(&inputs(gateway("weft", json!({})), vec![]), &translated(53, ListenerProtocol::Udp), &settings());
    assert_eq!(services(&wanted)[0]["spec"]["ports"][0]["protocol"], "UDP");
}

#[test]
fn addresses_without_a_value_share_one_service_and_types_that_are_not_ip_addresses_have_none() {
    let addresses = json!({"addresses": [
        {"type": "IPAddress", "value": "203.0.113.1"}, {"type": "IPAddress"}, {"value": ""},
        {"type": "Hostname", "value": "a.example"}, {"type": "example.com/odd", "value": "203.0.113.2"},
    ]});
    let wanted = all(
        &inputs(gateway("weft", addresses), vec![]),
        &translated(80, ListenerProtocol::Http),
        &settings(),
    );
    let asked: Vec<_> =
        services(&wanted).iter().map(|service| service["spec"].get("loadBalancerIP").cloned()).collect();
    assert_eq!(asked, [None, Some(json!("203.0.113.1"))]);
}

#[test]
fn annotations_of_the_gateway_itself_stay_there_and_those_of_its_infrastructure_are_copied() {
    // Copied to a Service or a Deployment, what asks cert-manager for a certificate might ask a second time.
    let mut gateway =
        gateway("weft", json!({"infrastructure": {"annotations": {"example.com/team": "shop"}}}));
    gateway["metadata"]["annotations"] = json!({"cert-manager.io/cluster-issuer": "letsencrypt"});
    gateway["metadata"]["labels"] = json!({"cert-manager.io/owner": "somebody"});
    let wanted = all(&inputs(gateway, vec![]), &translated(80, ListenerProtocol::Http), &settings());
    for object in objects(&wanted) {
        assert!(!object.to_string().contains("cert-manager"), "{object:#}");
        assert_eq!(object["metadata"]["annotations"]["example.com/team"], "shop", "{object:#}");
    }
}

#[test]
fn bad_parameters_are_judged_and_change_nothing() {
    let refers = |kind: &str| {
        let reference = json!({"group": "", "kind": kind, "name": "settings"});
        gateway("weft", json!({"infrastructure": {"parametersRef": reference}}))
    };
    let verdict = |inputs: &Inputs| {
        let (gateway, class) = (inputs.gateways.values().next().unwrap(), &inputs.gateway_classes["weft"]);
        parameters(inputs, gateway, class)
    };
    for (gateway, more) in [
        (refers("ConfigMap"), vec![]),
        (refers("Secret"), vec![]),
        (refers("ConfigMap"), vec![config_map(json!({"replicas": "many"}))]),
    ] {
        let inputs = inputs(gateway, more);
        verdict(&inputs).unwrap_err();
        let wanted = all(&inputs, &translated(80, ListenerProtocol::Http), &settings());
        assert!(wanted.values().eq([&ForGateway::AsItIs]));
    }
    let good = inputs(refers("ConfigMap"), vec![config_map(json!({"replicas": "3"}))]);
    assert_eq!(verdict(&good).unwrap().replicas, Some(3));
}

#[test]
fn everything_goes_when_weft_is_uninstalled() {
    let mut inputs = inputs(gateway("weft", json!({})), vec![]);
    inputs.uninstalling = true;
    assert!(all(&inputs, &translated(80, ListenerProtocol::Http), &settings()).is_empty());
}
