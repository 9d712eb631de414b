//! Mutual TLS between two workloads that belong together: what is agreed on, and how a connection ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use weft_tls::sni::HelloReader;
use weft_tls::testing::TestCa;
use weft_tls::{Accepted, Alpn, TlsError, TlsStream};

async fn joined(alpn: Alpn) -> (TlsStream<DuplexStream>, Accepted<DuplexStream>) {
    let ca = TestCa::new("cluster.local");
    let (cart, web) = (ca.identity("shop", "cart"), ca.identity("shop", "web"));
    let (near, far) = duplex(64 * 1024);
    let (server, client) = (ca.workload(&cart), ca.workload(&web));
    let (accepted, connected) = tokio::join!(server.accept(far), client.connect(near, &cart, alpn));
    let accepted = accepted.unwrap();
    assert_eq!((&accepted.peer, accepted.alpn), (&web, alpn));
    (connected.unwrap(), accepted)
}

#[tokio::test]
async fn both_sides_agree_on_identity_protocol_and_post_quantum_key_exchange() {
    for alpn in Alpn::ALL {
        let (mut client, Accepted { mut stream, .. }) = joined(alpn).await;
        assert_eq!(client.key_exchange(), Some("X25519MLKEM768"));
        assert_eq!(stream.key_exchange(), Some("X25519MLKEM768"));
        client.write_all(b"request").await.unwrap();
        let mut buffer = [0; 7];
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"request");
    }
}

#[tokio::test]
async fn shutdown_is_a_clean_end_and_the_other_direction_goes_on() {
    let (mut client, Accepted { mut stream, .. }) = joined(Alpn::Hbone).await;
    client.write_all(b"last words").await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"last words");
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn an_end_without_close_notify_is_a_truncation() {
    let (mut client, Accepted { mut stream, .. }) = joined(Alpn::Hbone).await;
    client.write_all(b"half of").await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    let mut read = Vec::new();
    let error = stream.read_to_end(&mut read).await.unwrap_err();
    assert_eq!((read.as_slice(), error.kind()), (b"half of".as_slice(), ErrorKind::UnexpectedEof));
    assert!(matches!(TlsError::of(&error), Some(TlsError::Truncated)));
}

#[tokio::test]
async fn an_ordinary_io_error_is_no_error_of_tls() {
    assert!(TlsError::of(&ErrorKind::ConnectionReset.into()).is_none());
}

#[tokio::test]
async fn a_client_names_no_server_and_exactly_one_protocol() {
    let ca = TestCa::new("cluster.local");
    let (near, mut far) = duplex(64 * 1024);
    let client = ca.workload(&ca.identity("shop", "web"));
    let expected = ca.identity("shop", "cart");
    let connecting = tokio::spawn(async move { client.connect(near, &expected, Alpn::WeftH2).await });
    let mut reader = HelloReader::default();
    let hello = loop {
        let mut buffer = [0; 512];
        let read = far.read(&mut buffer).await.unwrap();
        if let Some(hello) = reader.feed(&buffer[..read]).unwrap() {
            break hello;
        }
    };
    assert_eq!((hello.server_name, hello.alpn), (None, vec![b"weft-h2".to_vec()]));
    drop(far);
    assert!(matches!(connecting.await.unwrap(), Err(TlsError::Closed)));
}

/// The futures live in every connection's task: what they cost each is worth watching.
#[tokio::test]
async fn handshake_futures_are_small() {
    let ca = TestCa::new("cluster.local");
    let me = ca.identity("shop", "web");
    let tls = ca.workload(&me);
    let (near, far) = duplex(1);
    let (accept, connect) = (tls.accept(far), tls.connect(near, &me, Alpn::Hbone));
    let (accept, connect) = (size_of_val(&accept), size_of_val(&connect));
    assert!(accept <= 512 && connect <= 512, "accept {accept}, connect {connect} bytes");
}
