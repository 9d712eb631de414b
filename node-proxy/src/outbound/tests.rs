//! Captured connections against real peers on the loopback device: pods are this very namespace, what they dial is
//! plaintext endpoints, and what became of each connection is read from the access log.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weft_api::delta::Change;
use weft_model::route::{Backend, BackendTarget, Parent, Route, RouteId, RouteKind, Rules, TcpRule, TlsRule};
use weft_model::service::{AppProtocol, Endpoint, Endpoints, Service, ServicePort};
use weft_model::{MeshConfig, ObjectName, Resource, TrustDomain};
use weft_runtime::netns::NetNamespace;

use super::*;
use crate::call::Listener;
use crate::pod::LocalPod;
use crate::testing;
use crate::worker::Shared;

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 3306);

struct Rig {
    shared: Arc<Shared>,
    worker: WorkerRef,
    pod: Arc<LocalPod>,
    log: tempfile::NamedTempFile,
}

impl Rig {
    fn new(changes: Vec<Change>) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let shared = testing::shared_logging_to(log.path());
        let rig = Self {
            worker: WorkerRef::new(Worker::new(0, shared.clone())),
            pod: Arc::new(LocalPod::new(
                // Mark 0: setting it needs no privilege that the test could lack.
                weft_api::node::EnrolledPod { bypass_mark: 0, ..testing::enrolled("a", &["10.244.0.1"]) },
                "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
                NetNamespace::current().unwrap(),
                &shared.ends,
            )),
            shared,
            log,
        };
        if !changes.is_empty() {
            rig.publish(changes);
        }
        rig
    }

    fn publish(&self, changes: Vec<Change>) {
        let before = self.shared.snapshot.load_full();
        self.shared.snapshot.swap(Arc::new(before.apply(before.version + 1, changes)));
    }

    /// Opens a connection that was captured on its way to `original`, and serves it in the background.
    async fn call(&self, original: SocketAddr) -> TcpStream {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (stream, peer) = far.unwrap();
        let accepted = Accepted {
            pod: self.pod.clone(),
            scope: self.pod.scope.clone(),
            listener: Listener::Outbound,
            stream,
            peer,
        };
        let worker = self.worker.clone();
        tokio::task::spawn_local(async move { serve_to(&worker, accepted, original).await });
        near.unwrap()
    }

    /// The reasons in the access log, once there are `count` lines.
    async fn reasons(&self, count: usize) -> Vec<String> {
        for _ in 0..500 {
            let text = std::fs::read_to_string(self.log.path()).unwrap();
            let lines: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if lines.len() >= count {
                return lines.iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} lines do not come", count);
    }
}

fn set(resource: Resource) -> Change {
    Change::Set(resource.name(), Arc::new(resource))
}

fn mesh() -> Change {
    set(Resource::MeshConfig(MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
    }))
}

fn service(protocol: AppProtocol) -> Change {
    set(Resource::Service(Service {
        addresses: vec![SERVICE.ip()],
        ports: vec![ServicePort { port: SERVICE.port(), name: None, protocol }],
        ..Service::new(ObjectName::new("shop", "db"))
    }))
}

fn endpoints(of: &str, addresses: &[SocketAddr]) -> Change {
    let endpoint = |address: &SocketAddr| Endpoint::at(*address);
    set(Resource::Endpoints(Endpoints {
        service: ObjectName::new("shop", of),
        ports: [(SERVICE.port(), addresses.iter().map(endpoint).collect())].into(),
        udp_ports: BTreeMap::new(),
    }))
}

fn route(kind: RouteKind, explicit_port: bool, rules: Rules) -> Change {
    set(Resource::Route(Route {
        id: RouteId { kind, name: ObjectName::new("shop", "route") },
        generation: 1,
        created: 1,
        parents: vec![Parent { service: ObjectName::new("shop", "db"), port: SERVICE.port(), explicit_port }],
        listeners: Vec::new(),
        for_gateways: false,
        rules,
    }))
}

fn backend(service: &str, weight: u32) -> Backend {
    let service = ObjectName::new("shop", service);
    let target = BackendTarget::Service { service, port: SERVICE.port(), protocol: AppProtocol::Unspecified };
    Backend { weight, target, filters: Vec::new() }
}

/// A server that greets every connection with `greeting` and then echoes.
async fn server(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                stream.write_all(greeting.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn dead() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

async fn says(stream: &mut TcpStream, expected: &str) {
    let mut got = vec![0; expected.len()];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&got), expected);
}

async fn is_reset(mut stream: TcpStream) {
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_through_a_service_without_routes() {
    local(async {
        let up = server("welcome").await;
        let rig = Rig::new(vec![mesh(), service(AppProtocol::Unspecified), endpoints("db", &[up])]);
        let mut caller = rig.call(SERVICE).await;
        says(&mut caller, "welcome").await;
        caller.write_all(b"question").await.unwrap();
        caller.shutdown().await.unwrap();
        says(&mut caller, "question").await;
        assert_eq!(rig.reasons(1).await, ["ok"]);
    })
    .await;
}

#[tokio::test]
async fn a_dead_endpoint_costs_one_try_and_two_dead_ones_the_connection() {
    local(async {
        let (up, down, down_too) = (server("up").await, dead().await, dead().await);
        let rig = Rig::new(vec![mesh(), service(AppProtocol::Tcp), endpoints("db", &[down, up])]);
        for _ in 0..4 {
            says(&mut rig.call(SERVICE).await, "up").await;
        }
        assert_eq!(rig.reasons(4).await, ["ok"; 4]);
        rig.publish(vec![endpoints("db", &[down, down_too])]);
        is_reset(rig.call(SERVICE).await).await;
        rig.publish(vec![endpoints("db", &[])]);
        is_reset(rig.call(SERVICE).await).await;
        assert_eq!(rig.reasons(6).await[4..], ["connect_failed", "no_endpoints"]);
    })
    .await;
}

#[tokio::test]
async fn an_unknown_cluster_address_is_held_and_then_refused_and_news_in_time_saves_it() {
    local(async {
        let rig = Rig::new(vec![mesh()]);
        is_reset(rig.call(SERVICE).await).await;
        assert_eq!(rig.reasons(1).await, ["unknown_destination"]);
        let mut caller = rig.call(SERVICE).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let up = server("here").await;
        rig.publish(vec![service(AppProtocol::Unspecified), endpoints("db", &[up])]);
        says(&mut caller, "here").await;
    })
    .await;
}

#[tokio::test]
async fn a_port_that_a_known_service_does_not_have_is_refused_at_once_by_name() {
    local(async {
        let rig = Rig::new(vec![mesh(), service(AppProtocol::Unspecified)]);
        is_reset(rig.call(SocketAddr::new(SERVICE.ip(), 81)).await).await;
        assert_eq!(rig.reasons(1).await, ["unknown_port"]);
        let log = std::fs::read_to_string(rig.log.path()).unwrap();
        assert!(log.contains("shop/db") && log.contains("has no port 81: it has 3306"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn everything_is_refused_before_the_first_configuration() {
    local(async {
        let rig = Rig::new(vec![]);
        is_reset(rig.call("192.0.2.1:80".parse().unwrap()).await).await;
        assert_eq!(rig.reasons(1).await, ["no_configuration"]);
    })
    .await;
}

#[tokio::test]
async fn an_address_outside_the_cluster_passes_as_it_is() {
    local(async {
        let outside = server("outside").await;
        let rig = Rig::new(vec![mesh()]);
        says(&mut rig.call(outside).await, "outside").await;
    })
    .await;
}

#[tokio::test]
async fn tcp_route_weights_hold_per_connection_and_a_bad_backend_refuses_its_share() {
    local(async {
        let (one, two) = (server("1").await, server("2").await);
        let backends = vec![backend("one", 3), backend("two", 1)];
        let rules = Rules::Tcp(vec![TcpRule { name: None, backends, refusal: None }]);
        let changes = vec![
            mesh(),
            service(AppProtocol::Unspecified),
            route(RouteKind::Tcp, true, rules),
            endpoints("one", &[one]),
            endpoints("two", &[two]),
        ];
        let rig = Rig::new(changes);
        let mut seen = [0, 0];
        for _ in 0..40 {
            let mut caller = rig.call(SERVICE).await;
            seen[usize::from(caller.read_u8().await.unwrap() == b'2')] += 1;
        }
        assert_eq!(seen, [30, 10]);
        let invalid = BackendTarget::Invalid { message: "no such Service".into() };
        let backends = vec![Backend { weight: 1, target: invalid, filters: Vec::new() }];
        let rules = Rules::Tcp(vec![TcpRule { name: None, backends, refusal: None }]);
        rig.publish(vec![route(RouteKind::Tcp, true, rules)]);
        is_reset(rig.call(SERVICE).await).await;
        let refused =
            |reasons: &Vec<String>| reasons.iter().filter(|reason| *reason == "invalid_backend").count();
        assert_eq!(refused(&rig.reasons(41).await), 1);
    })
    .await;
}

#[tokio::test]
async fn tls_goes_by_server_name_and_anything_else_is_reset() {
    local(async {
        let up = server("tls").await;
        let rule = TlsRule {
            name: None,
            hostnames: vec!["*.example.org".into()],
            backends: vec![backend("one", 1)],
            refusal: None,
        };
        let route = route(RouteKind::Tls, true, Rules::Tls(vec![rule]));
        let rig = Rig::new(vec![mesh(), service(AppProtocol::Tls), route, endpoints("one", &[up])]);
        let mut caller = rig.call(SERVICE).await;
        let hello = client_hello("a.example.org");
        // In pieces, as a slow network brings it.
        for piece in hello.chunks(50) {
            caller.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        says(&mut caller, "tls").await;
        let mut echoed = vec![0; hello.len()];
        caller.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, hello);
        drop(caller);
        assert_eq!(rig.reasons(1).await, ["ok"]);

        for wrong in [client_hello("example.com"), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
            let mut caller = rig.call(SERVICE).await;
            caller.write_all(&wrong).await.unwrap();
            is_reset(caller).await;
        }
        assert_eq!(rig.reasons(3).await[1..], ["no_sni_match", "no_sni_match"]);
    })
    .await;
}

/// RFC 8446 §4.1.2, with the least that a parser wants.
fn client_hello(name: &str) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &with_length(body)].concat();
    let server_name = with_length(&[&[0][..], &with_length(name.as_bytes())].concat());
    let extensions = [
        extension(0, &server_name),
        extension(10, &with_length(&[0, 0x1d])),
        extension(13, &with_length(&[4, 3])),
        extension(43, &[2, 3, 4]),
        extension(51, &with_length(&[&[0, 0x1d, 0, 32][..], &[9; 32]].concat())),
    ]
    .concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0], &with_length(&[0x13, 1]), &[1, 0], &with_length(&extensions)].concat();
    let handshake = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&handshake)].concat()
}

fn http_route_without_port() -> Change {
    route(RouteKind::Http, false, Rules::Http(Vec::new()))
}

#[tokio::test]
async fn on_an_undeclared_covered_port_a_server_may_speak_first() {
    local(async {
        let up = server("220 mail").await;
        let changes = vec![
            mesh(),
            service(AppProtocol::Unspecified),
            http_route_without_port(),
            endpoints("db", &[up]),
        ];
        let rig = Rig::new(changes);
        let mut caller = rig.call(SERVICE).await;
        says(&mut caller, "220 mail").await;
        caller.write_all(b"GET / is an echo now").await.unwrap();
        says(&mut caller, "GET / is an echo now").await;
    })
    .await;
}

#[tokio::test]
async fn on_an_undeclared_covered_port_bytes_that_are_not_http_pass_and_late_ones_too() {
    local(async {
        let up = server("").await;
        let changes = vec![
            mesh(),
            service(AppProtocol::Unspecified),
            http_route_without_port(),
            endpoints("db", &[up]),
        ];
        let rig = Rig::new(changes);
        for wait in [0, 250] {
            let mut caller = rig.call(SERVICE).await;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            caller.write_all(b"SSH-2.0-x").await.unwrap();
            says(&mut caller, "SSH-2.0-x").await;
            // Could still become a method, but the server answers it as it is.
            let mut caller = rig.call(SERVICE).await;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            caller.write_all(b"HELLO").await.unwrap();
            says(&mut caller, "HELLO").await;
        }
    })
    .await;
}

#[tokio::test]
async fn on_an_undeclared_covered_port_http_is_routed_also_when_it_comes_late() {
    local(async {
        let up = server("").await;
        let changes = vec![
            mesh(),
            service(AppProtocol::Unspecified),
            http_route_without_port(),
            endpoints("db", &[up]),
        ];
        let rig = Rig::new(changes);
        for wait in [0, 250] {
            let mut caller = rig.call(SERVICE).await;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            caller.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            // The route has no rule, so that none matches.
            says(&mut caller, "HTTP/1.1 404").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_pods_end_ends_its_relays_with_a_word_in_the_log() {
    local(async {
        let up = server("up").await;
        let rig = Rig::new(vec![mesh(), service(AppProtocol::Tcp), endpoints("db", &[up])]);
        let mut caller = rig.call(SERVICE).await;
        says(&mut caller, "up").await;
        rig.pod.scope.ended.cancel();
        assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(rig.reasons(1).await, ["draining"]);
    })
    .await;
}
