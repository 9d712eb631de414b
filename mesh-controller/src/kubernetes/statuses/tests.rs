//! Writing statuses to a small API server in process: shared with another controller, against conflicts and failures.

use std::collections::BTreeMap;

use weft_runtime::metrics::Metrics;
use weft_testkit::apiserver::ApiServer;

use super::*;
use crate::inputs::Inputs;
use crate::kubernetes::tests::{client, define_all, mesh, route, service};
use crate::kubernetes::{Kubernetes, WatchMetrics};
use crate::source::Source;
use crate::translate::translate;

const GATEWAY: &str = "gateway.networking.k8s.io";
const WAIT: Duration = Duration::from_secs(20);

/// A control loop without publishing: source, translation, statuses.
struct Rig {
    api: ApiServer,
    wanted: watch::Receiver<Wanted>,
    control: tokio::task::JoinHandle<()>,
    writer: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.control.abort();
        self.stop_writing();
    }
}

impl Rig {
    fn start(api: &ApiServer) -> Self {
        let mut source =
            Kubernetes::start(&client(api), mesh(), WatchMetrics::register(&mut Metrics::new("weft")));
        let mut sink = ApiStatuses::default();
        let wanted = sink.wanted();
        let control = tokio::spawn(async move {
            loop {
                source.changed().await;
                let inputs: Inputs = source.load(&mesh()).unwrap().inputs;
                sink.write(&Arc::new(translate(&inputs).statuses), &inputs.heads(), "");
            }
        });
        let mut rig = Self { api: api.clone(), wanted, control, writer: None };
        rig.start_writing();
        rig
    }

    fn start_writing(&mut self) {
        let (client, wanted) = (client(&self.api), self.wanted.clone());
        let metrics = StatusMetrics::register(&mut Metrics::new("weft"));
        self.writer = Some(tokio::spawn(async move { match write(client, wanted, metrics).await {} }));
    }

    fn stop_writing(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.abort();
        }
    }

    fn parents(&self, name: &str) -> Vec<Value> {
        let route = self.api.get(GATEWAY, "HTTPRoute", "shop", name).unwrap();
        route.pointer("/status/parents").and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// The generation that the first entry speaks of.
    fn generation(&self, name: &str) -> Option<i64> {
        self.parents(name).first()?["conditions"][0]["observedGeneration"].as_i64()
    }

    fn writes(&self) -> usize {
        self.api.writes().len()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let so = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(WAIT, so).await.unwrap_or_else(|_| panic!("{what} did not come about"));
    }

    /// Waits until everything that happened has been looked at: a further change has been written.
    async fn settle(&self) {
        self.api.put(route("settle", i64::try_from(self.api.calls().len()).unwrap()));
        let generation =
            self.api.get(GATEWAY, "HTTPRoute", "shop", "settle").unwrap()["metadata"]["generation"].clone();
        self.until("the last status", |rig| rig.generation("settle") == generation.as_i64()).await;
    }
}

fn accepted(parent: &Value) -> (&str, &str) {
    let condition = &parent["conditions"][0];
    (condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
}

fn foreign(message: &str) -> Value {
    json!({
        "parentRef": {"group": GATEWAY, "kind": "Gateway", "name": "edge"},
        "controllerName": "example.com/gateway",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}],
    })
}

/// Another controller writes its own entries, with the same care.
fn write_foreign(api: &ApiServer, name: &str, message: &str) {
    let mut object = api.get(GATEWAY, "HTTPRoute", "shop", name).unwrap();
    if object.get("status").is_none() {
        object["status"] = json!({"parents": []});
    }
    let parents = object["status"]["parents"].as_array_mut().unwrap();
    parents.retain(|it| it["controllerName"] != "example.com/gateway");
    parents.push(foreign(message));
    api.put(object);
}

#[tokio::test]
async fn every_service_parent_is_judged_and_a_gateway_is_not() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("cart"));
    let mut both = route("cart", 1);
    both["spec"]["parentRefs"] = json!([
        {"group": "", "kind": "Service", "name": "cart", "port": 80},
        {"group": "", "kind": "Service", "name": "nowhere"},
        {"group": GATEWAY, "kind": "Gateway", "name": "nowhere"},
    ]);
    api.put(both);
    let rig = Rig::start(&api);
    rig.until("the status", |rig| rig.parents("cart").len() == 2).await;
    let parents = rig.parents("cart");
    assert_eq!(
        parents[0]["parentRef"],
        json!({"group": "", "kind": "Service", "namespace": "shop", "name": "cart", "port": 80})
    );
    assert_eq!(accepted(&parents[0]), ("True", "Accepted"));
    assert_eq!(accepted(&parents[1]), ("False", "NoMatchingParent"));
    assert!(parents[0]["conditions"][0]["message"].as_str().unwrap().contains("no client is enrolled"));
    let write = &api.writes()[0];
    assert_eq!(
        (write.method.as_str(), &*write.path),
        ("PATCH", "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/cart/status")
    );
    assert!(write.body["metadata"]["resourceVersion"].is_string());
}

#[tokio::test]
async fn two_controllers_share_a_status() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("cart"));
    api.put(route("cart", 1));
    write_foreign(&api, "cart", "first");
    let rig = Rig::start(&api);
    rig.until("our entry", |rig| rig.parents("cart").len() == 2).await;
    assert_eq!(rig.parents("cart")[0], foreign("first"));

    write_foreign(&api, "cart", "second");
    rig.settle().await;
    let writes = rig.writes();
    assert_eq!(rig.parents("cart")[1], foreign("second"));

    // The other's writing gives us nothing to write, and the other way round a new generation leaves theirs alone.
    write_foreign(&api, "cart", "third");
    rig.settle().await;
    assert_eq!(rig.writes(), writes + 1, "{:?}", api.writes());
    api.put({
        let mut object = route("cart", 7);
        object["status"] = api.get(GATEWAY, "HTTPRoute", "shop", "cart").unwrap()["status"].clone();
        object
    });
    rig.until("the new generation", |rig| rig.generation("cart") == Some(2)).await;
    assert_eq!(rig.parents("cart")[1], foreign("third"));

    // Our entry goes with the last Service parent, theirs stays.
    let mut object = api.get(GATEWAY, "HTTPRoute", "shop", "cart").unwrap();
    object["spec"]["parentRefs"] = json!([{"group": GATEWAY, "kind": "Gateway", "name": "edge"}]);
    api.put(object);
    rig.until("the end of our entry", |rig| rig.parents("cart") == [foreign("third")]).await;
}

#[tokio::test]
async fn conflict_is_resolved_on_what_the_other_wrote() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("cart"));
    api.put(route("cart", 1));
    // Between our look and our write, twice, somebody writes.
    let (other, mut left) = (api.clone(), 2);
    api.fail(move |call| {
        if call.method == "PATCH" && left > 0 {
            left -= 1;
            let (other, message) = (other.clone(), format!("before {left}"));
            std::thread::spawn(move || write_foreign(&other, "cart", &message)).join().ok();
        }
        None
    });
    let rig = Rig::start(&api);
    rig.until("our entry", |rig| rig.parents("cart").len() == 2).await;
    assert_eq!(rig.parents("cart")[0], foreign("before 0"));
    assert_eq!(rig.writes(), 3, "{:?}", api.writes());
}

#[tokio::test]
async fn equal_status_is_not_written_by_the_next_leader_either() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("cart"));
    (0..30).for_each(|i| api.put(route(&format!("r{i}"), i)));
    let mut rig = Rig::start(&api);
    rig.until("all statuses", |rig| (0..30).all(|i| !rig.parents(&format!("r{i}")).is_empty())).await;
    let of_others =
        |rig: &Rig| rig.api.writes().iter().filter(|call| !call.path.contains("/settle/")).count();
    assert_eq!(of_others(&rig), 30, "each is written once");
    rig.settle().await;
    let before: BTreeMap<_, _> = (0..30).map(|i| (i, rig.parents(&format!("r{i}")))).collect();

    rig.stop_writing();
    rig.start_writing();
    rig.settle().await;
    assert_eq!(of_others(&rig), 30, "none of them is written again");
    let after: BTreeMap<_, _> = (0..30).map(|i| (i, rig.parents(&format!("r{i}")))).collect();
    assert_eq!(before, after);
}

#[tokio::test]
async fn failed_write_is_tried_again_and_keeps_no_other_from_being_written() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("cart"));
    api.put(route("a", 1));
    api.put(route("b", 1));
    let mut left = 2;
    api.fail(move |call| {
        let fails = call.method == "PATCH" && call.path.contains("/a/") && left > 0;
        left -= i32::from(fails);
        fails.then_some(422)
    });
    let rig = Rig::start(&api);
    rig.until("the other status", |rig| !rig.parents("b").is_empty()).await;
    rig.until("the status after all", |rig| !rig.parents("a").is_empty()).await;

    api.fail(|call| (call.method == "PATCH").then_some(503));
    api.put(route("a", 2));
    let tried = |rig: &Rig| rig.writes() >= 5;
    rig.until("a failure", tried).await;
    api.heal();
    rig.until("the status when all is well again", |rig| rig.generation("a") == Some(2)).await;
}

#[tokio::test]
async fn route_that_goes_meanwhile_disturbs_nothing() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("cart"));
    api.put(route("a", 1));
    let other = api.clone();
    api.fail(move |call| {
        let other = other.clone();
        if call.method == "PATCH" && call.path.contains("/a/") {
            std::thread::spawn(move || other.remove(GATEWAY, "HTTPRoute", "shop", "a")).join().ok();
        }
        None
    });
    let rig = Rig::start(&api);
    rig.settle().await;
    assert!(api.get(GATEWAY, "HTTPRoute", "shop", "a").is_none());
    assert_eq!(rig.writes(), 2);
}
