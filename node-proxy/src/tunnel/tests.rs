//! Tunnels between two pods: real TLS, real sockets, raw applications and raw peers.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weft_api::node::TUNNEL_PORT;
use weft_model::Reason;
use weft_model::service::AppProtocol;
use weft_tls::Alpn;

use crate::body::Body;
use crate::call::{Claimed, Selected, Transport};
use crate::send::{SendError, connect_bytes, send_http};
use crate::world::{self, CALLEE, CALLER, World};

fn get(path: &str) -> http::request::Builder {
    Request::get(path).header(header::HOST, "cart.shop")
}

async fn send(
    world: &World,
    selected: &Selected,
    request: impl Into<Box<Request<Body>>>,
) -> Result<http::Response<Body>, SendError> {
    send_http(&world.worker, &world.caller, world.peer(), selected, Claimed::default(), request.into()).await
}

async fn text(response: http::Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn application_sees_the_callers_identity_and_address_and_no_forged_header() {
    world::run(|world| async move {
        world::echo_heads(8080).await;
        for transport in
            [Transport::Tunnel(world.callee.identity.clone()), Transport::SameNode(world.callee.clone())]
        {
            let selected = world.selected(8080, AppProtocol::Http, transport);
            let request = get("/a?b=c")
                .header("weft-meta", "port=22")
                .header("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")
                .header("connection", "x-secret, keep-alive")
                .header("x-secret", "1")
                .header("keep-alive", "timeout=5");
            let response = send(&world, &selected, request.body(Body::Empty).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let seen = text(response).await;
            let mut lines = seen.lines();
            assert_eq!(lines.next(), Some(CALLER));
            assert_eq!(lines.next(), Some("GET /a?b=c HTTP/1.1"));
            let headers: Vec<&str> = lines.filter(|l| !l.is_empty() && *l != "te: trailers").collect();
            let identity = "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/caller";
            assert_eq!(headers, ["host: cart.shop", identity]);
        }
    });
}

#[test]
fn refused_connection_is_not_established_and_a_reset_after_sending_is() {
    world::run(|world| async move {
        world::application(8081, |mut stream, _| async move {
            world::read_head(&mut stream).await;
        })
        .await;
        for transport in
            [Transport::Tunnel(world.callee.identity.clone()), Transport::SameNode(world.callee.clone())]
        {
            for protocol in [AppProtocol::Http, AppProtocol::H2c] {
                let nobody = world.selected(8082, protocol, transport.clone());
                let error = send(&world, &nobody, get("/").body(Body::Empty).unwrap()).await.unwrap_err();
                assert_eq!((error.reason, error.not_established), (Reason::ConnectFailed, true), "{error}");
            }
            let hangs_up = world.selected(8081, AppProtocol::Http, transport.clone());
            let error = send(&world, &hangs_up, get("/").body(Body::Empty).unwrap()).await.unwrap_err();
            assert_eq!((error.reason, error.not_established), (Reason::UpstreamReset, false), "{error}");
        }
    });
}

#[test]
fn application_cannot_forge_the_proxys_answer() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            world::read_head(&mut stream).await;
            let answer = "HTTP/1.1 503 No\r\nweft-meta: error=connect_failed; established=no\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let selected = world.tunnelled(8080, AppProtocol::Http);
        let response = send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains_key("weft-meta"));
    });
}

#[test]
fn connection_is_reused_and_one_found_dead_is_replaced_unnoticed() {
    world::run(|world| async move {
        let accepted = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = accepted.clone();
        world::application(8080, move |mut stream, _| {
            count.set(count.get() + 1);
            async move {
                // Two requests, then the connection closes while it is idle.
                for _ in 0..2 {
                    world::read_head(&mut stream).await;
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
            }
        })
        .await;
        let selected = world.tunnelled(8080, AppProtocol::Http);
        for expected in [1, 1, 2, 2, 3] {
            let response = send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap();
            assert_eq!(text(response).await, "ok");
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(accepted.get(), expected);
        }
    });
}

#[test]
fn connection_that_carried_negotiate_is_never_reused() {
    world::run(|world| async move {
        let accepted = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = accepted.clone();
        world::application(8080, move |mut stream, _| {
            count.set(count.get() + 1);
            async move {
                while world::read_head(&mut stream).await.is_some() {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                }
            }
        })
        .await;
        let selected = world.tunnelled(8080, AppProtocol::Http);
        for expected in 1..=3 {
            let request = get("/").header(header::AUTHORIZATION, "Negotiate abc").body(Body::Empty).unwrap();
            text(send(&world, &selected, request).await.unwrap()).await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(accepted.get(), expected);
        }
    });
}

/// A body that the test feeds.
fn fed() -> (tokio::sync::mpsc::UnboundedSender<Bytes>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let stream = futures_util::stream::unfold(receiver, |mut r| async move {
        r.recv().await.map(|b| (Ok(http_body::Frame::data(b)), r))
    });
    (sender, Body::boxed(http_body_util::StreamBody::new(stream)))
}

#[test]
fn bodies_stream_both_ways_byte_by_byte() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            world::read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            // Chunks of one byte: "1\r\nX\r\n", each answered at once.
            let mut chunk = [0; 6];
            while stream.read_exact(&mut chunk).await.is_ok() {
                stream.write_all(&chunk).await.unwrap();
            }
        })
        .await;
        let selected = world.tunnelled(8080, AppProtocol::Http);
        let (feed, body) = fed();
        feed.send(Bytes::from_static(b"a")).unwrap();
        let request = Request::post("/").header(header::HOST, "x").body(body).unwrap();
        let mut response = send(&world, &selected, request).await.unwrap();
        for byte in ["a", "b", "c"] {
            if byte != "a" {
                feed.send(Bytes::from_static(byte.as_bytes())).unwrap();
            }
            let frame = response.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), byte);
        }
    });
}

#[test]
fn trailers_that_are_announced_pass_over_http1() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            world::read_head(&mut stream).await;
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let selected = world.tunnelled(8080, AppProtocol::Http);
        let response = send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "7");
    });
}

#[test]
fn early_hints_are_skipped_and_the_final_response_passes() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            world::read_head(&mut stream).await;
            let answer = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let selected = world.tunnelled(8080, AppProtocol::Http);
        let response = send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap();
        assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "ok"));
    });
}

/// An HTTP/2 application that answers with the request's body and a trailer. Returns how many connections it has had.
async fn http2_application(port: u16) -> std::rc::Rc<std::cell::Cell<usize>> {
    let accepted = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = accepted.clone();
    let serve = move |stream, _| {
        count.set(count.get() + 1);
        serve_http2(stream)
    };
    world::application(port, serve).await;
    accepted
}

async fn serve_http2(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::task::spawn_local(async move {
            assert!(!request.headers().contains_key("weft-meta"));
            let response =
                http::Response::builder().header("x-authority", request.uri().authority().unwrap().as_str());
            let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send.send_data(data, false).unwrap();
            }
            let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
            send.send_trailers(trailers).unwrap();
        });
    }
}

#[test]
fn http2_and_its_trailers_pass_from_http1_and_http2_callers_alike() {
    world::run(|world| async move {
        http2_application(8080).await;
        let selected = world.tunnelled(8080, AppProtocol::H2c);
        let old = Request::post("/s/m").header(header::HOST, "cart.shop").body(Body::text("hello")).unwrap();
        let mut new = Request::post("http://cart.shop/s/m").body(Body::text("hello")).unwrap();
        *new.version_mut() = http::Version::HTTP_2;
        for request in [old, new] {
            let response = send(&world, &selected, request).await.unwrap();
            assert_eq!(response.headers()["x-authority"], "cart.shop");
            let collected = response.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(collected.to_bytes(), "hello");
        }
    });
}

#[test]
fn http2_connection_that_carried_negotiate_is_given_to_no_other_request() {
    world::run(|world| async move {
        let accepted = http2_application(8080).await;
        let selected = world.tunnelled(8080, AppProtocol::H2c);
        for (authorization, expected) in
            [("Basic YTpi", 1), ("Basic YTpi", 1), ("Negotiate abc", 1), ("Basic YTpi", 2), ("Basic YTpi", 2)]
        {
            let request = get("/").header(header::AUTHORIZATION, authorization).body(Body::Empty).unwrap();
            send(&world, &selected, request).await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(accepted.get(), expected, "{authorization}");
        }
    });
}

#[test]
fn many_http2_requests_share_few_connections() {
    world::run(|world| async move {
        http2_application(8080).await;
        let selected = world.tunnelled(8080, AppProtocol::H2c);
        let requests = (0..250).map(|_| async {
            let request = Request::post("/").header(header::HOST, "x").body(Body::text("y")).unwrap();
            text(send(&world, &selected, request).await.unwrap()).await
        });
        let answers = futures_util::future::join_all(requests).await;
        assert!(answers.iter().all(|a| a == "y") && answers.len() == 250);
    });
}

#[test]
fn stuck_peer_fails_at_its_deadline_and_delays_nobody_else() {
    world::run(|world| async move {
        world::echo_heads(8080).await;
        // Accepts TCP and then says nothing.
        let _stuck = TcpListener::bind((world::STRANGER, TUNNEL_PORT)).await.unwrap();
        let mut stuck = world.tunnelled(8080, AppProtocol::Http);
        stuck.address.set_ip(world::STRANGER.parse().unwrap());
        let started = tokio::time::Instant::now();
        let waiting = async {
            let sends = (0..20).map(|_| async {
                let error = send(&world, &stuck, get("/").body(Body::Empty).unwrap()).await.unwrap_err();
                assert_eq!((error.reason, error.not_established), (Reason::TlsFailed, true), "{error}");
                assert!(error.request.is_some());
            });
            futures_util::future::join_all(sends).await;
        };
        let other = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let selected = world.tunnelled(8080, AppProtocol::Http);
            send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap();
            tokio::time::Instant::now()
        };
        let waiting = async {
            waiting.await;
            tokio::time::Instant::now()
        };
        let (waited, answered) = tokio::join!(waiting, other);
        assert!(answered < waited, "{answered:?} {waited:?}");
        // Twenty deadlines one after the other would take twenty times as long.
        assert!(waited - started < Duration::from_secs(10), "{:?}", waited - started);
    });
}

#[test]
fn garbage_and_silence_on_the_tunnel_port_end_with_a_reason() {
    world::run(|world| async move {
        let mut garbage = TcpStream::connect((CALLEE, TUNNEL_PORT)).await.unwrap();
        garbage.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut silent = TcpStream::connect((CALLEE, TUNNEL_PORT)).await.unwrap();
        for stream in [&mut garbage, &mut silent] {
            let mut rest = Vec::new();
            // An alert may precede the end; a reset is an end too.
            let _ = stream.read_to_end(&mut rest).await;
        }
        world.told(Reason::TlsFailed).await;
    });
}

#[test]
fn peer_with_a_wrong_expired_or_foreign_certificate_is_refused() {
    world::run(|world| async move {
        world::echo_heads(8080).await;
        let somebody_else = Transport::Tunnel(world.ca.identity("shop", "admin"));
        let selected = world.selected(8080, AppProtocol::Http, somebody_else);
        let error = send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap_err();
        assert_eq!((error.reason, error.not_established), (Reason::TlsFailed, true), "{error}");

        let identity = &world.caller.identity;
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let expired = world.ca.leaf_valid(identity, long_ago, long_ago + Duration::from_secs(60));
        let foreign = weft_tls::testing::TestCa::new("cluster.local");
        for leaf in [expired, foreign.leaf(identity)] {
            let tls = weft_tls::WorkloadTls::new(&leaf, &world.ca.bundle()).unwrap();
            world.worker.shared.certificates.put([crate::certificates::Certified { leaf, tls: tls.into() }]);
            let selected = world.tunnelled(8080, AppProtocol::Http);
            let error = send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap_err();
            assert_eq!((error.reason, error.not_established), (Reason::TlsFailed, true), "{error}");
            let error =
                connect_bytes(&world.worker, &world.caller, world.peer(), &selected).await.unwrap_err();
            assert_eq!(error.reason, Reason::TlsFailed, "{error}");
        }
        world.told(Reason::TlsFailed).await;

        world.worker.shared.certificates.take(std::slice::from_ref(identity));
        let selected = world.tunnelled(8080, AppProtocol::Http);
        let error = send(&world, &selected, get("/").body(Body::Empty).unwrap()).await.unwrap_err();
        assert_eq!((error.reason, error.not_established), (Reason::NoCertificate, true), "{error}");
    });
}

#[test]
fn tunnelled_request_without_exact_meta_is_refused_as_bad() {
    world::run(|world| async move {
        world::echo_heads(8080).await;
        let tls = world.worker.shared.certificates.for_identity(&world.caller.identity).unwrap();
        for meta in
            ["", "weft-meta: port=8080; mood=good\r\n", "weft-meta: port=8080\r\nweft-meta: port=8080\r\n"]
        {
            let tcp = TcpStream::connect((CALLEE, TUNNEL_PORT)).await.unwrap();
            let mut tunnel = tls.connect(tcp, &world.callee.identity, Alpn::WeftH1).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{meta}\r\n");
            tunnel.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let _ = tunnel.read_to_string(&mut answer).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{meta:?}: {answer}");
            assert!(answer.contains("weft-meta: error=bad_tunnel_request; established=no"), "{answer}");
        }
        world.told(Reason::BadTunnelRequest).await;
    });
}

mod hbone;
mod hops;
mod trust;
