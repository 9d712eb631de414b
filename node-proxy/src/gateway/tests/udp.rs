//! UDP listeners.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use weft_model::gateway::{Listener, ListenerProtocol};
use weft_model::route::*;
use weft_model::service::{Endpoint, Endpoints};
use weft_model::{ObjectName, Resource};

use super::rig::{Rig, listener};
use crate::gateway::udp::{DatagramPort, serve};
use crate::outbound::http::tests::world::{World, backend, run};
use crate::scope::Scope;

fn udp() -> Listener {
    Listener { protocol: ListenerProtocol::Udp, ..listener("udp", None) }
}

fn rules(backends: Vec<Backend>) -> Rules {
    Rules::Udp(vec![TcpRule { name: None, backends, refusal: None }])
}

/// Answers each datagram with its name and the datagram.
async fn echo(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = format!("{name} {}", String::from_utf8_lossy(&buffer[..length]));
            socket.send_to(answer.as_bytes(), from).await.unwrap();
        }
    });
    address
}

fn endpoints(world: &World, name: &str, addresses: &[SocketAddr]) {
    world.set(Resource::Endpoints(Endpoints {
        service: ObjectName::new("shop", name),
        ports: BTreeMap::new(),
        udp_ports: [(80, addresses.iter().map(|address| Endpoint::at(*address)).collect())].into(),
    }));
}

/// Serves the rig's port number on a socket of this test.
fn listen(world: &World, rig: &Rig<'_>) -> SocketAddr {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let scope = Scope::new(&world.worker.shared.ends).into();
    let port = DatagramPort { pod: rig.pod.clone(), scope, socket, number: rig.port };
    tokio::task::spawn_local(serve(world.worker.clone(), port));
    address
}

async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Connected: an answer from any other address would not be taken.
    socket.connect(to).await.unwrap();
    socket
}

async fn ask(socket: &UdpSocket, question: &str) -> Option<String> {
    ask_for(socket, question, Duration::from_secs(20)).await
}

/// Asks and waits for an answer for so long.
async fn ask_for(socket: &UdpSocket, question: &str, most: Duration) -> Option<String> {
    socket.send(question.as_bytes()).await.unwrap();
    let mut buffer = [0; 1500];
    let answer = tokio::time::timeout(most, socket.recv(&mut buffer)).await.ok()?;
    Some(String::from_utf8_lossy(&buffer[..answer.ok()?]).into_owned())
}

#[test]
fn a_flow_keeps_its_backend_and_flows_go_by_weight() {
    run(async |world| {
        endpoints(world, "one", &[echo("one").await]);
        endpoints(world, "two", &[echo("two").await]);
        let rig = Rig::new(world, vec![udp()]).await;
        rig.attach_kind(RouteKind::Udp, "r", ("udp", &[]), rules(vec![backend("one", 3), backend("two", 1)]));
        let address = listen(world, &rig);
        let mut counts = BTreeMap::new();
        for _ in 0..8 {
            let socket = client(address).await;
            let first = ask(&socket, "a").await.unwrap();
            for _ in 0..3 {
                assert_eq!(ask(&socket, "a").await.unwrap(), first);
            }
            *counts.entry(first).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([("one a".to_owned(), 6), ("two a".to_owned(), 2)]));
    });
}

#[test]
fn flows_go_by_the_services_own_routes_where_the_listener_obeys_them() {
    run(async |world| {
        endpoints(world, "one", &[echo("one").await]);
        endpoints(world, "two", &[echo("two").await]);
        let rig = Rig::new(world, vec![udp()]).await;
        rig.attach_kind(RouteKind::Udp, "r", ("udp", &[]), rules(vec![backend("one", 1)]));
        let own = |of: &str, to: &str| {
            world.set(Resource::Route(Route {
                id: RouteId { kind: RouteKind::Udp, name: ObjectName::new("shop", format!("own-{of}")) },
                generation: 1,
                created: 0,
                parents: vec![Parent { service: ObjectName::new("shop", of), port: 80, explicit_port: true }],
                listeners: vec![],
                for_gateways: true,
                rules: rules(vec![backend(to, 1)]),
            }));
        };
        own("one", "two");
        own("two", "one");
        let socket = client(listen(world, &rig)).await;
        assert_eq!(ask(&socket, "a").await.unwrap(), "one a");
        rig.listeners(vec![Listener { service_routes: true, ..udp() }]);
        for _ in 0..3 {
            assert_eq!(ask(&socket, "b").await.unwrap(), "two b");
        }
        own("one", "one");
        assert_eq!(ask(&socket, "c").await.unwrap(), "one c");
    });
}

#[test]
fn a_flow_whose_endpoint_is_gone_gets_another() {
    run(async |world| {
        endpoints(world, "one", &[echo("old").await]);
        let rig = Rig::new(world, vec![udp()]).await;
        rig.attach_kind(RouteKind::Udp, "r", ("udp", &[]), rules(vec![backend("one", 1)]));
        let socket = client(listen(world, &rig)).await;
        assert_eq!(ask(&socket, "a").await.unwrap(), "old a");
        endpoints(world, "one", &[echo("new").await]);
        assert_eq!(ask(&socket, "b").await.unwrap(), "new b");
        endpoints(world, "one", &[]);
        assert_eq!(ask_for(&socket, "c", Duration::from_millis(500)).await, None);
        world.told("no_endpoints", "protocol=\"udp\"").await;
    });
}

#[test]
fn a_port_without_a_route_to_follow_is_not_open() {
    run(async |world| {
        let rig = Rig::new(world, vec![udp()]).await;
        let ports = || world.worker.shared.snapshot.load().gateway_ports().count();
        assert_eq!(ports(), 0);
        rig.attach_kind(RouteKind::Udp, "r", ("udp", &[]), rules(vec![backend("one", 1)]));
        assert_eq!(ports(), 1);
        let refusal = Some(Refusal { message: "no".into() });
        let refused = vec![TcpRule { name: None, backends: vec![], refusal }];
        rig.attach_kind(RouteKind::Udp, "r", ("udp", &[]), Rules::Udp(refused));
        assert_eq!(ports(), 0);
    });
}
