//! Config stream and certificates against a fake controller: real gRPC over real TLS on the loopback device.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::Stream;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Streaming};
use tower::Service as _;
use weft_api::delta::{Payload, Publisher};
use weft_api::proto;
use weft_api::proto::certificates_server::{Certificates, CertificatesServer};
use weft_api::proto::config_request::Request as Said;
use weft_api::proto::config_server::{Config as ConfigService, ConfigServer};
use weft_model::service::Service;
use weft_model::{MeshConfig, ObjectName, Resource};
use weft_runtime::netns::NetNamespace;
use weft_tls::testing::TestCa;

mod waits;

use super::*;
use crate::pod::LocalPod;
use crate::worker::Shared;
use crate::{certificates, state, testing};

const NAME: &str = "weft-controller.weft-system.svc";
const PATIENCE: Duration = Duration::from_secs(20);

/// A controller with one table; what it hears is kept.
#[derive(Clone)]
struct Fake {
    ca: Arc<TestCa>,
    table: Vec<Resource>,
    version: u64,
    heard: Arc<Mutex<Vec<proto::ConfigRequest>>>,
    /// Where the leader is, if this one does not lead.
    leader: Arc<Mutex<Option<SocketAddr>>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let proof = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let known = ["Bearer node-a:s3cret", "Bearer a.bound.token"];
    if proof.is_some_and(|proof| known.contains(&proof)) {
        Ok(())
    } else {
        Err(Status::unauthenticated("who are you?"))
    }
}

#[tonic::async_trait]
impl ConfigService for Fake {
    type StreamStream = Responses<proto::ConfigResponse>;

    async fn stream(
        &self,
        request: Request<Streaming<proto::ConfigRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        check(&request)?;
        if let Some(leader) = *self.leader.lock() {
            let mut refusal = Status::failed_precondition("another leads");
            refusal.metadata_mut().insert("weft-leader", leader.to_string().parse().unwrap());
            return Err(refusal);
        }
        let (fake, mut requests) = (self.clone(), request.into_inner());
        let (responses, stream) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(said)) = requests.message().await {
                fake.heard.lock().push(said.clone());
                let Some(Said::Hello(hello)) = said.request else { continue };
                let mut publisher = Publisher::hello(&hello.bucket_digests).unwrap();
                let table: BTreeMap<_, _> = fake.table.iter().map(|one| Payload::of(one).unwrap()).collect();
                for message in publisher.publish(fake.version, &table).unwrap() {
                    responses.send(Ok(message)).await.unwrap();
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

#[tonic::async_trait]
impl Certificates for Fake {
    type WatchTrustBundleStream = Responses<proto::TrustBundle>;

    async fn sign(
        &self,
        request: Request<proto::SignRequest>,
    ) -> Result<Response<proto::SignResponse>, Status> {
        check(&request)?;
        let proto::SignRequest { csr_der, identity } = request.into_inner();
        let chain_der = self.ca.sign(&csr_der, |params| {
            params.subject_alt_names = vec![weft_tls::testing::uri(&identity)];
            params.not_after = (std::time::SystemTime::now() + Duration::from_secs(3600)).into();
        });
        Ok(Response::new(proto::SignResponse { chain_der }))
    }

    async fn watch_trust_bundle(
        &self,
        request: Request<proto::WatchTrustBundleRequest>,
    ) -> Result<Response<Self::WatchTrustBundleStream>, Status> {
        check(&request)?;
        let roots_der = vec![rcgen_der(&self.ca.root_pem())];
        let bundle = proto::TrustBundle { trust_domain: "cluster.local".to_owned(), roots_der };
        let (sender, stream) = tokio::sync::mpsc::channel(1);
        sender.send(Ok(bundle)).await.unwrap();
        // The stream stays open while the call is.
        tokio::spawn(async move { sender.closed().await });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn rcgen_der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

impl Fake {
    fn new(version: u64, service_address: &str) -> Self {
        let mesh = MeshConfig {
            trust_domain: TrustDomain("cluster.local".into()),
            cluster_domain: "cluster.local".into(),
            service_ranges: Vec::new(),
            pod_ranges: Vec::new(),
        };
        let service = Service {
            addresses: vec![service_address.parse().unwrap()],
            ..Service::new(ObjectName::new("shop", "cart"))
        };
        let table = vec![Resource::MeshConfig(mesh), Resource::Service(service)];
        Self {
            ca: Arc::new(TestCa::new("cluster.local")),
            table,
            version,
            heard: Arc::default(),
            leader: Arc::default(),
        }
    }

    /// Serves until the task is aborted; its connections end with it.
    async fn serve(self, listener: TcpListener) {
        self.serve_counted(listener, Arc::default()).await;
    }

    /// Counts connections.
    async fn serve_counted(self, listener: TcpListener, attempts: Arc<AtomicUsize>) {
        let (tls, _) = self.ca.controller(NAME);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let stream = listener.accept().await.unwrap().0;
            attempts.fetch_add(1, Ordering::Relaxed);
            let (tls, fake) = (tls.clone(), self.clone());
            connections.spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                fake.serve_connection(stream).await;
            });
        }
    }

    async fn serve_connection(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let (config, certificates) = (ConfigServer::new(self.clone()), CertificatesServer::new(self));
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (mut config, mut certificates) = (config.clone(), certificates.clone());
            async move {
                if request.uri().path().starts_with("/weft.v1.Config/") {
                    config.call(request).await
                } else {
                    certificates.call(request).await
                }
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service).await;
    }
}

/// A proxy's control tasks with one pod, and the address of its controller.
struct Rig {
    shared: Arc<Shared>,
    address: SocketAddr,
    files: tempfile::TempDir,
}

impl Rig {
    /// `ca`: whose root the proxy trusts.
    fn start(ca: &TestCa, secret: &str) -> (Self, TcpListener) {
        Self::start_with(|config, files| {
            std::fs::write(files.join("root.pem"), ca.root_pem()).unwrap();
            std::fs::write(files.join("secret"), format!("{secret}\n")).unwrap();
            config.node_secret_file = Some(files.join("secret"));
        })
    }

    fn start_with(prepare: impl FnOnce(&mut Config, &Path)) -> (Self, TcpListener) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let files = tempfile::tempdir().unwrap();
        let mut shared = Arc::into_inner(testing::shared(&[])).unwrap();
        shared.config.controller = address.to_string();
        shared.config.controller_ca = files.path().join("root.pem");
        prepare(&mut shared.config, files.path());
        let shared = Arc::new(shared);
        let controller = Controller::new(&shared.config).unwrap();
        tokio::spawn(state::client::run(shared.clone(), controller.clone(), |_| Vec::new()));
        tokio::spawn(certificates::driver::run(shared.clone(), controller));
        (Self { shared, address, files }, TcpListener::from_std(listener).unwrap())
    }

    fn add_pod(&self, ca: &TestCa) -> Arc<LocalPod> {
        let netns = NetNamespace::current().unwrap();
        let identity = ca.identity("shop", "cart");
        let ends = &self.shared.ends;
        let pod = Arc::new(LocalPod::new(testing::enrolled("a", &[]), identity, netns, ends));
        self.shared.pods.rcu(|pods| pods.with(pod.clone()));
        self.shared.certificates.pods_changed();
        pod
    }

    async fn service_has(&self, address: &str) -> bool {
        let address = address.parse().unwrap();
        let name = ObjectName::new("shop", "cart");
        let has = |snapshot: &Arc<state::Snapshot>| {
            snapshot.service(&name).filter(|service| service.addresses.contains(&address)).map(|_| ())
        };
        self.shared.snapshot.find(PATIENCE, has).await.is_some()
    }
}

#[tokio::test]
async fn configuration_and_certificates_come_and_stay_while_the_controller_is_away() {
    let fake = Fake::new(3, "10.96.0.1");
    let (rig, listener) = Rig::start(&fake.ca, "s3cret");
    let pod = rig.add_pod(&fake.ca);
    let serving = tokio::spawn(fake.clone().serve(listener));
    assert!(rig.service_has("10.96.0.1").await);
    let tls = rig.shared.certificates.wait_for(&pod.identity, PATIENCE).await.unwrap();
    assert_eq!(*tls.identity(), pod.identity);

    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(rig.shared.snapshot.load().is_configured());
    assert!(rig.shared.certificates.for_identity(&pod.identity).is_some());

    // Another controller at the same place knows more; only the difference is asked for.
    let later = Fake { ca: fake.ca.clone(), ..Fake::new(9, "10.96.0.2") };
    let listener = TcpListener::bind(rig.address).await.unwrap();
    tokio::spawn(later.clone().serve(listener));
    assert!(rig.service_has("10.96.0.2").await);
    let heard = later.heard.lock().clone();
    let Some(Said::Hello(hello)) = &heard[0].request else { panic!("{heard:?}") };
    assert_eq!((hello.node.as_str(), hello.bucket_digests.len()), ("node-a", 256));
}

#[tokio::test]
async fn what_is_in_force_is_acknowledged() {
    let fake = Fake::new(3, "10.96.0.1");
    let (rig, listener) = Rig::start(&fake.ca, "s3cret");
    tokio::spawn(fake.clone().serve(listener));
    assert!(rig.service_has("10.96.0.1").await);
    let acked = async {
        loop {
            let heard = fake.heard.lock().clone();
            let ack = heard.iter().find_map(|said| match &said.request {
                Some(Said::Ack(ack)) => Some(ack.version),
                _ => None,
            });
            match ack {
                Some(version) => return version,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, acked).await.unwrap(), 3);
}

#[tokio::test]
async fn a_certificate_goes_with_the_last_pod_of_its_identity() {
    let fake = Fake::new(3, "10.96.0.1");
    let (rig, listener) = Rig::start(&fake.ca, "s3cret");
    tokio::spawn(fake.clone().serve(listener));
    let pod = rig.add_pod(&fake.ca);
    assert!(rig.shared.certificates.wait_for(&pod.identity, PATIENCE).await.is_some());
    rig.shared.pods.rcu(|pods| pods.without("a"));
    rig.shared.certificates.pods_changed();
    let gone = async {
        while rig.shared.certificates.for_identity(&pod.identity).is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(rig.shared.certificates.wait_for(&pod.identity, Duration::from_millis(300)).await.is_none());
}

#[tokio::test]
async fn a_foreign_controller_and_a_wrong_secret_configure_nothing() {
    let (fake, foreign) = (Fake::new(3, "10.96.0.1"), TestCa::new("cluster.local"));
    for (ca, secret) in [(&foreign, "s3cret"), (&*fake.ca, "wrong")] {
        let (rig, listener) = Rig::start(ca, secret);
        tokio::spawn(fake.clone().serve(listener));
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!rig.shared.snapshot.load().is_configured(), "{secret}");
    }
    assert!(fake.heard.lock().is_empty());
}

#[tokio::test]
async fn roots_and_token_may_come_later_and_be_replaced() {
    let (fake, foreign) = (Fake::new(3, "10.96.0.1"), TestCa::new("cluster.local"));
    let (rig, listener) = Rig::start_with(|config, files| {
        config.node_secret_file = None;
        config.node_token_file = Some(files.join("token"));
    });
    let write = |file: &str, text: &str| std::fs::write(rig.files.path().join(file), text).unwrap();
    let attempts = Arc::new(AtomicUsize::new(0));
    tokio::spawn(fake.clone().serve_counted(listener, attempts.clone()));
    let reached = async |count: usize| {
        let reached = async {
            while attempts.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    };
    write("token", "an.older.token");
    write("root.pem", &foreign.root_pem());
    reached(2).await;
    write("root.pem", &fake.ca.root_pem());
    let before = attempts.load(Ordering::Relaxed);
    reached(before + 1).await;
    assert!(!rig.shared.snapshot.load().is_configured());
    write("token", "a.bound.token\n");
    assert!(rig.service_has("10.96.0.1").await);
}

#[tokio::test]
async fn configuration_comes_from_the_replica_that_leads() {
    let follower = Fake::new(3, "10.96.0.9");
    let (rig, listener) = Rig::start(&follower.ca, "s3cret");
    let leading = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    *follower.leader.lock() = Some(leading.local_addr().unwrap());
    let leader = Fake { ca: follower.ca.clone(), ..Fake::new(4, "10.96.0.1") };
    let serving = tokio::spawn(leader.serve(leading));
    tokio::spawn(follower.clone().serve(listener));
    assert!(rig.service_has("10.96.0.1").await);
    assert!(follower.heard.lock().is_empty());

    // The leader is gone, and the one that was asked first has taken its place.
    *follower.leader.lock() = None;
    serving.abort();
    assert!(rig.service_has("10.96.0.9").await);
}
