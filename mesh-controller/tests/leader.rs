//! Two replicas on one API server: one leads, the other says where; when the leader stops, the other goes on where it
//! stopped. No acknowledgement is lost and no condition changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::{NAME, Proxy, WAIT, channel, eventually};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use weft_api::delta::Replica;
use weft_ca::{NodeSecretAuthenticator, Settings};
use weft_controller::control::Control;
use weft_controller::enrolment;
use weft_controller::enrolment::keeper::Keeper;
use weft_controller::kubernetes::lead::{Duties, lead};
use weft_controller::kubernetes::lease::Candidate;
use weft_controller::kubernetes::namespaces::Namespaces;
use weft_controller::kubernetes::statuses::ApiStatuses;
use weft_controller::kubernetes::{Kubernetes, LeaderMetrics, StatusMetrics, WatchMetrics, root};
use weft_controller::leadership::Leadership;
use weft_controller::metrics::ControlMetrics;
use weft_controller::server::{Progress, Server};
use weft_model::workload::{MtlsMode, WorkloadProtocol};
use weft_model::{MeshConfig, TrustDomain};
use weft_runtime::metrics::Metrics;
use weft_testkit::apiserver::ApiServer;
use weft_tls::{ClientTls, ServerTls};

const GATEWAY: &str = "gateway.networking.k8s.io";

fn cluster() -> ApiServer {
    let api = ApiServer::new();
    for kind in ["GRPCRoute", "HTTPRoute", "TLSRoute", "TCPRoute", "UDPRoute", "ReferenceGrant"] {
        api.define(GATEWAY, kind, &["v1"]);
    }
    api.define("gateway.networking.x-k8s.io", "XMesh", &["v1alpha1"]);
    api.put(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "shop", "labels": {"weft-mesh.dev/mesh": "enabled"}},
    }));
    api.put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
    }));
    api.put(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "client", "uid": "u1"},
        "spec": {"nodeName": "node-1", "serviceAccountName": "client", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}]},
    }));
    put_route(&api, 3);
    api
}

fn put_route(api: &ApiServer, weight: u32) {
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "shop", "name": "cart"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [{"backendRefs": [{"name": "cart", "port": 80, "weight": weight}]}],
        },
    });
    if let Some(before) = api.get(GATEWAY, "HTTPRoute", "shop", "cart") {
        route["status"] = before["status"].clone();
    }
    api.put(route);
}

struct Running {
    address: SocketAddr,
    root_pem: String,
    client: ClientTls,
    progress: Arc<Progress>,
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
    _secrets: tempfile::TempDir,
}

fn mesh() -> MeshConfig {
    MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    }
}

/// A whole replica at `127.0.0.<number>`; all of them on one port.
async fn replica(api: &ApiServer, number: u8, port: u16) -> Running {
    let mesh = mesh();
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("secrets"), "node-1=one\n").unwrap();
    let client = kube::Client::new(api.clone(), "weft-system");
    let settings = Settings::new(mesh.trust_domain.clone());
    let authority = Arc::new(root::authority(&client, "weft-system", settings).await.unwrap());
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, number), port)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = authority.serving_certificate(NAME, SystemTime::now()).unwrap();
    let mut metrics = Metrics::new("weft");
    let source = Kubernetes::start(&client, mesh.clone(), WatchMetrics::register(&mut metrics));
    let sink = ApiStatuses::default();
    let duties = Duties {
        refused: watch::Sender::default(),
        infrastructure: watch::channel(None).1,
        wanted: sink.wanted(),
        root_pem: authority.root_pem(),
        statuses: StatusMetrics::register(&mut metrics),
        leader: LeaderMetrics::register(&mut metrics),
    };
    let (told, leadership) = watch::channel(Leadership::Follower { leader: None });
    let progress = Arc::new(Progress::default());
    // Proxies of these tests report at once or not at all.
    let (report_wait, settle) = (Duration::from_millis(300), Duration::from_millis(100));
    let settings = enrolment::Settings { report_wait, settle, ..enrolment::Settings::default() };
    let keeper =
        Keeper::new(Namespaces::new(client.clone()), settings, Arc::clone(&progress), leadership.clone());
    let control =
        Control::new(source, sink, mesh, u64::from(number) * 1000, ControlMetrics::register(&mut metrics))
            .with_enrolment(keeper);
    let candidate = Candidate {
        namespace: "weft-system".into(),
        pod: format!("weft-controller-{number}"),
        address: IpAddr::from([127, 0, 0, number]),
        port: address.port(),
    };
    let server = Server {
        authenticator: Arc::new(NodeSecretAuthenticator::new(
            secrets.path().join("secrets"),
            authority.trust_domain().clone(),
        )),
        authority: Arc::clone(&authority),
        tls: ServerTls::new(serving.chain_der, serving.key_pkcs8_der).unwrap(),
        snapshots: control.snapshots(),
        streamed: control.streamed(),
        progress: Arc::clone(&progress),
        leadership: leadership.clone(),
    };
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(lead(client, candidate, control.snapshots(), told, duties, stop.clone()));
    tasks.spawn(server.serve(listener, stop.clone()));
    tasks.spawn(async move { drop(control.run().await) });
    let (root_pem, trust) = (authority.root_pem(), authority.trust_bundle());
    let client = ClientTls::new(&trust.borrow(), NAME).unwrap();
    Running { address, root_pem, client, progress, leadership, stop, _tasks: tasks, _secrets: secrets }
}

impl Running {
    async fn until(&mut self, wanted: Leadership) {
        let so = self.leadership.wait_for(|now| *now == wanted);
        tokio::time::timeout(WAIT, so).await.unwrap_or_else(|_| panic!("no {wanted:?}")).unwrap();
    }

    async fn connect(&self, known: Replica) -> Result<Proxy, tonic::Status> {
        Proxy::connect(channel(self.address, self.client.clone()), "node-1", "node-1:one", known).await
    }

    async fn has_acknowledgement_of(&self, version: u64) {
        let node = || self.progress.by_node().get("node-1").map(|node| node.in_force);
        eventually("the acknowledgement", || node().filter(|in_force| *in_force == version)).await;
    }
}

fn condition(api: &ApiServer) -> Option<Value> {
    let route = api.get(GATEWAY, "HTTPRoute", "shop", "cart")?;
    route.pointer("/status/parents/0/conditions/0").cloned()
}

fn status_writes(api: &ApiServer) -> usize {
    api.writes().iter().filter(|call| call.path.ends_with("/httproutes/cart/status")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_of_leader_loses_no_acknowledgement_and_changes_no_condition() {
    let api = cluster();
    let mut one = replica(&api, 1, 0).await;
    one.until(Leadership::Leader).await;
    let mut two = replica(&api, 2, one.address.port()).await;
    assert_eq!(one.root_pem, two.root_pem);
    two.until(Leadership::Follower { leader: Some(one.address) }).await;

    // The one that does not lead says where the leader is.
    let refusal = two.connect(Replica::default()).await.err().unwrap();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    assert_eq!(refusal.metadata().get("weft-leader").unwrap().to_str().unwrap(), one.address.to_string());
    let mut proxy = one.connect(Replica::default()).await.unwrap();
    while proxy.weight() != Some(3) {
        proxy.take().await.unwrap();
    }
    one.has_acknowledgement_of(proxy.replica.version()).await;
    let before = eventually("the status", || condition(&api)).await;
    assert_eq!((&before["status"], &before["observedGeneration"]), (&json!("True"), &json!(1)));
    let writes = status_writes(&api);

    one.stop.cancel();
    let end = proxy.take().await.unwrap_err();
    assert!(matches!(end.code(), Code::FailedPrecondition | Code::Unavailable), "{end}");
    two.until(Leadership::Leader).await;
    let mut proxy = two.connect(proxy.replica).await.unwrap();
    assert_eq!(proxy.take().await.unwrap(), Vec::<String>::new(), "nothing differs");
    two.has_acknowledgement_of(proxy.replica.version()).await;
    assert!(proxy.replica.version() > 2000, "the other's versions");

    put_route(&api, 4);
    assert_eq!(proxy.take().await.unwrap(), ["Route/HTTPRoute/shop/cart"]);
    assert_eq!(proxy.weight(), Some(4));
    let after = eventually("the next status", || {
        condition(&api).filter(|condition| condition["observedGeneration"] == 2)
    })
    .await;
    assert_eq!(after["lastTransitionTime"], before["lastTransitionTime"]);
    assert_eq!(status_writes(&api), writes + 1, "one for the new generation, none for the new leader");
}

/// How the one pod is called, and what its proxy does with plaintext, when that is told next.
async fn told(proxy: &mut Proxy) -> (WorkloadProtocol, MtlsMode) {
    while !proxy.take().await.unwrap().contains(&"Workload/u1".to_owned()) {}
    proxy.workload("u1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolment_goes_on_with_the_next_leader_and_a_strict_namespace_is_never_opened() {
    let api = cluster();
    let mut one = replica(&api, 4, 0).await;
    one.until(Leadership::Leader).await;
    let mut two = replica(&api, 5, one.address.port()).await;
    let namespace = || api.get("", "Namespace", "", "shop").unwrap();
    let phase = || namespace()["metadata"]["annotations"]["weft-mesh.dev/enrolment"].clone();

    let mut proxy = one.connect(Replica::default()).await.unwrap();
    proxy.report(&[]).await;
    assert_eq!(told(&mut proxy).await, (WorkloadProtocol::Plaintext, MtlsMode::Permissive));
    assert_eq!(phase(), "enrolling");
    assert_eq!(namespace()["status"]["conditions"][0]["reason"], "Enrolling");

    // In the middle of it the leader goes.
    one.stop.cancel();
    while proxy.take().await.is_ok() {}
    two.until(Leadership::Leader).await;
    let mut proxy = two.connect(proxy.replica).await.unwrap();
    proxy.report(&["u1"]).await;
    assert_eq!(told(&mut proxy).await, (WorkloadProtocol::Tunnel, MtlsMode::Permissive));
    assert_eq!(told(&mut proxy).await, (WorkloadProtocol::Tunnel, MtlsMode::Strict));
    assert_eq!(phase(), "strict", "written before it was published");

    // The next leader hears of no pod that is served, and leaves it closed.
    let mut three = replica(&api, 6, one.address.port()).await;
    two.stop.cancel();
    while proxy.take().await.is_ok() {}
    three.until(Leadership::Leader).await;
    let mut proxy = three.connect(proxy.replica).await.unwrap();
    proxy.report(&[]).await;
    assert_eq!(proxy.take().await.unwrap(), Vec::<String>::new(), "nothing differs");
    assert_eq!(proxy.workload("u1"), (WorkloadProtocol::Tunnel, MtlsMode::Strict));
    eventually("the condition", || {
        (namespace()["status"]["conditions"][0]["status"] == "True").then_some(())
    })
    .await;
    assert_eq!(phase(), "strict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_publishes_the_root_and_says_what_the_mesh_can_do() {
    let api = cluster();
    let one = replica(&api, 3, 0).await;
    let published =
        || api.get("", "ConfigMap", "weft-system", "weft-trust").map(|it| it["data"]["root.pem"].clone());
    eventually("the root", || published().filter(|pem| *pem == one.root_pem)).await;
    let mesh = || api.get("gateway.networking.x-k8s.io", "XMesh", "", "weft");
    let mesh = eventually("the mesh's object", || {
        mesh().filter(|mesh| mesh["status"]["conditions"][0]["status"] == "True")
    })
    .await;
    assert_eq!(mesh["spec"], json!({"controllerName": "weft-mesh.dev/mesh"}));
}
