//! Gateways' proxies at the controller: each is served by who it is, and gets what is its Gateway's and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use support::{NAME, Proxy, eventually};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;
use weft_ca::{Authenticator, Authority, Caller, Node, ProofError, Settings};
use weft_controller::control::Control;
use weft_controller::folder::WatchedFolder;
use weft_controller::leadership::Leadership;
use weft_controller::metrics::ControlMetrics;
use weft_controller::server::{Progress, Server};
use weft_controller::status::StatusWriter;
use weft_model::{Identity, MeshConfig, ObjectName, TrustDomain};
use weft_runtime::metrics::Metrics;
use weft_tls::{ClientTls, ServerTls};

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weft, generation: 1}
spec: {controllerName: weft-mesh.dev/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: shop, generation: 1, uid: g1}
spec: {gatewayClassName: weft, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: back, namespace: shop, generation: 1, uid: g2}
spec: {gatewayClassName: weft, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop, generation: 1}
spec:
  parentRefs: [{name: front}]
  rules: [{backendRefs: [{name: cart, port: 80}]}]
"#;

/// What an API server would say of each token: the token is the name of a service account in `shop`, or of a node.
struct Reviewer(BTreeMap<&'static str, Caller>);

impl Authenticator for Reviewer {
    async fn authenticate(&self, proof: &str) -> Result<Caller, ProofError> {
        self.0.get(proof).cloned().ok_or(ProofError::Invalid)
    }
}

fn account(name: &str) -> Caller {
    let identity: Identity = format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap();
    Caller::Workload(identity)
}

struct Controller {
    dir: TempDir,
    channel: Channel,
    progress: Arc<Progress>,
    control: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.control.abort();
    }
}

async fn controller() -> Controller {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("cluster")).unwrap();
    fs::write(dir.path().join("cluster/shop.yaml"), SHOP).unwrap();
    let mesh = MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    };
    let settings = Settings::new(mesh.trust_domain.clone());
    let authority = Arc::new(Authority::open(&dir.path().join("ca"), settings, SystemTime::now()).unwrap());
    let serving = authority.serving_certificate(NAME, SystemTime::now()).unwrap();
    let client = ClientTls::new(&authority.trust_bundle().borrow(), NAME).unwrap();
    let source = WatchedFolder::new(&dir.path().join("cluster")).unwrap();
    let metrics = ControlMetrics::register(&mut Metrics::new("weft"));
    let control = Control::new(source, StatusWriter::new(dir.path().join("status")), mesh, 1000, metrics);
    let progress = Arc::new(Progress::default());
    let callers = [
        ("front-weft", account("front-weft")),
        ("cart", account("cart")),
        ("node", Caller::Node(Node { name: "node-1".to_owned() })),
        ("secret", Caller::Gateway(ObjectName::new("shop", "back"))),
    ];
    let server = Server {
        authenticator: Arc::new(Reviewer(callers.into())),
        authority,
        tls: ServerTls::new(serving.chain_der, serving.key_pkcs8_der).unwrap(),
        snapshots: control.snapshots(),
        streamed: control.streamed(),
        progress: Arc::clone(&progress),
        leadership: Leadership::alone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.serve(listener, CancellationToken::new()));
    Controller {
        channel: support::channel(address, client),
        progress,
        control: tokio::spawn(control.run()),
        dir,
    }
}

impl Controller {
    async fn refused(&self, gateway: &str, proof: &str) -> tonic::Status {
        let connected = Proxy::connect_gateway(self.channel.clone(), gateway, proof).await;
        match connected {
            Ok(mut proxy) => proxy.take().await.unwrap_err(),
            Err(status) => status,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_proxy_is_sent_what_its_gateway_needs_and_loses_it_with_the_gateway() {
    let controller = controller().await;
    let connect = |gateway, proof| Proxy::connect_gateway(controller.channel.clone(), gateway, proof);
    let mut front = connect("shop/front", "front-weft").await.unwrap();
    let names = front.take().await.unwrap();
    assert!(names.contains(&"Gateway/shop/front".to_owned()), "{names:?}");
    assert!(names.contains(&"Service/shop/cart".to_owned()), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("Route/HTTPRoute/shop/cart")), "{names:?}");
    assert!(!names.contains(&"Gateway/shop/back".to_owned()), "{names:?}");

    let mut back = connect("shop/back", "secret").await.unwrap();
    assert_eq!(back.take().await.unwrap(), ["Gateway/shop/back", "MeshConfig"]);

    let version = front.replica.version();
    let front_name = ObjectName::new("shop", "front");
    eventually("the acknowledgement", || {
        let progress = controller.progress.by_gateway();
        progress.get(&front_name).filter(|it| it.in_force >= version).map(|_| ())
    })
    .await;

    let without = SHOP.replace("gatewayClassName: weft", "gatewayClassName: other");
    fs::write(controller.dir.path().join("cluster/shop.yaml"), without).unwrap();
    let names = front.take().await.unwrap();
    assert!(names.contains(&"-Gateway/shop/front".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_the_gateways_own_proxy_is_refused() {
    let controller = controller().await;
    // A pod of another service account of the same namespace.
    assert_eq!(controller.refused("shop/front", "cart").await.code(), Code::PermissionDenied);
    // The proxy of another Gateway of the same namespace.
    assert_eq!(controller.refused("shop/back", "front-weft").await.code(), Code::PermissionDenied);
    assert_eq!(controller.refused("shop/front", "secret").await.code(), Code::PermissionDenied);
    // A node's proxy is no Gateway's.
    assert_eq!(controller.refused("shop/front", "node").await.code(), Code::PermissionDenied);
    assert_eq!(controller.refused("shop/front", "nobody").await.code(), Code::Unauthenticated);
    // A Gateway's proxy is no node's.
    let as_node = Proxy::connect(
        controller.channel.clone(),
        "node-1",
        "front-weft",
        weft_api::delta::Replica::default(),
    );
    let status = match as_node.await {
        Ok(mut proxy) => proxy.take().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::PermissionDenied);
}
