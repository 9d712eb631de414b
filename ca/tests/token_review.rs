//! Proof by service-account tokens, against an API server that the test plays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Pods, ask};
use tonic::Code;
use weft_ca::{
    Authenticator, Authority, Caller, CertificatesService, Node, ProofError, Rate, Settings,
    TokenReviewAuthenticator, TokenReviewSettings,
};
use weft_model::{Identity, TrustDomain};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const PROXY: &str = "/api/v1/namespaces/weft-system/pods/weft-proxy-1";
const DAEMON_SET: &str = "/apis/apps/v1/namespaces/weft-system/daemonsets/weft-proxy";
const TENANT: &str = "/api/v1/namespaces/shop/pods/cart-1";

/// What the API server holds: objects by path, reviews by token; and what it was asked.
#[derive(Default)]
struct Cluster {
    objects: BTreeMap<String, Value>,
    reviews: BTreeMap<String, Value>,
    /// Answers every question with this status.
    broken: Option<StatusCode>,
    asked: Vec<String>,
}

#[derive(Clone, Default)]
struct Api(Arc<Mutex<Cluster>>);

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
}

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut cluster = self.0.lock();
        cluster.asked.push(path.clone());
        if let Some(status) = cluster.broken {
            return answer(status, &json!({"kind": "Status", "message": "broken", "code": status.as_u16()}));
        }
        if path == REVIEWS {
            assert_eq!(method, Method::POST);
            let review: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(review["spec"]["audiences"], json!(["weft-ca"]));
            let unknown = json!({"authenticated": false, "error": "invalid bearer token"});
            let token = review["spec"]["token"].as_str().unwrap();
            let status = cluster.reviews.get(token).cloned().unwrap_or(unknown);
            return answer(StatusCode::CREATED, &json!({"metadata": {}, "spec": {}, "status": status}));
        }
        match cluster.objects.get(&path) {
            Some(object) => answer(StatusCode::OK, object),
            None => {
                let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound",
                    "message": "not found", "code": 404});
                answer(StatusCode::NOT_FOUND, &status)
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.0.lock());
    }

    fn count(&self, path: &str) -> usize {
        self.0.lock().asked.iter().filter(|asked| *asked == path).count()
    }
}

fn review(user: &str, pod: &str, uid: &str) -> Value {
    json!({
        "authenticated": true,
        "audiences": ["weft-ca"],
        "user": {"username": format!("system:serviceaccount:{user}"), "uid": "1", "extra": {
            "authentication.kubernetes.io/pod-name": [pod],
            "authentication.kubernetes.io/pod-uid": [uid],
            "authentication.kubernetes.io/node-name": ["one"],
        }},
    })
}

fn pod(account: &str, name: &str, uid: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": uid},
        "spec": {"nodeName": "one", "serviceAccountName": account, "containers": []},
        "status": {"phase": "Running"},
    })
}

/// A node's proxy, and a tenant's pod on the same node.
fn api() -> Api {
    let mut proxy = pod("weft-proxy", "weft-proxy-1", "p1");
    proxy["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "weft-proxy", "uid": "d1", "controller": true},
    ]);
    let api = Api::default();
    api.change(|cluster| {
        cluster.objects.insert(PROXY.into(), proxy);
        let set = json!({"metadata": {"name": "weft-proxy", "uid": "d1"}});
        cluster.objects.insert(DAEMON_SET.into(), set);
        cluster.objects.insert(TENANT.into(), pod("cart", "cart-1", "c1"));
        cluster
            .reviews
            .insert("a.proxy.token".into(), review("weft-system:weft-proxy", "weft-proxy-1", "p1"));
        cluster.reviews.insert("a.tenant.token".into(), review("shop:cart", "cart-1", "c1"));
    });
    api
}

fn authenticator(api: &Api) -> TokenReviewAuthenticator {
    TokenReviewAuthenticator::new(
        api.client(),
        TokenReviewSettings::new(TrustDomain("td".into()), "weft-system"),
    )
}

async fn judge(api: &Api, token: &str) -> Result<Caller, ProofError> {
    authenticator(api).authenticate(token).await
}

fn one() -> Caller {
    Caller::Node(Node { name: "one".into() })
}

fn workload(uri: &str) -> Caller {
    Caller::Workload(uri.parse().unwrap())
}

#[tokio::test]
async fn a_token_of_the_proxys_daemon_set_proves_its_node() {
    assert_eq!(judge(&api(), "a.proxy.token").await, Ok(one()));
}

#[tokio::test]
async fn a_token_without_the_nodes_name_proves_the_node_that_the_pod_is_bound_to() {
    let api = api();
    api.change(|cluster| {
        let review = cluster.reviews.get_mut("a.proxy.token").unwrap();
        review["user"]["extra"].as_object_mut().unwrap().remove("authentication.kubernetes.io/node-name");
    });
    assert_eq!(judge(&api, "a.proxy.token").await, Ok(one()));
}

#[tokio::test]
async fn any_other_pod_proves_its_own_identity_only() {
    assert_eq!(judge(&api(), "a.tenant.token").await, Ok(workload("spiffe://td/ns/shop/sa/cart")));
}

type Change = fn(&mut Cluster);

#[tokio::test]
async fn what_is_not_wholly_the_proxys_daemon_set_is_no_node() {
    let own = || workload("spiffe://td/ns/weft-system/sa/weft-proxy");
    let cases: [(&str, Change); 6] = [
        ("no owner", |c| {
            c.objects.get_mut(PROXY).unwrap()["metadata"]["ownerReferences"] = json!([]);
        }),
        ("an owner that does not control it", |c| {
            c.objects.get_mut(PROXY).unwrap()["metadata"]["ownerReferences"][0]["controller"] = json!(false);
        }),
        ("another kind of owner", |c| {
            c.objects.get_mut(PROXY).unwrap()["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet");
        }),
        ("another DaemonSet", |c| {
            c.objects.get_mut(PROXY).unwrap()["metadata"]["ownerReferences"][0]["name"] = json!("mine");
        }),
        ("an earlier DaemonSet of that name", |c| {
            c.objects.get_mut(DAEMON_SET).unwrap()["metadata"]["uid"] = json!("d2");
        }),
        ("no DaemonSet", |c| {
            c.objects.remove(DAEMON_SET);
        }),
    ];
    for (what, change) in cases {
        let api = api();
        api.change(change);
        assert_eq!(judge(&api, "a.proxy.token").await, Ok(own()), "{what}");
    }
}

#[tokio::test]
async fn the_proxys_names_in_another_namespace_are_no_node() {
    let api = api();
    api.change(|cluster| {
        let proxy = cluster.objects[PROXY].clone();
        cluster.objects.insert("/api/v1/namespaces/shop/pods/weft-proxy-1".into(), proxy);
        cluster.reviews.insert("a.forged.token".into(), review("shop:weft-proxy", "weft-proxy-1", "p1"));
    });
    assert_eq!(judge(&api, "a.forged.token").await, Ok(workload("spiffe://td/ns/shop/sa/weft-proxy")));
}

fn proxy_review(cluster: &mut Cluster) -> &mut Value {
    cluster.reviews.get_mut("a.proxy.token").unwrap()
}

fn proxy_pod(cluster: &mut Cluster) -> &mut Value {
    cluster.objects.get_mut(PROXY).unwrap()
}

#[tokio::test]
async fn tokens_that_are_not_a_live_pods_prove_nobody() {
    let cases: [(&str, Change); 13] = [
        ("an unknown token", |c| c.reviews.clear()),
        ("no audience", |c| proxy_review(c)["audiences"] = Value::Null),
        ("another audience", |c| proxy_review(c)["audiences"] = json!(["api"])),
        ("a user", |c| proxy_review(c)["user"]["username"] = json!("admin")),
        ("no user", |c| proxy_review(c)["user"] = Value::Null),
        ("a token of no pod", |c| proxy_review(c)["user"]["extra"] = Value::Null),
        ("a pod that is gone", |c| drop(c.objects.remove(PROXY))),
        ("a later pod of that name", |c| proxy_pod(c)["metadata"]["uid"] = json!("p2")),
        ("another service account", |c| proxy_pod(c)["spec"]["serviceAccountName"] = json!("other")),
        ("a pod that succeeded", |c| proxy_pod(c)["status"]["phase"] = json!("Succeeded")),
        ("a pod that failed", |c| proxy_pod(c)["status"]["phase"] = json!("Failed")),
        ("another node than the pod's", |c| proxy_pod(c)["spec"]["nodeName"] = json!("two")),
        ("a pod of no node", |c| proxy_pod(c)["spec"]["nodeName"] = Value::Null),
    ];
    for (what, change) in cases {
        let api = api();
        api.change(change);
        assert_eq!(judge(&api, "a.proxy.token").await, Err(ProofError::Invalid), "{what}");
    }
}

#[tokio::test]
async fn what_has_not_the_form_of_a_token_is_not_shown_to_the_api_server() {
    let api = api();
    for token in ["", "one", "one:secret", "a.b", "a.b.c.d", &"a.b.c".repeat(4000)] {
        assert_eq!(judge(&api, token).await, Err(ProofError::Invalid), "{token}");
    }
    assert_eq!(api.count(REVIEWS), 0);
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_proves_nobody_and_is_asked_again() {
    let api = api();
    let authenticator = authenticator(&api);
    for status in [StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE] {
        api.change(|cluster| cluster.broken = Some(status));
        let judged = authenticator.authenticate("a.proxy.token").await;
        assert!(
            matches!(&judged, Err(ProofError::Unavailable(why)) if why.contains("API server")),
            "{judged:?}"
        );
    }
    api.change(|cluster| cluster.broken = None);
    assert_eq!(authenticator.authenticate("a.proxy.token").await, Ok(one()));
    api.change(|cluster| cluster.broken = Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(authenticator.authenticate("a.proxy.token").await, Ok(one()), "it was answered a moment ago");
}

#[tokio::test]
async fn a_tenants_pod_is_refused_its_neighbours_identity_and_gets_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::new(TrustDomain("td".into()));
    let authority =
        Arc::new(Authority::open(&directory.path().join("ca"), settings, SystemTime::now()).unwrap());
    let cart: Identity = "spiffe://td/ns/shop/sa/cart".parse().unwrap();
    let neighbour: Identity = "spiffe://td/ns/shop/sa/payments".parse().unwrap();
    let elsewhere: Identity = "spiffe://td/ns/shop/sa/elsewhere".parse().unwrap();
    let pods = Pods::of([(cart.clone(), "one"), (neighbour.clone(), "one"), (elsewhere.clone(), "two")]);
    let api = api();
    let service = CertificatesService::server(
        authority.clone(),
        Arc::new(authenticator(&api)),
        Arc::new(pods),
        Rate::default(),
    );
    let mut client = support::serve(&authority, service).await;
    let (tenant, proxy) = (Some("Bearer a.tenant.token"), Some("Bearer a.proxy.token"));
    let mut asks = async |proof, identity: &Identity| {
        ask(&authority, &mut client, proof, &identity.to_string(), identity).await
    };

    let refused = asks(tenant, &neighbour).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("its own identity only"), "{refused}");
    asks(tenant, &cart).await.unwrap();

    asks(proxy, &cart).await.unwrap();
    asks(proxy, &neighbour).await.unwrap();
    assert_eq!(asks(proxy, &elsewhere).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(api.count(REVIEWS), 2, "one question for each token");
}
