//! Gateways' objects on a small API server in process.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use weft_model::{ObjectName, TrustDomain};
use weft_testkit::apiserver::ApiServer;

use super::*;
use crate::infrastructure::parameters::Parameters;
use crate::infrastructure::plan::ForGateway;
use crate::infrastructure::request::{Reach, Services};
use crate::infrastructure::{Settings, Subject, Transport, desired};

const WAIT: Duration = Duration::from_secs(20);

type Sender = watch::Sender<Option<Arc<Desired>>>;

fn wanted(port: u16) -> Arc<Desired> {
    let settings = Settings {
        image: "weft/weft-proxy:1".into(),
        pull_policy: "IfNotPresent".into(),
        pull_secrets: Vec::new(),
        controller: "c:15012".into(),
        controller_name: "c".into(),
        root_pem: "PEM".into(),
        trust_domain: TrustDomain("cluster.local".into()),
    };
    let name = ObjectName::new("shop", "front");
    let subject = Subject {
        name: name.clone(),
        uid: "u1".into(),
        api_version: "gateway.networking.k8s.io/v1".into(),
        class: "weft".into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        services: Services { any: Some(Reach::AsConfigured), named: BTreeMap::new() },
        ports: BTreeSet::from([(port, Transport::Tcp)]),
        parameters: Parameters::default(),
    };
    let objects = desired(&subject, &settings);
    Arc::new([(name, ForGateway::Exactly { uid: "u1".into(), objects })].into())
}

fn keep_of(api: &ApiServer) -> (Sender, tokio::task::JoinHandle<()>) {
    let (sender, _, keeping) = keep_and_tell(api);
    (sender, keeping)
}

fn keep_and_tell(api: &ApiServer) -> (Sender, watch::Receiver<Refused>, tokio::task::JoinHandle<()>) {
    let client = Client::new(api.clone(), "default");
    let (sender, receiver) = watch::channel(None);
    let (told, refused) = watch::channel(Refused::new());
    (sender, refused, tokio::spawn(async move { match keep(client, receiver, told).await {} }))
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT, so).await.unwrap_or_else(|_| panic!("{what} did not come about"));
}

fn service(api: &ApiServer) -> Option<Value> {
    api.get("", "Service", "shop", "front-weft")
}

#[tokio::test]
async fn what_a_gateway_needs_is_made_repaired_and_removed() {
    let api = ApiServer::new();
    let (sender, keeping) = keep_of(&api);
    sender.send_replace(Some(wanted(80)));
    until("everything", || api.get("apps", "Deployment", "shop", "front-weft").is_some()).await;
    until("the Service", || service(&api).is_some_and(|s| s["spec"]["ports"][0]["port"] == 80)).await;

    // Somebody else changes it.
    let mut changed = service(&api).unwrap();
    changed["spec"]["type"] = "NodePort".into();
    api.put(changed);
    until("the repair", || service(&api).is_some_and(|s| s["spec"]["type"] == "LoadBalancer")).await;
    api.remove("", "ServiceAccount", "shop", "front-weft");
    until("the account", || api.get("", "ServiceAccount", "shop", "front-weft").is_some()).await;

    sender.send_replace(Some(wanted(81)));
    until("the new port", || service(&api).is_some_and(|s| s["spec"]["ports"][0]["port"] == 81)).await;

    // When nothing is to be done, nothing is.
    let mut writes = 0;
    for _ in 0..20 {
        let before = std::mem::replace(&mut writes, api.writes().len());
        if before == writes {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(api.writes().len(), writes);

    sender.send_replace(Some(Arc::default()));
    until("the end", || service(&api).is_none()).await;
    until("the end", || api.get("apps", "Deployment", "shop", "front-weft").is_none()).await;
    keeping.abort();
}

#[tokio::test]
async fn objects_of_others_are_not_touched() {
    let api = ApiServer::new();
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "front-weft", "namespace": "shop"},
        "spec": {"type": "ClusterIP"},
    });
    api.put(theirs);
    // It looks like ours, but belongs to nobody.
    api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "shop", "labels": {MANAGED_BY: CONTROLLER}},
    }));
    let (sender, keeping) = keep_of(&api);
    sender.send_replace(Some(wanted(80)));
    until("the rest", || api.get("apps", "Deployment", "shop", "front-weft").is_some()).await;
    assert_eq!(service(&api).unwrap()["spec"], json!({"type": "ClusterIP"}));
    assert!(api.get("", "ConfigMap", "shop", "settings").is_some());

    api.remove("", "Service", "shop", "front-weft");
    until("the Service", || service(&api).is_some_and(|s| s["spec"]["type"] == "LoadBalancer")).await;
    keeping.abort();
}

#[tokio::test]
async fn what_is_refused_is_told_with_the_reason_and_as_one_event_until_it_is_made() {
    let api = ApiServer::new();
    api.define("events.k8s.io", "Event", &["v1"]);
    api.fail(|call| (call.method == "PATCH" && call.path.contains("/services/")).then_some(403));
    let (sender, refused, keeping) = keep_and_tell(&api);
    sender.send_replace(Some(wanted(80)));
    let message = || crate::infrastructure::refused::message(refused.borrow().values().next()?);
    until("the refusal", || message().is_some()).await;
    let said = message().unwrap();
    assert!(said.starts_with("Service shop/front-weft: asked for by the test (403 "), "{said}");
    assert_eq!(refused.borrow().keys().map(ToString::to_string).collect::<Vec<_>>(), ["shop/front"]);
    // Tried again at least once, and told once.
    let tries = || api.writes().iter().filter(|write| write.path.contains("/services/")).count();
    until("another try", || tries() > 1).await;
    let of_events = |call: &weft_testkit::apiserver::Call| call.path.ends_with("/namespaces/shop/events");
    let events: Vec<Value> = api.writes().into_iter().filter(of_events).map(|call| call.body).collect();
    let [event] = &*events else { panic!("{events:?}") };
    assert_eq!((&event["reason"], &event["type"]), (&json!("NoResources"), &json!("Warning")));
    assert_eq!(event["regarding"]["kind"], "Gateway");
    assert_eq!((&event["regarding"]["name"], &event["regarding"]["uid"]), (&json!("front"), &json!("u1")));
    assert!(event["note"].as_str().unwrap().contains("Service shop/front-weft"), "{event}");

    api.heal();
    until("the Service", || service(&api).is_some()).await;
    until("the end of the refusal", || refused.borrow().is_empty()).await;

    // The Deployment is admitted, its pods are not.
    let mut deployment = api.get("apps", "Deployment", "shop", "front-weft").unwrap();
    deployment["status"] = json!({"conditions": [
        {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"},
    ]});
    api.put(deployment.clone());
    until("the refused pods", || message().is_some_and(|it| it.contains("exceeded quota: small"))).await;
    deployment["status"] = json!({"conditions": []});
    api.put(deployment);
    until("the end of it", || refused.borrow().is_empty()).await;
    keeping.abort();
}

#[tokio::test]
async fn nothing_is_touched_before_it_is_known_what_there_should_be() {
    let api = ApiServer::new();
    let (first, keeping) = keep_of(&api);
    first.send_replace(Some(wanted(80)));
    until("everything", || api.get("apps", "Deployment", "shop", "front-weft").is_some()).await;
    keeping.abort();
    let (_second, keeping) = keep_of(&api);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(service(&api).is_some());
    keeping.abort();
}
