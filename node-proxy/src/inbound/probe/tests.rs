//! Probes through a worker, with an agent that says who calls and an application behind it. Needs root.

use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_api::node::ToAgent;
use weft_model::workload::MtlsMode;

use super::*;
use crate::telemetry::Security;
use crate::world::{self, CALLEE, STRANGER, World};

/// A connection from `from` to `port` of the callee, served as one that was redirected.
async fn call(world: &Rc<World>, from: &str, port: u16) -> TcpStream {
    let (client, stream, peer) = world::connected(from).await;
    let world = world.clone();
    tokio::task::spawn_local(async move {
        let caller = Caller { address: peer, identity: None, claimed: None, security: Security::Plaintext };
        let to = SocketAddr::new(CALLEE.parse().unwrap(), port);
        let destination = Destination { worker: &world.worker, pod: &world.callee, to, caller: &caller };
        match destination.connect().await {
            Ok(application) => destination.carry(stream, application).await,
            Err(failure) if may_be(&destination, &failure) => serve(&destination, stream, failure).await,
            Err(failure) => plaintext::refuse(&destination, stream, &failure),
        }
    });
    client
}

/// An agent for which the stranger's address is the node's, and which says this of every caller. `None`: nothing.
fn agent(world: &World, caller: Option<CallerKind>) {
    let link = &world.worker.shared.agent;
    link.set_addresses(vec![STRANGER.parse().unwrap()]);
    let mut questions = link.take_questions().unwrap();
    tokio::task::spawn_local(async move {
        let mut unanswered = Vec::new();
        while let Some(question) = questions.recv().await {
            match &caller {
                Some(caller) => question.answer.send(caller.clone()).unwrap(),
                None => unanswered.push(question),
            }
        }
    });
}

fn refused_ports(world: &World) -> Vec<u16> {
    let (said, _) = world.worker.shared.agent.refusals_due(tokio::time::Instant::now());
    said.iter().map(|m| if let ToAgent::Refused { port, .. } = m { *port } else { 0 }).collect()
}

async fn exchange(mut client: TcpStream, request: &str) -> std::io::Result<String> {
    client.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.map(|_| answer)
}

fn get(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {CALLEE}:7002\r\nUser-Agent: kube-probe/1.35\r\nConnection: close\r\nCookie: a=b\r\n\r\n"
    )
}

async fn is_reset(client: TcpStream, first: &str) {
    let error = exchange(client, first).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn declared_get_passes_from_the_callers_address_and_nothing_beside_it() {
    world::run(|world| async move {
        agent(&world, Some(CallerKind::Host));
        world::echo_heads(7002).await;
        let answer = exchange(call(&world, STRANGER, 7002).await, &get("/healthz")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert!(body.starts_with(&format!("{STRANGER}\nGET /healthz HTTP/1.1\r\n")), "{body}");
        assert!(body.contains("kube-probe") && !body.contains("ookie"), "{body}");
        for (path, status) in [("/admin", "403"), ("/healthz?x", "403")] {
            let answer = exchange(call(&world, STRANGER, 7002).await, &get(path)).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains("probe_refused"),
                "{answer}"
            );
        }
        assert_eq!(refused_ports(&world), [7002]);
        world.told(Reason::ProbeRefused).await;
    });
}

#[test]
fn second_request_on_a_probes_connection_is_judged_too() {
    world::run(|world| async move {
        agent(&world, Some(CallerKind::Host));
        world::echo_heads(7002).await;
        let both = get("/healthz").replace("Connection: close\r\n", "") + &get("/admin");
        let answer = exchange(call(&world, STRANGER, 7002).await, &both).await.unwrap();
        assert!(answer.contains("GET /healthz") && answer.contains("HTTP/1.1 403"), "{answer}");
        assert!(!answer.contains("GET /admin"), "{answer}");
    });
}

#[test]
fn what_the_application_says_is_what_the_kubelet_hears() {
    world::run(|world| async move {
        agent(&world, Some(CallerKind::Host));
        // Nobody listens.
        let answer = exchange(call(&world, STRANGER, 7002).await, &get("/healthz")).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        world::application(7002, |mut stream, _| async move {
            world::read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            // Each probe has a connection of its own: this one ends.
            assert!(world::read_head(&mut stream).await.is_none());
        })
        .await;
        for _ in 0..2 {
            let answer = exchange(call(&world, STRANGER, 7002).await, &get("/healthz")).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        }
        assert!(refused_ports(&world).is_empty());
    });
}

#[test]
fn only_a_process_of_the_node_outside_pods_may_probe() {
    for (caller, reason) in [
        (Some(CallerKind::Pod), Reason::PlaintextRefused),
        (Some(CallerKind::Nobody), Reason::PlaintextRefused),
        (Some(CallerKind::Unknown { message: "no".into() }), Reason::NoAgent),
        (None, Reason::NoAgent),
    ] {
        world::run(|world| async move {
            agent(&world, caller);
            world::echo_heads(7002).await;
            is_reset(call(&world, STRANGER, 7002).await, &get("/healthz")).await;
            world.told(reason).await;
            let reported: &[u16] = if reason == Reason::PlaintextRefused { &[7002] } else { &[] };
            assert_eq!(refused_ports(&world), reported);
        });
    }
}

#[test]
fn other_addresses_and_ports_are_refused_without_a_question() {
    world::run(|world| async move {
        world.worker.shared.agent.set_addresses(vec![STRANGER.parse().unwrap()]);
        for (from, port) in [(world::CALLER, 7002), (STRANGER, 7005)] {
            is_reset(call(&world, from, port).await, &get("/healthz")).await;
        }
        assert!(world.worker.shared.agent.take_questions().unwrap().try_recv().is_err());
        world.told(Reason::PlaintextRefused).await;
    });
}

#[test]
fn permitted_plaintext_is_nobodys_probe() {
    world::run_with(MtlsMode::Permissive, |world| async move {
        world.worker.shared.agent.set_addresses(vec![STRANGER.parse().unwrap()]);
        world::echo_heads(7002).await;
        let answer = exchange(call(&world, STRANGER, 7002).await, &get("/admin")).await.unwrap();
        assert!(answer.contains("GET /admin"), "{answer}");
    });
}

#[test]
fn tcp_probe_beside_another_kind_ends_without_a_refusal_and_bytes_are_judged() {
    world::run(|world| async move {
        agent(&world, Some(CallerKind::Host));
        world::echo_heads(7001).await;
        drop(call(&world, STRANGER, 7001).await);
        let answer = exchange(call(&world, STRANGER, 7001).await, &get("/healthz")).await.unwrap();
        assert!(answer.contains("GET /healthz"), "{answer}");
        world.told(Reason::Ok).await;
        assert!(refused_ports(&world).is_empty());
        // Where no TCP probe is declared, a connection without a byte is a caller like any other.
        drop(call(&world, STRANGER, 7002).await);
        world.told(Reason::PlaintextRefused).await;
        for (port, first) in
            [(7001, "SSH-2.0-client\r\n"), (7002, "\x16\x03\x01"), (7003, "GET / HTTP/1.1\r\n")]
        {
            is_reset(call(&world, STRANGER, port).await, first).await;
        }
        world.told(Reason::ProbeRefused).await;
    });
}

#[test]
fn https_probe_passes_as_bytes() {
    world::run(|world| async move {
        agent(&world, Some(CallerKind::Host));
        world::application(7003, |mut stream, from| async move {
            assert_eq!(from.ip().to_string(), STRANGER);
            let mut hello = [0; 8];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&hello).await.unwrap();
        })
        .await;
        let answer = exchange(call(&world, STRANGER, 7003).await, "\x16\x03\x01hello").await.unwrap();
        assert_eq!(answer, "\x16\x03\x01hello");
        world.told(Reason::Ok).await;
    });
}

#[test]
fn health_check_of_the_declared_service_passes_and_others_are_denied() {
    world::run(|world| async move {
        agent(&world, Some(CallerKind::Host));
        grpc_application(7004).await;
        for (path, service, status) in [
            ("/grpc.health.v1.Health/Check", "cart", "0"),
            ("/grpc.health.v1.Health/Check", "shop", "7"),
            ("/shop.Cart/Empty", "cart", "7"),
        ] {
            let io = hyper_util::rt::TokioIo::new(call(&world, STRANGER, 7004).await);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(http_server::LocalExecutor, io).await.unwrap();
            tokio::task::spawn_local(connection);
            let field = [&[0x0a, 4], service.as_bytes()].concat();
            let request = Request::post(format!("http://{CALLEE}:7004{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::text([&[0, 0, 0, 0, 6][..], &field].concat()))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let head = response.headers().get("grpc-status").cloned();
            let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
            let trailer = body.trailers().and_then(|trailers| trailers.get("grpc-status").cloned());
            assert_eq!(head.or(trailer).unwrap(), status, "{path} {service}");
        }
        world.told(Reason::ProbeRefused).await;
    });
}

/// Answers every gRPC call with "serving".
async fn grpc_application(port: u16) {
    world::application(port, |stream, _| async move {
        let answer = |request: Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let trailers = [("grpc-status", "0")].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
            let body = http_body_util::Full::new(bytes::Bytes::from_static(b"\0\0\0\0\x02\x08\x01"));
            let trailers = std::future::ready(Some(Ok(http::HeaderMap::from_iter(trailers))));
            let body = http_body_util::BodyExt::with_trailers(body, trailers);
            Ok::<_, std::convert::Infallible>(
                Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
            )
        };
        let io = hyper_util::rt::TokioIo::new(stream);
        let service = hyper::service::service_fn(answer);
        let _ = hyper::server::conn::http2::Builder::new(http_server::LocalExecutor)
            .serve_connection(io, service)
            .await;
    })
    .await;
}
