//! The source against a small API server in process: broken objects, versions that are forgotten, kinds that come, change
//! and go, watches that fail.

use std::time::Duration;

use serde_json::{Value, json};
use weft_model::{ObjectName, TrustDomain};
use weft_runtime::metrics::Metrics;
use weft_testkit::apiserver::ApiServer;

use super::*;
use crate::inputs::{Inputs, RouteKind, RouteName};

const GATEWAY: &str = "gateway.networking.k8s.io";
const WAIT: Duration = Duration::from_secs(20);

pub(crate) fn mesh() -> MeshConfig {
    MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    }
}

/// All kinds of the Gateway API in `v1`.
pub(crate) fn define_all(api: &ApiServer) {
    for kind in ["GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute", "UDPRoute", "ReferenceGrant"] {
        api.define(GATEWAY, kind, &["v1"]);
    }
}

pub(crate) fn client(api: &ApiServer) -> Client {
    Client::new(api.clone(), "default")
}

fn start(api: &ApiServer) -> Kubernetes {
    let metrics = WatchMetrics::register(&mut Metrics::new("weft"));
    Kubernetes::start(&client(api), mesh(), metrics)
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

pub(crate) fn route(name: &str, weight: i64) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [{"backendRefs": [{"name": "cart", "port": 80, "weight": weight}]}],
        },
    })
}

fn http(name: &str) -> RouteName {
    RouteName { kind: RouteKind::Http, name: ObjectName::new("shop", name) }
}

/// Waits until the objects are as they should be.
async fn until(source: &mut Kubernetes, what: &str, is_so: impl Fn(&Inputs) -> bool) -> Loaded {
    until_loaded(source, what, |loaded| is_so(&loaded.inputs)).await
}

/// Waits until what is loaded is as it should be.
async fn until_loaded(source: &mut Kubernetes, what: &str, is_so: impl Fn(&Loaded) -> bool) -> Loaded {
    let so = async {
        loop {
            if let Some(loaded) = source.load(&mesh()).filter(&is_so) {
                return loaded;
            }
            source.changed().await;
        }
    };
    tokio::time::timeout(WAIT, so).await.unwrap_or_else(|_| panic!("{what} did not come about"))
}

#[tokio::test]
async fn objects_are_loaded_once_every_kind_has_been_listed() {
    let api = ApiServer::new();
    define_all(&api);
    (0..1200).for_each(|i| api.put(service(&format!("s{i}"))));
    api.put(route("cart", 1));
    api.fail(|call| call.path.ends_with("/httproutes").then_some(403));
    let mut source = start(&api);
    let watches = source.watches();
    while !watches
        .missing()
        .is_some_and(|missing| missing.starts_with("the first list of HTTPRoute: asked for"))
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(source.load(&mesh()).is_none());
    api.heal();
    let loaded = until(&mut source, "a first list", |_| true).await;
    assert_eq!((loaded.inputs.services.len(), loaded.inputs.routes.len()), (1200, 1));
    assert_eq!(watches.missing(), None);
}

#[tokio::test]
async fn malformed_objects_stall_neither_a_list_nor_a_watch() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("a"));
    let odd = |name: &str| json!({"metadata": {"namespace": "shop", "name": name, "uid": "u"}, "spec": 5});
    api.put_raw("", "Service", "shop", "b", odd("b"));
    api.put_raw("", "Service", "shop", "c", json!(7));
    api.put(service("d"));
    api.put_raw(GATEWAY, "HTTPRoute", "shop", "odd", odd("odd"));
    let mut source = start(&api);
    let loaded = until(&mut source, "the list", |inputs| inputs.services.len() == 2).await;
    assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
    // A route that does not decode is there all the same, to refuse and to say so.
    assert!(loaded.inputs.routes[&http("odd")].spec.is_err());

    api.put_raw("", "Service", "shop", "e", json!("no object at all"));
    api.put_raw("", "Service", "shop", "f", odd("f"));
    api.put(service("g"));
    let loaded = until(&mut source, "the watch", |inputs| inputs.services.len() == 3).await;
    assert!(
        loaded.problems.iter().any(|problem| problem.contains("Service shop/f")),
        "{:?}",
        loaded.problems
    );
    api.put(service("f"));
    let loaded = until(&mut source, "the mended object", |inputs| inputs.services.len() == 4).await;
    assert!(!loaded.problems.iter().any(|problem| problem.contains("shop/f")), "{:?}", loaded.problems);
}

#[tokio::test]
async fn object_that_becomes_undecodable_stays_as_it_was_unless_it_is_another() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("a"));
    api.put(service("b"));
    let mut source = start(&api);
    until(&mut source, "the list", |inputs| inputs.services.len() == 2).await;
    let uid = api.get("", "Service", "shop", "a").unwrap()["metadata"]["uid"].clone();
    for (name, uid) in [("a", uid), ("b", json!("another"))] {
        let odd = json!({"metadata": {"namespace": "shop", "name": name, "uid": uid}, "spec": 5});
        api.put_raw("", "Service", "shop", name, odd);
    }
    let loaded = until(&mut source, "one of the two", |inputs| inputs.services.len() == 1).await;
    assert!(loaded.inputs.services.contains_key(&ObjectName::new("shop", "a")));
    assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
}

#[tokio::test]
async fn after_a_forgotten_version_everything_is_listed_anew() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("a"));
    api.put(service("b"));
    let mut source = start(&api);
    until(&mut source, "the list", |inputs| inputs.services.len() == 2).await;
    // What happens meanwhile is in no watch any more.
    api.fail(|call| (call.method == "WATCH").then_some(503));
    api.end_watches();
    while source.watches().troubles().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    api.remove("", "Service", "shop", "a");
    api.put(service("c"));
    api.forget();
    assert_eq!(source.load(&mesh()).unwrap().inputs.services.len(), 2);
    api.heal();
    let loaded = until(&mut source, "the new list", |inputs| {
        inputs.services.contains_key(&ObjectName::new("shop", "c"))
    });
    let loaded = loaded.await;
    assert!(!loaded.inputs.services.contains_key(&ObjectName::new("shop", "a")));
    while source.watches().troubles().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn version_that_is_gone_by_status_is_listed_anew_as_well() {
    let api = ApiServer::new();
    define_all(&api);
    let mut source = start(&api);
    until(&mut source, "the list", |_| true).await;
    let mut first = true;
    api.fail(move |call| {
        let gone = call.method == "WATCH" && call.path.ends_with("/services") && std::mem::take(&mut first);
        gone.then_some(410)
    });
    api.end_watches();
    api.put(service("a"));
    until(&mut source, "the object", |inputs| inputs.services.len() == 1).await;
}

#[tokio::test]
async fn kind_may_be_absent_come_change_its_version_and_go() {
    let api = ApiServer::new();
    let mut source = start(&api);
    until(&mut source, "the lists without the Gateway API", |inputs| inputs.routes.is_empty()).await;

    api.define(GATEWAY, "HTTPRoute", &["v1beta1"]);
    api.put(route("cart", 1));
    let version =
        |inputs: &Inputs| inputs.routes.get(&http("cart")).map(|route| route.head.api_version.clone());
    until(&mut source, "v1beta1", |inputs| version(inputs).is_some_and(|it| it.ends_with("/v1beta1"))).await;

    api.define(GATEWAY, "HTTPRoute", &["v1beta1", "v1"]);
    let loaded =
        until(&mut source, "v1", |inputs| version(inputs).is_some_and(|it| it.ends_with("/v1"))).await;
    assert!(loaded.inputs.routes[&http("cart")].spec.is_ok());

    api.define(GATEWAY, "HTTPRoute", &["v2"]);
    let loaded =
        until(&mut source, "v2", |inputs| version(inputs).is_some_and(|it| it.ends_with("/v2"))).await;
    let unknown = loaded.inputs.routes[&http("cart")].spec.as_ref().unwrap_err();
    assert!(unknown.contains("v2 is not known"), "{unknown}");

    // No version at all: what is known stays, and it is said.
    api.define(GATEWAY, "HTTPRoute", &[]);
    let noted = |loaded: &Loaded| loaded.problems.iter().any(|it| it.contains("serves no version"));
    let loaded = until_loaded(&mut source, "the note", noted).await;
    assert!(loaded.inputs.routes.contains_key(&http("cart")));

    api.undefine(GATEWAY, "HTTPRoute");
    until_loaded(&mut source, "the end", |it| it.inputs.routes.is_empty() && it.problems.is_empty()).await;
    api.define(GATEWAY, "HTTPRoute", &["v1"]);
    api.put(route("again", 1));
    until(&mut source, "the kind again", |inputs| inputs.routes.len() == 1).await;
}

#[tokio::test]
async fn definitions_are_known_with_their_release_and_fields_before_anything_is_translated() {
    let api = ApiServer::new();
    let definition = |release: &str, rule: Value| {
        let spec = json!({"properties": {"rules": {"items": {"properties": rule}}}});
        let schema = json!({"openAPIV3Schema": {"properties": {"spec": spec}}});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": "httproutes.gateway.networking.k8s.io",
                "annotations": {"gateway.networking.k8s.io/bundle-version": release},
            },
            "spec": {"versions": [
                {"name": "v1beta1", "served": true},
                {"name": "v1", "served": true, "schema": schema},
            ]},
            "status": {"conditions": [{"type": "Established", "status": "True"}]},
        })
    };
    api.define(GATEWAY, "HTTPRoute", &["v1", "v1beta1"]);
    api.put(definition("v1.6.2", json!({"name": {}})));
    let mut source = start(&api);
    let of = |inputs: &Inputs| {
        let definitions = inputs.definitions.as_ref().unwrap();
        assert!(definitions.keys().all(|kind| *kind == Kind::Route(RouteKind::Http)), "{definitions:?}");
        definitions.get(&Kind::Route(RouteKind::Http)).cloned()
    };
    let loaded = until(&mut source, "a first list", |_| true).await;
    let first = of(&loaded.inputs).unwrap();
    assert_eq!((first.release.as_deref(), first.fields), (Some("v1.6.2"), ["spec.rules[].name"].into()));
    api.put(definition("v1.7.0", json!({"name": {}, "retry": {}})));
    let newer = |inputs: &Inputs| of(inputs).is_some_and(|it| it.release.as_deref() == Some("v1.7.0"));
    let loaded = until(&mut source, "the newer one", newer).await;
    assert_eq!(of(&loaded.inputs).unwrap().fields.len(), 2);
    api.undefine(GATEWAY, "HTTPRoute");
    until(&mut source, "its end", |inputs| of(inputs).is_none()).await;
}

#[tokio::test]
async fn changed_status_alone_asks_for_no_translation() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(route("cart", 1));
    let mut source = start(&api);
    assert_eq!(source.changed().await, Change::Objects);
    let mut with_status = api.get(GATEWAY, "HTTPRoute", "shop", "cart").unwrap();
    with_status["status"] = json!({"parents": []});
    api.put(with_status);
    assert_eq!(source.changed().await, Change::Statuses);
    assert_eq!(
        source.load(&mesh()).unwrap().inputs.routes[&http("cart")].head.status,
        json!({"parents": []})
    );
    // An object that is written as it was is no change at all: the next one comes first.
    api.put(namespace("shop"));
    assert_eq!(source.changed().await, Change::Objects);
    api.put(namespace("shop"));
    let mut with_status = api.get(GATEWAY, "HTTPRoute", "shop", "cart").unwrap();
    with_status["status"] = json!({"parents": [1]});
    api.put(with_status);
    assert_eq!(source.changed().await, Change::Statuses);
}

#[tokio::test]
async fn failing_watch_is_told_and_counted_and_the_last_state_stays() {
    let api = ApiServer::new();
    define_all(&api);
    api.put(service("a"));
    let mut registry = Metrics::new("weft_controller");
    let metrics = WatchMetrics::register(&mut registry);
    let mut source = Kubernetes::start(&client(&api), mesh(), metrics);
    until(&mut source, "the list", |inputs| inputs.services.len() == 1).await;
    api.fail(|call| call.path.ends_with("/services").then_some(500));
    api.end_watches();
    let troubles = async {
        loop {
            match source.watches().troubles() {
                Some(troubles) => return troubles,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let troubles = tokio::time::timeout(WAIT, troubles).await.unwrap();
    assert!(
        troubles.starts_with("Service cannot be watched: asked for by the test (500 Fault)"),
        "{troubles}"
    );
    assert_eq!(source.load(&mesh()).unwrap().inputs.services.len(), 1);
    let text = registry.encode().unwrap();
    assert!(text.contains("weft_controller_watch_working{kind=\"Service\"} 0"), "{text}");
    assert!(text.contains("weft_controller_watch_working{kind=\"Pod\"} 1"), "{text}");
    api.heal();
    api.put(service("b"));
    until(&mut source, "the watch that works again", |inputs| inputs.services.len() == 2).await;
}

#[tokio::test]
async fn the_note_of_an_uninstallation_takes_every_pod_out_of_the_mesh_and_back() {
    let api = ApiServer::new();
    define_all(&api);
    api.define("apps", "DaemonSet", &["v1"]);
    let agents = |note: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"namespace": "weft-system", "name": "weft-agent",
                "annotations": {"weft-mesh.dev/uninstall": note}},
        })
    };
    api.put(agents("false"));
    let mut labelled = namespace("shop");
    labelled["metadata"]["labels"] = json!({"weft-mesh.dev/mesh": "enabled"});
    api.put(labelled);
    api.put(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "a", "uid": "a"},
        "spec": {"nodeName": "one", "containers": []},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
    }));
    let mut source = start(&api);
    source.watch_uninstallation(&client(&api), "weft-system");
    let wanted = |inputs: &Inputs| {
        let pod = inputs.pods.values().next();
        pod.map(|pod| inputs.is_wanted(&ObjectName::new("shop", "a"), pod))
    };
    until(&mut source, "a pod of the mesh", |inputs| wanted(inputs) == Some(true)).await;
    api.put(agents("true"));
    until(&mut source, "a pod that leaves", |inputs| wanted(inputs) == Some(false)).await;
    api.put(agents("false"));
    until(&mut source, "a pod that is back", |inputs| wanted(inputs) == Some(true)).await;
}

#[tokio::test]
async fn a_built_in_kind_that_is_not_served_is_absent_and_one_that_is_is_read_in_its_version() {
    let bundle = json!({
        "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle", "metadata": {"name": "example.com:x:1"},
        "spec": {"trustBundle": "no PEM"},
    });
    let api = ApiServer::new();
    define_all(&api);
    let mut without = start(&api);
    until(&mut without, "a first list", |inputs| !inputs.has_cluster_trust_bundles()).await;

    api.define("certificates.k8s.io", "ClusterTrustBundle", &["v1beta1"]);
    api.put(bundle);
    let mut with = start(&api);
    let loaded = until(&mut with, "the bundle", |inputs| !inputs.cluster_trust_bundles.is_empty()).await;
    assert!(loaded.inputs.has_cluster_trust_bundles());
    let read = &loaded.inputs.cluster_trust_bundles["example.com:x:1"];
    assert!(read.roots_pem.as_ref().is_err_and(|why| why.contains("trustBundle")), "{read:?}");
    api.remove("certificates.k8s.io", "ClusterTrustBundle", "", "example.com:x:1");
    until(&mut with, "its end", |inputs| inputs.cluster_trust_bundles.is_empty()).await;
}
