//! Tunnels live no longer than the trust in their peers.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use weft_tls::testing::TestCa;
use weft_tls::{Leaf, TlsStream};

use super::*;
use crate::call::{Accepted, Listener};
use crate::pod::LocalPod;

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

async fn end(mut stream: impl tokio::io::AsyncRead + Unpin) -> Duration {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap();
    begun.elapsed()
}

#[test]
fn a_callers_connection_ends_with_its_certificate() {
    world::run(|world| async move {
        // Certificates count whole seconds.
        let leaf = short_leaf(&world, &world.caller, Duration::from_millis(2500));
        let took = end(peer(&world, &leaf).await).await;
        assert!(took > Duration::from_millis(500) && took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn a_byte_stream_ends_with_the_certificate_of_the_called_and_the_next_one_opens_by_its_new_certificate() {
    world::run(|world| async move {
        echo(8080).await;
        world.certify(&world.callee, short_leaf(&world, &world.callee, Duration::from_millis(2500)));
        let selected = world.tunnelled(8080, AppProtocol::Tcp);
        let open = || connect_bytes(&world.worker, &world.caller, world.peer(), &selected);
        let mut stream = open().await.unwrap();
        stream.write_u8(1).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        world.certify(&world.callee, world.ca.leaf(&world.callee.identity));
        let took = end(stream).await;
        assert!(took > Duration::from_millis(500) && took < Duration::from_secs(3), "{took:?}");
        let mut stream = open().await.unwrap();
        stream.write_u8(2).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
    });
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
        assert!(begun.elapsed() < Duration::from_millis(2900), "{:?}", begun.elapsed());
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
        let roots = |bundles: &[&weft_tls::TrustBundle]| {
            let roots = bundles.iter().flat_map(|b| b.roots().map(<[u8]>::to_vec).collect::<Vec<_>>());
            let domain = world.caller.identity.trust_domain.clone();
            Arc::new(weft_tls::TrustBundle::new(domain, roots).unwrap())
        };
        let certificates = &world.worker.shared.certificates;
        certificates.trust_in(roots(&[&world.ca.bundle(), &other]));
        stream.write_u8(1).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_u8(2).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
        certificates.trust_in(roots(&[&other]));
        assert!(end(stream).await < Duration::from_secs(1));
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
        let accepted = Accepted { pod: world.caller.clone(), listener: Listener::Outbound, stream, peer };
        let original = std::net::SocketAddr::new(CALLEE.parse().unwrap(), 8080);
        let worker = world.worker.clone();
        let begun = Instant::now();
        let served = tokio::task::spawn_local(async move {
            crate::outbound::serve_to(&worker, accepted, original).await;
        });
        client.set_zero_linger().unwrap();
        drop(client);
        served.await.unwrap();
        // Two tries would wait for 300 ms each.
        assert!(begun.elapsed() < Duration::from_millis(280), "{:?}", begun.elapsed());
        world.told(Reason::DownstreamReset).await;
    });
}
