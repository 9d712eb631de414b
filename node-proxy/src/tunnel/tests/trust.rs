//! Tunnels live no longer than the trust in their peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use weft_tls::testing::TestCa;
use weft_tls::{Leaf, TlsStream};

use super::*;
use crate::call::{Accepted, Listener};
use crate::pod::LocalPod;
use crate::tunnel::hbone::HboneStream;

fn short_leaf(world: &World, pod: &LocalPod, left: Duration) -> Leaf {
    let now = SystemTime::now();
    world.ca.leaf_valid(&pod.identity, now - Duration::from_secs(60), now + left)
}

/// An application that answers each byte with itself.
async fn echo(port: u16) {
    world::application(port, |mut stream, _| async move {
        while let Ok(byte) = stream.read_u8().await {
            if stream.write_u8(byte).await.is_err() {
                return;
            }
        }
    })
    .await;
}

/// A raw tunnel of a peer with `leaf`, that has not said anything yet.
async fn peer(world: &World, leaf: &Leaf) -> TlsStream<TcpStream> {
    let tls = weft_tls::WorkloadTls::new(leaf, &world.ca.bundle()).unwrap();
    let tcp = TcpStream::connect((CALLEE, TUNNEL_PORT)).await.unwrap();
    tls.connect(tcp, &world.callee.identity, Alpn::WeftH2).await.unwrap()
}

async fn end(mut stream: impl AsyncRead + Unpin) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.unwrap();
    begun.elapsed()
}

#[test]
fn a_callers_connection_ends_with_its_certificate() {
    world::run(|world| async move {
        // Certificates count whole seconds.
        let leaf = short_leaf(&world, &world.caller, Duration::from_millis(2500));
        let took = end(peer(&world, &leaf).await).await;
        assert!(took > Duration::from_millis(500) && took < Duration::from_secs(10), "{took:?}");
    });
}

/// A CONNECT to the echo on 8080 by a peer at this address, written with nothing but `h2`.
async fn stream_from(world: &World, leaf: &Leaf, address: &str) -> HboneStream {
    let tls = weft_tls::WorkloadTls::new(leaf, &world.ca.bundle()).unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let tcp = socket.connect(SocketAddr::new(CALLEE.parse().unwrap(), TUNNEL_PORT)).await.unwrap();
    let io = tls.connect(tcp, &world.callee.identity, Alpn::Hbone).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(io).await.unwrap();
    tokio::task::spawn_local(connection);
    let mut request = Request::new(());
    *request.method_mut() = http::Method::CONNECT;
    *request.uri_mut() = format!("{CALLEE}:8080").parse().unwrap();
    let (response, send) = sender.send_request(request, false).unwrap();
    HboneStream::new(send, response.await.unwrap().into_body())
}

#[test]
fn a_newer_certificate_on_another_connection_prolongs_those_of_the_same_peer_only() {
    world::run(|world| async move {
        echo(8080).await;
        let life = Duration::from_millis(2500);
        let short = short_leaf(&world, &world.caller, life);
        let mut prolonged = stream_from(&world, &short, CALLER).await;
        let elsewhere = stream_from(&world, &short, world::STRANGER).await;
        let now = SystemTime::now();
        let admin = world.ca.identity("shop", "admin");
        let admin = world.ca.leaf_valid(&admin, now - Duration::from_secs(60), now + life);
        let other = stream_from(&world, &admin, CALLER).await;
        // Whoever shows the newer one may leave again.
        drop(stream_from(&world, &world.ca.leaf(&world.caller.identity), CALLER).await);
        let (one, two) = tokio::join!(end(elsewhere), end(other));
        assert!(one < Duration::from_secs(10) && two < Duration::from_secs(10), "{one:?} {two:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        echoes(&mut prolonged, 1).await;
    });
}

async fn echoes(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), byte: u8) {
    stream.write_u8(byte).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), byte);
}

/// A byte stream between two whose certificates have little time left.
async fn short_stream(world: &World, life: Duration) -> crate::send::ByteStream {
    echo(8080).await;
    for pod in [&world.caller, &world.callee] {
        world.certify(pod, short_leaf(world, pod, life));
    }
    let selected = world.tunnelled(8080, AppProtocol::Tcp);
    let mut stream = connect_bytes(&world.worker, &world.caller, world.peer(), &selected).await.unwrap();
    echoes(&mut stream, 1).await;
    stream
}

#[test]
fn a_byte_stream_outlives_the_certificates_of_both_its_ends_when_they_are_renewed() {
    world::run(|world| async move {
        let mut stream = short_stream(&world, Duration::from_millis(5500)).await;
        // Renewed twice: the second ones last.
        for left in [Duration::from_millis(9500), Duration::from_secs(3600)] {
            for pod in [&world.caller, &world.callee] {
                world.certify(pod, short_leaf(&world, pod, left));
            }
            tokio::time::sleep(Duration::from_secs(6)).await;
            echoes(&mut stream, 2).await;
        }
        assert!(!world.metrics().contains("bad_tunnel_request"), "{}", world.metrics());
    });
}

#[test]
fn a_byte_stream_is_cut_with_a_reason_by_the_side_whose_peer_shows_nothing_newer() {
    for callee_renews in [true, false] {
        world::run(|world| async move {
            let mut stream = short_stream(&world, Duration::from_millis(3500)).await;
            let renews = if callee_renews { &world.callee } else { &world.caller };
            world.certify(renews, world.ca.leaf(&renews.identity));
            let cut = tokio::time::timeout(Duration::from_secs(20), stream.read_u8()).await.unwrap();
            let error = cut.unwrap_err();
            assert_eq!(crate::tunnel::trusted::is_distrust(&error), !callee_renews, "{error}");
            if callee_renews {
                world.told(Reason::TrustEnded).await;
            }
        });
    }
}

#[test]
fn a_stream_whose_peer_has_shown_a_certificate_of_the_new_root_outlives_the_old_root() {
    world::run(|world| async move {
        let mut stream = short_stream(&world, Duration::from_millis(5500)).await;
        let new = TestCa::new("cluster.local");
        let both = roots(&world, &[&world.ca.bundle(), &new.bundle()]);
        for pod in [&world.caller, &world.callee] {
            let leaf = new.leaf(&pod.identity);
            let tls = Arc::new(weft_tls::WorkloadTls::new(&leaf, &both).unwrap());
            world.worker.shared.certificates.put([crate::certificates::Certified { leaf, tls }]);
        }
        world.worker.shared.certificates.trust_in(both);
        tokio::time::sleep(Duration::from_secs(6)).await;
        echoes(&mut stream, 3).await;
        world.worker.shared.certificates.trust_in(roots(&world, &[&new.bundle()]));
        tokio::time::sleep(Duration::from_millis(100)).await;
        echoes(&mut stream, 4).await;
        world.worker.shared.certificates.trust_in(roots(&world, &[&TestCa::new("cluster.local").bundle()]));
        assert!(end(stream).await < Duration::from_secs(10));
    });
}

fn roots(world: &World, bundles: &[&weft_tls::TrustBundle]) -> Arc<weft_tls::TrustBundle> {
    let roots = bundles.iter().flat_map(|b| b.roots().map(<[u8]>::to_vec).collect::<Vec<_>>());
    let domain = world.caller.identity.trust_domain.clone();
    Arc::new(weft_tls::TrustBundle::new(domain, roots).unwrap())
}

#[test]
fn a_peer_with_little_time_left_is_told_to_go_before_it_is_cut_off() {
    world::run(|world| async move {
        let leaf = short_leaf(&world, &world.caller, Duration::from_secs(4));
        let (mut sender, connection) = h2::client::handshake(peer(&world, &leaf).await).await.unwrap();
        let begun = Instant::now();
        let connection = tokio::task::spawn_local(connection);
        let connection = tokio::time::timeout(Duration::from_secs(5), connection).await.unwrap().unwrap();
        assert!(connection.is_ok(), "{connection:?}");
        assert!(begun.elapsed() < Duration::from_millis(3900), "{:?}", begun.elapsed());
        assert!(std::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_err());
    });
}

#[test]
fn open_tunnels_whose_peers_no_longer_verify_end_at_once_and_others_go_on() {
    world::run(|world| async move {
        echo(8080).await;
        let selected = world.tunnelled(8080, AppProtocol::Tcp);
        let open = || connect_bytes(&world.worker, &world.caller, world.peer(), &selected);
        let mut stream = open().await.unwrap();
        let other = TestCa::new("cluster.local").bundle();
        let certificates = &world.worker.shared.certificates;
        certificates.trust_in(roots(&world, &[&world.ca.bundle(), &other]));
        stream.write_u8(1).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_u8(2).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
        certificates.trust_in(roots(&world, &[&other]));
        assert!(end(stream).await < Duration::from_secs(10));
    });
}

#[test]
fn a_caller_that_leaves_while_there_is_no_certificate_is_let_go() {
    world::run(|world| async move {
        world.worker.shared.certificates.take(std::slice::from_ref(&world.callee.identity));
        let mut tcp = TcpStream::connect((CALLEE, TUNNEL_PORT)).await.unwrap();
        tcp.write_all(b"the beginning of a handshake").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(tcp);
        world.told(Reason::DownstreamReset).await;
        assert!(!world.metrics().contains("no_certificate"), "{}", world.metrics());
    });
}

#[test]
fn a_caller_that_resets_while_it_is_not_connected_yet_is_let_go() {
    world::run(|world| async move {
        world.worker.shared.certificates.take(std::slice::from_ref(&world.caller.identity));
        let listener = TcpListener::bind((CALLER, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let accepted = Accepted {
            pod: world.caller.clone(),
            scope: world.caller.scope.clone(),
            listener: Listener::Outbound,
            stream,
            peer,
        };
        let original = SocketAddr::new(CALLEE.parse().unwrap(), 8080);
        let worker = world.worker.clone();
        let served = tokio::task::spawn_local(async move {
            crate::outbound::serve_to(&worker, accepted, original).await;
        });
        client.set_zero_linger().unwrap();
        drop(client);
        served.await.unwrap();
        // Had it been waited for, what is missing would be the reason.
        world.told(Reason::DownstreamReset).await;
    });
}
