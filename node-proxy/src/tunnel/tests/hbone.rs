//! HBONE: our two sides against each other, and ours against a peer written with nothing but `h2`.

use bytes::Bytes;
use http::Method;
use weft_tls::TlsStream;

use super::*;
use crate::relay::Duplex as _;
use crate::send::ByteStream;

async fn open(world: &World, port: u16) -> ByteStream {
    open_by(world, port, Transport::Tunnel(world.callee.identity.clone())).await
}

async fn open_by(world: &World, port: u16, transport: Transport) -> ByteStream {
    let selected = world.selected(port, AppProtocol::Tcp, transport);
    connect_bytes(&world.worker, &world.caller, world.peer(), &selected).await.unwrap()
}

/// By tunnel, and inside the process.
fn both(world: &World) -> [Transport; 2] {
    [Transport::Tunnel(world.callee.identity.clone()), Transport::SameNode(world.callee.clone())]
}

#[test]
fn bytes_and_half_closes_pass_both_ways() {
    world::run(|world| async move {
        world::application(8080, |mut stream, peer| async move {
            assert_eq!(peer.ip().to_string(), CALLER);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            all.reverse();
            stream.write_all(&all).await.unwrap();
        })
        .await;
        let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        for transport in both(&world) {
            let mut stream = open_by(&world, 8080, transport).await;
            stream.write_all(&data).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            back.reverse();
            assert!(back == data);
        }
        world.told(Reason::Ok).await;
    });
}

#[test]
fn server_that_speaks_first_is_heard() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
            let _ = stream.read_u8().await;
        })
        .await;
        let mut greeting = [0; 11];
        open(&world, 8080).await.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"SSH-2.0-x\r\n");
    });
}

#[test]
fn resets_pass_both_ways() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            stream.write_all(b"x").await.unwrap();
            stream.read_u8().await.unwrap();
            stream.set_zero_linger().unwrap();
        })
        .await;
        let (heard, mut hear) = tokio::sync::mpsc::unbounded_channel();
        world::application(8081, move |mut stream, _| {
            let heard = heard.clone();
            async move {
                stream.write_all(b"x").await.unwrap();
                let _ = heard.send(stream.read_u8().await.unwrap_err().kind());
            }
        })
        .await;
        for transport in both(&world) {
            let mut stream = open_by(&world, 8080, transport.clone()).await;
            stream.read_u8().await.unwrap();
            stream.write_all(b"y").await.unwrap();
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");

            let mut stream = open_by(&world, 8081, transport).await;
            stream.read_u8().await.unwrap();
            stream.reset_on_drop();
            drop(stream);
            assert_eq!(hear.recv().await.unwrap(), std::io::ErrorKind::ConnectionReset);
        }
    });
}

#[test]
fn refused_application_is_a_failed_connect() {
    world::run(|world| async move {
        let selected = world.tunnelled(9, AppProtocol::Tcp);
        let error = connect_bytes(&world.worker, &world.caller, world.peer(), &selected).await.unwrap_err();
        assert_eq!((error.reason, error.not_established), (Reason::ConnectFailed, true), "{error}");
    });
}

#[test]
fn http_inside_a_byte_stream_cannot_bring_its_own_client_certificate() {
    world::run(|world| async move {
        world::echo_heads(8080).await;
        let mut stream = open(&world, 8080).await;
        let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nweft-meta: port=1\r\nx-forwarded-client-cert: URI=admin\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.contains("x-forwarded-client-cert: URI=spiffe://cluster.local/ns/shop/sa/caller\r\n"),
            "{answer}"
        );
        assert!(!answer.contains("admin") && !answer.contains("weft-meta"), "{answer}");
    });
}

/// A connection as a ztunnel makes it.
async fn peer(world: &World) -> h2::client::SendRequest<Bytes> {
    let tls = world.worker.shared.certificates.for_identity(&world.caller.identity).unwrap();
    let tcp = TcpStream::connect((CALLEE, TUNNEL_PORT)).await.unwrap();
    let io: TlsStream<TcpStream> = tls.connect(tcp, &world.callee.identity, Alpn::Hbone).await.unwrap();
    let (sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::task::spawn_local(connection);
    sender.ready().await.unwrap()
}

#[test]
fn a_peer_gets_the_statuses_that_a_ztunnel_would_give() {
    world::run(|world| async move {
        world::echo_heads(8080).await;
        let mut sender = peer(&world).await;
        for (method, uri, expected) in [
            (Method::CONNECT, "10.9.0.2:8080", 200),
            (Method::CONNECT, "10.9.0.1:8080", 400),
            (Method::CONNECT, "127.0.0.1:8080", 400),
            (Method::CONNECT, "cart.shop:8080", 400),
            (Method::CONNECT, "10.9.0.2:9", 503),
            (Method::CONNECT, "10.9.0.2:15008", 503),
            (Method::CONNECT, "10.9.0.2:15001", 503),
            (Method::GET, "http://10.9.0.2:8080/", 400),
        ] {
            let request = Request::builder().method(&method).uri(uri).body(()).unwrap();
            let (response, _body) = sender.send_request(request, false).unwrap();
            assert_eq!(response.await.unwrap().status().as_u16(), expected, "{method} {uri}");
        }
        world.told(Reason::BadTunnelRequest).await;
        world.told(Reason::Loop).await;
    });
}

#[test]
fn a_closing_pod_says_goaway_and_its_streams_go_on() {
    world::run(|world| async move {
        world::application(8080, |mut stream, _| async move {
            stream.write_all(b"x").await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_all(&[byte]).await.unwrap();
        })
        .await;
        let mut sender = peer(&world).await;
        let request = || Request::builder().method(Method::CONNECT).uri("10.9.0.2:8080").body(()).unwrap();
        let (response, mut send) = sender.send_request(request(), false).unwrap();
        let mut recv = response.await.unwrap().into_body();
        assert_eq!(recv.data().await.unwrap().unwrap(), "x");
        world.callee.scope.closing.cancel();
        tokio::time::sleep(Duration::from_millis(100)).await;
        send.send_data(Bytes::from_static(b"y"), true).unwrap();
        assert_eq!(recv.data().await.unwrap().unwrap(), "y");
        assert!(sender.ready().await.is_err());
    });
}
