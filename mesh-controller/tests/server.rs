//! The whole controller in process: a folder is edited, a proxy's side of the stream takes it in and acknowledges,
//! statuses are written, certificates are signed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use support::{NAME, Proxy, WAIT, eventually, with_proof};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};
use weft_api::delta::Replica;
use weft_api::proto::SignRequest;
use weft_api::proto::certificates_client::CertificatesClient;
use weft_ca::{Authority, NodeSecretAuthenticator, Settings};
use weft_controller::control::Control;
use weft_controller::enrolment;
use weft_controller::enrolment::folder::Folder;
use weft_controller::enrolment::keeper::Keeper;
use weft_controller::folder::WatchedFolder;
use weft_controller::leadership::Leadership;
use weft_controller::metrics::ControlMetrics;
use weft_controller::server::{Progress, Server};
use weft_controller::status::StatusWriter;
use weft_model::workload::{MtlsMode, WorkloadProtocol};
use weft_model::{Identity, MeshConfig, TrustDomain};
use weft_runtime::metrics::Metrics;
use weft_tls::{ClientTls, KeyRequest, ServerTls};

struct Controller {
    dir: TempDir,
    channel: Channel,
    progress: Arc<Progress>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    control: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.control.abort();
    }
}

fn put(dir: &Path, name: &str, text: &str) {
    let folder = dir.join("cluster");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(".writing"), text).unwrap();
    fs::rename(folder.join(".writing"), folder.join(name)).unwrap();
}

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {weft-mesh.dev/mesh: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, uid: u1}
spec: {nodeName: node-1, serviceAccountName: client, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.2}]}
"#;

fn route(weight: u32, generation: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: cart, namespace: shop, generation: {generation}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: cart}}]\n\
         \x20 rules: [{{backendRefs: [{{name: cart, port: 80, weight: {weight}}}]}}]\n"
    )
}

/// No proxy of these tests reports what it serves, unless a test says so.
fn settings_of_enrolment() -> enrolment::Settings {
    let (report_wait, settle) = (Duration::ZERO, Duration::from_millis(100));
    enrolment::Settings { report_wait, settle, ..enrolment::Settings::default() }
}

/// A controller on a port of its own, with the shop in its folder and two nodes that may call.
async fn controller() -> Controller {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "shop.yaml", SHOP);
    fs::write(dir.path().join("secrets"), "node-1=one\nnode-2=two\n").unwrap();
    let trust_domain = TrustDomain("cluster.local".into());
    let mesh = MeshConfig {
        trust_domain: trust_domain.clone(),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    };
    let settings = Settings::new(trust_domain);
    let authority = Arc::new(Authority::open(&dir.path().join("ca"), settings, SystemTime::now()).unwrap());
    let serving = authority.serving_certificate(NAME, SystemTime::now()).unwrap();
    let client = ClientTls::new(&authority.trust_bundle().borrow(), NAME).unwrap();

    let metrics = ControlMetrics::register(&mut Metrics::new("weft"));
    let source = WatchedFolder::new(&dir.path().join("cluster")).unwrap();
    let sink = StatusWriter::new(dir.path().join("status"));
    let progress = Arc::new(Progress::default());
    let folder = Folder::new(dir.path().join("status"));
    let keeper = Keeper::new(folder, settings_of_enrolment(), Arc::clone(&progress), Leadership::alone());
    let control = Control::new(source, sink, mesh, 1000, metrics).with_enrolment(keeper);
    let server = Server {
        authenticator: Arc::new(NodeSecretAuthenticator::new(
            dir.path().join("secrets"),
            authority.trust_domain().clone(),
        )),
        authority,
        tls: ServerTls::new(serving.chain_der, serving.key_pkcs8_der).unwrap(),
        snapshots: control.snapshots(),
        streamed: control.streamed(),
        progress: Arc::clone(&progress),
        leadership: Leadership::alone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    Controller {
        channel: support::channel(address, client),
        progress,
        server: tokio::spawn(server.serve(listener, stop.clone())),
        control: tokio::spawn(control.run()),
        stop,
        dir,
    }
}

fn status(dir: &Path) -> Option<Value> {
    let text = fs::read(dir.join("status/HTTPRoute/shop/cart.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edited_folder_reaches_the_proxy_and_the_status() {
    let controller = controller().await;
    let dir = controller.dir.path();
    let mut proxy =
        Proxy::connect(controller.channel.clone(), "node-1", "node-1:one", Replica::default()).await.unwrap();
    let first = proxy.take().await.unwrap();
    assert_eq!(first, ["MeshConfig", "Service/shop/cart", "Workload/u1"]);

    put(dir, "route.yaml", &route(3, 1));
    assert_eq!(proxy.take().await.unwrap(), ["Route/HTTPRoute/shop/cart"]);
    assert_eq!(proxy.weight(), Some(3));
    put(dir, "route.yaml", &route(4, 2));
    assert_eq!(proxy.take().await.unwrap(), ["Route/HTTPRoute/shop/cart"]);
    assert_eq!(proxy.weight(), Some(4));

    let version = proxy.replica.version();
    let progress = Arc::clone(&controller.progress);
    eventually("the acknowledgement", || {
        progress.by_node().get("node-1").filter(|node| node.in_force == version).map(|_| ())
    })
    .await;
    eventually("the status", || {
        let status = status(dir)?;
        let condition = &status["status"]["parents"][0]["conditions"][0];
        (condition["observedGeneration"] == 2 && condition["status"] == "True").then_some(())
    })
    .await;

    fs::remove_file(dir.join("cluster/route.yaml")).unwrap();
    assert_eq!(proxy.take().await.unwrap(), ["-Route/HTTPRoute/shop/cart"]);
    eventually("the end of the status", || status(dir).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_namespace_is_closed_once_its_proxies_serve_all_of_it_and_know_it() {
    let controller = controller().await;
    let connect = |node, proof| Proxy::connect(controller.channel.clone(), node, proof, Replica::default());
    let mut proxy = connect("node-1", "node-1:one").await.unwrap();
    let other = connect("node-2", "node-2:two").await.unwrap();
    proxy.take().await.unwrap();
    assert_eq!(proxy.workload("u1"), (WorkloadProtocol::Plaintext, MtlsMode::Permissive));
    let file = controller.dir.path().join("status/Namespace/_/shop.json");
    let state = || {
        let object: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        object["metadata"]["annotations"]["weft-mesh.dev/enrolment"].as_str().unwrap().to_owned()
    };
    assert_eq!(state(), "enrolling");
    // Another node's word does not count.
    other.report(&["u1"]).await;
    eventually("the report", || controller.progress.by_node().get("node-2")?.served.clone()).await;
    proxy.report(&["u1"]).await;
    proxy.take().await.unwrap();
    assert_eq!(proxy.workload("u1"), (WorkloadProtocol::Tunnel, MtlsMode::Permissive));
    proxy.take().await.unwrap();
    assert_eq!(proxy.workload("u1"), (WorkloadProtocol::Tunnel, MtlsMode::Strict));
    assert_eq!(state(), "strict", "it was written before it was published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_objects_keep_no_other_change_from_the_proxy() {
    let controller = controller().await;
    let dir = controller.dir.path();
    put(dir, "route.yaml", &route(3, 1));
    let mut proxy =
        Proxy::connect(controller.channel.clone(), "node-1", "node-1:one", Replica::default()).await.unwrap();
    while proxy.weight() != Some(3) {
        proxy.take().await.unwrap();
    }
    put(dir, "broken.yaml", "{");
    put(dir, "pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: odd, namespace: shop}\nspec: 5\n");
    put(dir, "route.yaml", &route(5, 2));
    proxy.take().await.unwrap();
    assert_eq!(proxy.weight(), Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_that_comes_back_receives_only_what_differs() {
    let controller = controller().await;
    let dir = controller.dir.path();
    let mut proxy =
        Proxy::connect(controller.channel.clone(), "node-1", "node-1:one", Replica::default()).await.unwrap();
    proxy.take().await.unwrap();
    let Proxy { replica, .. } = proxy;
    put(dir, "route.yaml", &route(3, 1));
    eventually("the status", || status(dir)).await;
    let mut proxy =
        Proxy::connect(controller.channel.clone(), "node-1", "node-1:one", replica).await.unwrap();
    let came = proxy.take().await.unwrap();
    assert_eq!(came, ["Route/HTTPRoute/shop/cart"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_pods_gets_nothing_and_strangers_are_refused() {
    let controller = controller().await;
    let connect = |node, proof| Proxy::connect(controller.channel.clone(), node, proof, Replica::default());
    let mut empty = connect("node-2", "node-2:two").await.unwrap();
    assert_eq!(empty.take().await.unwrap(), ["MeshConfig"]);

    assert_eq!(connect("node-1", "node-1:wrong").await.err().unwrap().code(), Code::Unauthenticated);
    let mut other = connect("node-1", "node-2:two").await.unwrap();
    assert_eq!(other.take().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_signed_only_for_pods_of_the_callers_node() {
    let controller = controller().await;
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/client".parse().unwrap();
    let sign = async |proof| {
        let key = KeyRequest::new(&identity).unwrap();
        let request = SignRequest { csr_der: key.csr_der().to_vec(), identity: identity.to_string() };
        let mut client = CertificatesClient::new(controller.channel.clone());
        let response = client.sign(with_proof(request, proof)).await?;
        Ok::<_, Status>(key.into_leaf(response.into_inner().chain_der).unwrap())
    };
    // Until the first translation nobody runs anywhere.
    let leaf = loop {
        match sign("node-1:one").await {
            Ok(leaf) => break leaf,
            Err(status) => assert_eq!(status.code(), Code::PermissionDenied),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(leaf.identity, identity);
    assert_eq!(sign("node-2:two").await.err().unwrap().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ends_streams_and_the_server() {
    let mut controller = controller().await;
    let mut proxy =
        Proxy::connect(controller.channel.clone(), "node-1", "node-1:one", Replica::default()).await.unwrap();
    proxy.take().await.unwrap();
    controller.stop.cancel();
    assert_eq!(proxy.take().await.unwrap_err().code(), Code::Unavailable);
    tokio::time::timeout(WAIT, &mut controller.server).await.unwrap().unwrap();
}
