//! For tests: a network namespace of the test's own with pods in it, mutual TLS by a test authority, and raw
//! applications. Needs root (or an owned user namespace), and fails without.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weft_api::delta::Change;
use weft_api::node::{EnrolledPod, TUNNEL_PORT};
use weft_api::probe::{Probe, ProbeAction};
use weft_model::service::AppProtocol;
use weft_model::workload::{MtlsMode, Workload, WorkloadProtocol};
use weft_model::{Identity, MeshConfig, ObjectName, Resource};
use weft_runtime::netns::NetNamespace;
use weft_tls::testing::TestCa;
use weft_tls::{Leaf, WorkloadTls};

use crate::call::{Accepted, Listener, Selected, Transport};
use crate::certificates::{Certificates, Certified};
use crate::config::SameNode;
use crate::outbound::balance::Balancer;
use crate::outbound::filter::mirror::Turns;
use crate::pod::{LocalPod, LocalPods};
use crate::scope::Ends;
use crate::send::Pools;
use crate::state::{Snapshot, State};
use crate::telemetry::{AccessLogTarget, Telemetry};
use crate::tunnel::dial::Deadlines;
use crate::worker::{Shared, Worker, WorkerRef};

/// One worker that serves both pods; a tunnel between them is a real one.
pub(crate) struct World {
    pub(crate) ca: TestCa,
    pub(crate) worker: WorkerRef,
    pub(crate) caller: Arc<LocalPod>,
    pub(crate) callee: Arc<LocalPod>,
    metrics: Registry,
}

pub(crate) const CALLER: &str = "10.9.0.1";
pub(crate) const CALLEE: &str = "10.9.0.2";
/// An address of the namespace that is no pod's.
pub(crate) const STRANGER: &str = "10.9.0.9";

/// Runs `test` in a namespace of its own, with the callee's tunnel port served.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<World>) -> F) {
    run_with(MtlsMode::Strict, test);
}

pub(crate) fn run_with<F: Future<Output = ()>>(mode: MtlsMode, test: impl FnOnce(Rc<World>) -> F) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
    command("ip link set lo up");
    for address in [CALLER, CALLEE, STRANGER] {
        command(&format!("ip address add {address}/32 dev lo"));
    }
    // Both pods share the namespace: what does not bind to an address comes from the caller's.
    command(&format!(
        "ip route replace local {CALLEE} dev lo table local proto kernel scope host src {CALLER}"
    ));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let world = Rc::new(World::new(mode));
        world.serve_tunnels().await;
        tokio::time::timeout(Duration::from_secs(30), test(world)).await.expect("the test ends within 30 s");
    });
}

/// Runs one command in the test's namespace.
pub(crate) fn command(line: &str) {
    let mut words = line.split(' ');
    let output = std::process::Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

impl World {
    fn new(mode: MtlsMode) -> Self {
        let ca = TestCa::new("cluster.local");
        let ends = Ends::default();
        let pod = |name: &str, address: &str| {
            let enrolled = EnrolledPod {
                uid: format!("uid-{name}").into(),
                pod: ObjectName::new("shop", name),
                service_account: name.into(),
                addresses: vec![address.parse().unwrap()],
                bypass_mark: 0x1001,
                inbound_mark: 0x1002,
                ipv6: false,
                probes: probes(),
                settings: Default::default(),
            };
            let netns = NetNamespace::current().unwrap();
            Arc::new(LocalPod::new(enrolled, ca.identity("shop", name), netns, &ends))
        };
        let (caller, callee) = (pod("caller", CALLER), pod("callee", CALLEE));
        let pods =
            Arc::new(ArcSwap::from_pointee(LocalPods::default().with(caller.clone()).with(callee.clone())));
        let certificates = Certificates::default();
        for pod in [&caller, &callee] {
            let leaf = ca.leaf(&pod.identity);
            let tls = Arc::new(WorkloadTls::new(&leaf, &ca.bundle()).unwrap());
            certificates.put([Certified { leaf, tls }]);
        }
        certificates.trust_in(Arc::new(ca.bundle()));
        let mesh = MeshConfig {
            trust_domain: caller.identity.trust_domain.clone(),
            cluster_domain: "cluster.local".into(),
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            pod_ranges: vec!["10.9.0.0/16".parse().unwrap()],
        };
        let workloads =
            [workload(&caller, MtlsMode::Strict), workload(&callee, mode)].map(Resource::Workload);
        let resources = std::iter::once(Resource::MeshConfig(mesh)).chain(workloads);
        let changes = resources.map(|r| Change::Set(r.name(), Arc::new(r)));
        let snapshot = Snapshot::empty(pods.clone(), SameNode::Tunnel).apply(1, changes);
        let mut metrics = Registry::default();
        let telemetry = Telemetry::new(&mut metrics, &AccessLogTarget::Off).unwrap();
        let snapshot = State::new(snapshot);
        let others = Arc::into_inner(crate::testing::shared(&["--hold-certificate", "300ms"])).unwrap();
        let shared = Shared { snapshot, pods, certificates, telemetry, ends, ..others };
        let second = Duration::from_secs(1);
        let worker = Worker {
            index: 0,
            shared: Arc::new(shared),
            pools: Pools::new(Deadlines { connect: second, tls: second, tunnel: 2 * second }),
            balancer: Balancer::default(),
            mirrors: Turns::default(),
        };
        Self { ca, worker: Rc::new(worker), caller, callee, metrics }
    }

    async fn serve_tunnels(&self) {
        let listener = TcpListener::bind((CALLEE, TUNNEL_PORT)).await.unwrap();
        let (worker, pod) = (self.worker.clone(), self.callee.clone());
        tokio::task::spawn_local(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let accepted = Accepted {
                    pod: pod.clone(),
                    scope: pod.scope.clone(),
                    listener: Listener::Tunnel,
                    stream,
                    peer,
                };
                tokio::task::spawn_local(crate::tunnel::accept(worker.clone(), accepted));
            }
        });
    }

    /// Gives `pod` another certificate, of the world's own authority.
    pub(crate) fn certify(&self, pod: &LocalPod, leaf: Leaf) {
        let tls = Arc::new(WorkloadTls::new(&leaf, &self.ca.bundle()).unwrap());
        self.worker.shared.certificates.put([Certified { leaf, tls }]);
        assert!(self.worker.shared.certificates.for_identity(&pod.identity).is_some());
    }

    /// The callee's `port`, by tunnel.
    pub(crate) fn tunnelled(&self, port: u16, protocol: AppProtocol) -> Selected {
        self.selected(port, protocol, Transport::Tunnel(self.callee.identity.clone()))
    }

    pub(crate) fn selected(&self, port: u16, protocol: AppProtocol, transport: Transport) -> Selected {
        let address = SocketAddr::new(CALLEE.parse().unwrap(), port);
        let workload = self.worker.shared.snapshot.load().workload("uid-callee");
        Selected { address, workload, transport, service: None, protocol, tls: None }
    }

    /// Where the caller says it calls from.
    pub(crate) fn peer(&self) -> SocketAddr {
        SocketAddr::new(CALLER.parse().unwrap(), 40_000)
    }

    /// The stranger's address is that of a pod, which is reached so.
    pub(crate) fn put_stranger(&self, protocol: WorkloadProtocol) {
        let address = STRANGER.parse().unwrap();
        let like = workload(&self.caller, MtlsMode::Strict);
        let stranger = Workload { uid: "stranger".into(), addresses: vec![address], protocol, ..like };
        let stranger = Resource::Workload(stranger);
        let change = Change::Set(stranger.name(), Arc::new(stranger));
        let state = &self.worker.shared.snapshot;
        let before = state.load_full();
        state.swap(Arc::new(before.apply(before.version + 1, [change])));
    }

    /// The metrics as Prometheus would read them.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        text
    }

    /// Waits until the metrics show `reason`, told by the callee's side.
    pub(crate) async fn told(&self, reason: weft_model::Reason) {
        let word = format!("reason=\"{reason}\"");
        for _ in 0..200 {
            if self.metrics().lines().any(|l| l.contains(&word) && l.contains("destination")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{word} is not in\n{}", self.metrics());
    }
}

/// A connection from `from` to the callee's proxy: both its ends, and its caller's address.
pub(crate) async fn connected(from: &str) -> (TcpStream, TcpStream, SocketAddr) {
    let proxy = TcpListener::bind((CALLEE, 0)).await.unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let client = socket.connect(proxy.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = proxy.accept().await.unwrap();
    (client, stream, peer)
}

/// What the pods declare: each kind of probe on a port of its own, and two kinds on one.
fn probes() -> Vec<Probe> {
    let http = |target: &str| ProbeAction::Http { target: target.into(), headers: vec![] };
    let of = |port, action| Probe { port, action };
    vec![
        of(7001, ProbeAction::Tcp),
        of(7001, http("/healthz")),
        of(7002, http("/healthz")),
        of(7003, ProbeAction::Https),
        of(7004, ProbeAction::Grpc { service: "cart".into() }),
    ]
}

fn workload(pod: &LocalPod, mtls: MtlsMode) -> Workload {
    let EnrolledPod { uid, pod: name, addresses, .. } = &pod.enrolled;
    Workload {
        uid: uid.clone(),
        pod: name.clone(),
        workload: name.name.clone(),
        node: "n".into(),
        addresses: addresses.clone(),
        identity: Identity::clone(&pod.identity),
        protocol: WorkloadProtocol::Tunnel,
        mtls,
        plaintext_ports: Default::default(),
        proxy_source_ports: Default::default(),
        filtered_by: None,
        refuses_udp: false,
        transition: None,
    }
}

/// An application on the callee's `port`: `serve` is called per connection, with the address it came from.
pub(crate) async fn application<F>(port: u16, serve: impl Fn(TcpStream, SocketAddr) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind((CALLEE.parse::<IpAddr>().unwrap(), port)).await.unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            tokio::task::spawn_local(serve(stream, peer));
        }
    });
}

/// Reads one HTTP/1 head; `None` at the end of the stream.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8(head).unwrap())
}

/// An application that answers every HTTP/1 request with its own head and the caller's address as body.
pub(crate) async fn echo_heads(port: u16) {
    application(port, |mut stream, peer| async move {
        while let Some(head) = read_head(&mut stream).await {
            let body = format!("{}\n{head}", peer.ip());
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
}
