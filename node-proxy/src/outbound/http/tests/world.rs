//! One worker, pods of several namespaces, applications and clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use clap::Parser as _;
use futures_util::StreamExt as _;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use weft_api::delta::Change;
use weft_api::node::EnrolledPod;
use weft_model::route::*;
use weft_model::service::{AppProtocol, Endpoint, Endpoints, Service, ServicePort};
use weft_model::{Identity, MeshConfig, ObjectName, Resource};
use weft_runtime::netns::NetNamespace;
use weft_tls::FrontendTls;

use crate::body::Body;
use crate::call::Captured;
use crate::certificates::Certificates;
use crate::config::{Config, SameNode};
use crate::http_server::{self, LocalExecutor};
use crate::memory::Memory;
use crate::outbound::http::Connection;
use crate::outbound::http::claims::Claims;
use crate::outbound::origin::{Origin, Way};
use crate::outbound::resilience::budget::RetryBudget;
use crate::pod::{LocalPod, LocalPods};
use crate::prefixed::Prefixed;
use crate::scope::Ends;
use crate::state::{Snapshot, State};
use crate::telemetry::{AccessLogTarget, Telemetry};
use crate::worker::{Shared, Worker, WorkerRef};

/// The address and port of Service `shop/web`, which everything is sent to.
const WEB: &str = "10.96.0.1:80";

pub(crate) struct World {
    pub(crate) worker: WorkerRef,
    metrics: Registry,
    version: std::cell::Cell<u64>,
}

/// Runs one test on a worker's kind of runtime.
pub(crate) fn run(test: impl AsyncFnOnce(&World)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = World::new();
        tokio::time::timeout(Duration::from_secs(30), test(&world)).await.expect("the test ends within 30 s");
    });
}

impl World {
    fn new() -> Self {
        let pods: Arc<ArcSwap<LocalPods>> = Arc::default();
        let mut metrics = Registry::with_prefix("weft");
        let flags = ["weft-proxy", "--node", "n", "--controller-ca", "x", "--node-secret-file", "y"];
        let shared = Shared {
            config: Config::parse_from(flags),
            snapshot: State::new(Snapshot::empty(pods.clone(), SameNode::Direct)),
            pods,
            certificates: Certificates::default(),
            telemetry: Telemetry::new(&mut metrics, &AccessLogTarget::Off).unwrap(),
            proofs: Default::default(),
            agent: Default::default(),
            served: crate::served::Served::default(),
            retries: RetryBudget::default(),
            memory: Memory::new(Some(1000)),
            ends: Ends::default(),
        };
        let worker = Rc::new(Worker::new(0, Arc::new(shared)));
        let world = Self { worker, metrics, version: std::cell::Cell::new(0) };
        world.set(Resource::MeshConfig(MeshConfig {
            trust_domain: "spiffe://cluster.local/ns/a/sa/b".parse::<Identity>().unwrap().trust_domain,
            cluster_domain: "cluster.local".into(),
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            pod_ranges: vec!["10.9.0.0/16".parse().unwrap()],
        }));
        world.set(Resource::Service(service("web", AppProtocol::Unspecified)));
        world
    }

    fn change(&self, change: Change) {
        self.version.set(self.version.get() + 1);
        let state = &self.worker.shared.snapshot;
        let next = state.load().apply(self.version.get(), [change]);
        state.swap(Arc::new(next));
    }

    pub(crate) fn set(&self, resource: Resource) {
        self.change(Change::Set(resource.name(), resource.into()));
    }

    pub(crate) fn remove(&self, resource: &Resource) {
        self.change(Change::Removed(resource.name()));
    }

    /// Back to a proxy that no controller has told anything.
    pub(crate) fn forget(&self) {
        let empty = Snapshot::empty(Arc::default(), SameNode::Direct);
        self.worker.shared.snapshot.swap(Arc::new(empty));
    }

    /// These applications are behind port 80 of `shop/<name>`.
    pub(crate) fn endpoints(&self, name: &str, apps: &[&App]) {
        let endpoint = |app: &&App| Endpoint::at(app.address);
        self.set(Resource::Endpoints(Endpoints {
            service: ObjectName::new("shop", name),
            ports: [(80, apps.iter().map(endpoint).collect())].into(),
            udp_ports: BTreeMap::new(),
        }));
    }

    /// An HTTPRoute of `namespace` on port 80 of `shop/web`.
    pub(crate) fn route(&self, name: &str, namespace: &str, rules: Vec<HttpRule>) {
        let service = ObjectName::new("shop", "web");
        self.set(Resource::Route(Route {
            id: RouteId { kind: RouteKind::Http, name: ObjectName::new(namespace, name) },
            generation: 1,
            created: 0,
            parents: vec![Parent { service, port: 80, explicit_port: true }],
            listeners: Vec::new(),
            for_gateways: false,
            rules: Rules::Http(rules),
        }));
    }

    /// A TCPRoute of `shop` on port 80 of `shop/web`.
    pub(crate) fn tcp_route(&self, rule: TcpRule) {
        let service = ObjectName::new("shop", "web");
        self.set(Resource::Route(Route {
            id: RouteId { kind: RouteKind::Tcp, name: ObjectName::new("shop", "tcp") },
            generation: 1,
            created: 0,
            parents: vec![Parent { service, port: 80, explicit_port: true }],
            listeners: Vec::new(),
            for_gateways: false,
            rules: Rules::Tcp(vec![rule]),
        }));
    }

    /// A connection that a pod of `namespace` makes to `shop/web`, captured.
    pub(crate) async fn connect(&self, namespace: &str) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let source = pod(namespace, peer);
        let snapshot = self.worker.shared.snapshot.load_full();
        let original: SocketAddr = WEB.parse().unwrap();
        let destination = snapshot.destination(original);
        let captured = Captured { source, peer, original, destination, snapshot, stream };
        let worker = self.worker.clone();
        tokio::task::spawn_local(async move {
            let origin = Origin::captured(&captured);
            crate::outbound::http::serve(&worker, origin, captured.stream, Bytes::new()).await;
        });
        client
    }

    /// Waits until a series shows both: outcomes are told when the last byte has passed.
    pub(crate) async fn told(&self, reason: &str, other: &str) {
        let reason = format!("reason=\"{reason}\"");
        self.wait_for(|line| line.contains(&reason) && line.contains(other)).await;
    }

    /// Bytes of the future that serves one request.
    pub(crate) fn size_of_a_request(&self) -> usize {
        let (peer, original) = ("127.0.0.1:1".parse().unwrap(), WEB.parse().unwrap());
        let (worker, source) = (self.worker.clone(), pod("shop", peer));
        let scope = source.scope.clone();
        let origin = Origin { sender: source, peer, scope, way: Way::Captured(original) };
        let connection = Connection { worker, origin, claims: Claims::default() };
        size_of_val(&connection.handle(Box::new(Request::new(Body::Empty))))
    }

    /// Waits until this line is there.
    pub(crate) async fn shows(&self, wanted: &str) {
        self.wait_for(|line| line == wanted).await;
    }

    async fn wait_for(&self, wanted: impl Fn(&str) -> bool) {
        let mut text = String::new();
        for _ in 0..500 {
            text.clear();
            prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
            if text.lines().any(&wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not in the metrics:\n{text}");
    }
}

pub(crate) fn pod(namespace: &str, peer: SocketAddr) -> Arc<LocalPod> {
    let identity: Identity = format!("spiffe://cluster.local/ns/{namespace}/sa/caller").parse().unwrap();
    let enrolled = EnrolledPod {
        uid: format!("uid-{namespace}").into(),
        pod: ObjectName::new(namespace, "caller"),
        service_account: "caller".into(),
        addresses: vec![peer.ip()],
        bypass_mark: 0x1001,
        inbound_mark: 0x1002,
        ipv6: false,
        probes: vec![],
        settings: Default::default(),
    };
    let netns = NetNamespace::current().unwrap();
    Arc::new(LocalPod::new(enrolled, identity, netns, &Ends::default()))
}

pub(crate) fn service(name: &str, protocol: AppProtocol) -> Service {
    Service {
        addresses: vec!["10.96.0.1".parse().unwrap()],
        ports: vec![ServicePort { port: 80, name: None, protocol }],
        ..Service::new(ObjectName::new("shop", name))
    }
}

pub(crate) fn rule(backends: Vec<Backend>) -> HttpRule {
    HttpRule { matches: vec![Match::default()], backends, ..HttpRule::default() }
}

pub(crate) fn backend(name: &str, weight: u32) -> Backend {
    let (service, protocol) = (ObjectName::new("shop", name), AppProtocol::Unspecified);
    Backend { weight, target: BackendTarget::Service { service, port: 80, protocol }, filters: vec![] }
}

pub(crate) fn invalid(weight: u32) -> Backend {
    let target = BackendTarget::Invalid { message: "Service shop/none does not exist".into() };
    Backend { weight, target, filters: vec![] }
}

/// What came back, or what an application got. Echoed facts are lines `name: value` of the body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: String,
    trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn line(&self, name: &str) -> &str {
        let prefix = format!("{name}: ");
        let line = self.body.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.body.contains(&format!("{name}: "))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }

    /// Every field as `name: value`.
    pub(crate) fn fields(&self) -> Vec<String> {
        self.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    pub(crate) fn trailer(&self, name: &str) -> &str {
        self.trailers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }
}

/// An application that answers with what it got, in HTTP/1 or HTTP/2.
pub(crate) struct App {
    address: SocketAddr,
    got: mpsc::UnboundedReceiver<String>,
    /// A bound port that does not listen.
    _held: Option<TcpSocket>,
}

impl App {
    pub(crate) async fn echo(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, got) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let report = report.clone();
                tokio::task::spawn_local(async move {
                    let mut io = Prefixed::new(Bytes::new(), stream);
                    let Ok(version) = io.http_version().await else { return };
                    let handler = move |request| echo(name, request, report.clone());
                    let limits = http_server::Limits::default();
                    let _ = http_server::serve(io, version, &limits, std::future::pending(), handler).await;
                });
            }
        });
        Self { address, got, _held: None }
    }

    /// Answers as `judge` says, in HTTP/1 or HTTP/2.
    pub(crate) async fn judging(judge: impl Fn(&str) -> Response<Body> + Clone + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, got) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (report, judge) = (report.clone(), judge.clone());
                tokio::task::spawn_local(async move {
                    let mut io = Prefixed::new(Bytes::new(), stream);
                    let Ok(version) = io.http_version().await else { return };
                    let handler = move |request| {
                        let (report, judge) = (report.clone(), judge.clone());
                        async move {
                            let asked = echo("judge", request, report).await;
                            let text = asked.into_body().collect().await.unwrap().to_bytes();
                            judge(&String::from_utf8_lossy(&text))
                        }
                    };
                    let limits = http_server::Limits::default();
                    let _ = http_server::serve(io, version, &limits, std::future::pending(), handler).await;
                });
            }
        });
        Self { address, got, _held: None }
    }

    /// As [`Self::echo`], by TLS.
    pub(crate) async fn echo_tls(name: &'static str, tls: FrontendTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (report, got) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (report, tls) = (report.clone(), tls.clone());
                tokio::task::spawn_local(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let mut io = Prefixed::new(Bytes::new(), stream);
                    let Ok(version) = io.http_version().await else { return };
                    let handler = move |request| echo(name, request, report.clone());
                    let limits = http_server::Limits::default();
                    let _ = http_server::serve(io, version, &limits, std::future::pending(), handler).await;
                });
            }
        });
        Self { address, got, _held: None }
    }

    /// Speaks first, by TLS if there is some, and then echoes bytes.
    pub(crate) async fn greeting(greeting: &'static str, tls: Option<FrontendTls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::task::spawn_local(async move {
                    match tls {
                        Some(tls) => greet(greeting, tls.accept(stream).await.unwrap()).await,
                        None => greet(greeting, stream).await,
                    }
                });
            }
        });
        Self { address, got: mpsc::unbounded_channel().1, _held: None }
    }

    /// Accepts every upgrade and echoes bytes.
    pub(crate) async fn upgrading() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        Self { address, got: mpsc::unbounded_channel().1, _held: None }
    }

    pub(crate) async fn refusing() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        Self { address, got: mpsc::unbounded_channel().1, _held: Some(socket) }
    }

    /// The next request, if it has got one.
    pub(crate) fn try_next(&mut self) -> Option<String> {
        self.got.try_recv().ok()
    }

    /// The next request it got.
    pub(crate) async fn next(&mut self) -> Answer {
        let body = self.got.recv().await.unwrap();
        Answer { status: StatusCode::OK, headers: HeaderMap::new(), body, trailers: HeaderMap::new() }
    }
}

thread_local! {
    /// Of the requests for `/twice-503`. A test has a thread of its own.
    static TRIES: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

async fn greet(greeting: &str, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.write_all(greeting.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        stream.write_all(&buffer[..count]).await.unwrap();
        stream.flush().await.unwrap();
    }
}

fn third(tries: &std::cell::Cell<u32>) -> bool {
    tries.set(tries.get() + 1);
    tries.get().is_multiple_of(3)
}

async fn echo(
    name: &str,
    request: Box<Request<Body>>,
    report: mpsc::UnboundedSender<String>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/hang" {
        std::future::pending::<()>().await;
    }
    if head.uri.path() == "/endless" {
        let frames = futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"begun")))]);
        let endless = frames.chain(futures_util::stream::pending());
        return Response::new(Body::boxed(http_body_util::StreamBody::new(endless)));
    }
    let body = body.collect().await.unwrap().to_bytes();
    if head.uri.path() == "/broken" {
        let begun = futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"begun")))]);
        // Later, so that head and first bytes are on their way.
        let broken = futures_util::stream::once(Box::pin(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err("broken".into())
        }));
        return Response::new(Body::boxed(http_body_util::StreamBody::new(begun.chain(broken))));
    }
    if head.uri.path() == "/twice-503" && !TRIES.with(third) {
        return Response::builder().status(503).body(Body::Empty).unwrap();
    }
    let path = head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let mut text = format!("app: {name}\nrequest: {} {path}\nversion: {:?}\n", head.method, head.version);
    for (name, value) in &head.headers {
        text += &format!("{name}: {}\n", value.to_str().unwrap());
    }
    text += &format!("body: {}\n", String::from_utf8_lossy(&body));
    let _ = report.send(text.clone());
    let answer = Full::from(text).map_err(|never| match never {});
    if head.uri.path() == "/trailers" {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("5"));
        return Response::new(Body::boxed(answer.with_trailers(std::future::ready(Some(Ok(trailers))))));
    }
    Response::new(Body::boxed(answer))
}

/// A client of the captured connection.
pub(crate) enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) async fn http1(world: &World, namespace: &str) -> Self {
        Self::http1_over(world.connect(namespace).await).await
    }

    pub(crate) async fn http1_over<I>(io: I) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::task::spawn_local(connection);
        Self::Http1(sender)
    }

    pub(crate) async fn http2(world: &World, namespace: &str) -> Self {
        Self::http2_over(world.connect(namespace).await).await
    }

    pub(crate) async fn http2_over<I>(io: I) -> Self
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(io);
        let (sender, connection) = hyper::client::conn::http2::handshake(LocalExecutor, io).await.unwrap();
        tokio::task::spawn_local(connection);
        Self::Http2(sender)
    }

    /// A GET in the form that this client's version asks for.
    pub(crate) fn get(&self, path: &str) -> Request<Full<Bytes>> {
        match self {
            Self::Http1(_) => Request::get(path).header("host", "web").body(Full::default()).unwrap(),
            Self::Http2(_) => Request::get(format!("http://web{path}")).body(Full::default()).unwrap(),
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    pub(crate) async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => sender.send_request(request).await?,
        };
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let body = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
        Ok(Answer { status: head.status, headers: head.headers, body, trailers })
    }
}
