//! Peers that do not belong: each is refused, and the error says why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_model::Identity;
use weft_tls::testing::{TestCa, uri};
use weft_tls::{Accepted, Alpn, Leaf, PeerCertificate, TlsError, TlsStream, TrustBundle, WorkloadTls};

type Sides = (Result<Accepted<DuplexStream>, TlsError>, Result<TlsStream<DuplexStream>, TlsError>);

/// Joins two sides, and lets the client read once, since that is when a server's refusal reaches it.
async fn join(server: &WorkloadTls, client: &WorkloadTls, expected: &Identity) -> Sides {
    let (near, far) = duplex(64 * 1024);
    let (accepted, connected) =
        tokio::join!(server.accept(far), client.connect(near, expected, Alpn::WeftH1));
    let connected = match (&accepted, connected) {
        (Err(_), Ok(mut stream)) => {
            let error = stream.read(&mut [0]).await.unwrap_err();
            Err(TlsError::of(&error).unwrap())
        }
        (_, connected) => connected,
    };
    (accepted, connected)
}

fn certificate_error(error: TlsError) -> PeerCertificate {
    match error {
        TlsError::Certificate(error) => error,
        other => panic!("{other}"),
    }
}

fn cart(ca: &TestCa) -> Identity {
    ca.identity("shop", "cart")
}

/// A caller with this leaf, and the called one with this leaf, each against an honest peer.
async fn both_ways(ca: &TestCa, leaf: &Leaf) -> (PeerCertificate, PeerCertificate) {
    let hostile = WorkloadTls::new(leaf, &ca.bundle()).unwrap();
    let honest = ca.workload(&cart(ca));
    let (accepted, refused) = join(&honest, &hostile, &cart(ca)).await;
    assert!(matches!(refused.unwrap_err(), TlsError::Refused(_)));
    let (refused, connected) = join(&hostile, &honest, &leaf.identity).await;
    assert!(matches!(refused.unwrap_err(), TlsError::Refused(_)));
    (certificate_error(accepted.unwrap_err()), certificate_error(connected.unwrap_err()))
}

#[tokio::test]
async fn expired_and_future_leaves_are_refused_both_ways() {
    let ca = TestCa::new("td");
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let old = ca.leaf_valid(&cart(&ca), now - hour * 2, now - hour);
    assert_eq!(both_ways(&ca, &old).await, (PeerCertificate::Expired, PeerCertificate::Expired));
    let early = ca.leaf_valid(&cart(&ca), now + hour, now + hour * 2);
    assert_eq!(both_ways(&ca, &early).await, (PeerCertificate::NotYetValid, PeerCertificate::NotYetValid));
}

#[tokio::test]
async fn the_alert_tells_an_expired_peer_that_it_has_expired() {
    let ca = TestCa::new("td");
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let old = ca.leaf_valid(&cart(&ca), now - hour * 2, now - hour);
    let old = WorkloadTls::new(&old, &ca.bundle()).unwrap();
    let (_, refused) = join(&ca.workload(&cart(&ca)), &old, &cart(&ca)).await;
    assert!(refused.unwrap_err().to_string().contains("CertificateExpired"));
}

#[tokio::test]
async fn a_leaf_of_a_foreign_root_is_refused_both_ways() {
    let (ca, foreign) = (TestCa::new("td"), TestCa::new("td"));
    let leaf = foreign.leaf(&cart(&foreign));
    assert_eq!(both_ways(&ca, &leaf).await, (PeerCertificate::Foreign, PeerCertificate::Foreign));
}

#[tokio::test]
async fn another_trust_domain_under_the_same_root_is_refused() {
    let ca = TestCa::new("td");
    let other = "spiffe://other/ns/shop/sa/cart".parse::<Identity>().unwrap();
    let leaf =
        ca.leaf_unchecked(&cart(&ca), |params| params.subject_alt_names = vec![uri(&other.to_string())]);
    let (caller, called) = both_ways(&ca, &leaf).await;
    assert_eq!(caller, PeerCertificate::TrustDomain { found: other, expected: cart(&ca).trust_domain });
    assert_eq!(caller, called);
}

#[tokio::test]
async fn the_called_must_be_exactly_the_expected_one() {
    let ca = TestCa::new("td");
    let (expected, found) = (cart(&ca), ca.identity("shop", "carts"));
    let (accepted, connected) = join(&ca.workload(&found), &ca.workload(&expected), &expected).await;
    assert!(matches!(accepted.unwrap_err(), TlsError::Refused(_)));
    assert_eq!(certificate_error(connected.unwrap_err()), PeerCertificate::WrongIdentity { found, expected });
}

#[tokio::test]
async fn only_exactly_one_identity_uri_makes_a_workload() {
    let ca = TestCa::new("td");
    let (me, other) = (uri("spiffe://td/ns/shop/sa/cart"), uri("spiffe://td/ns/shop/sa/admin"));
    let dns = SanType::DnsName("cart.shop.svc".try_into().unwrap());
    for names in [
        vec![],
        vec![dns],
        vec![me.clone(), other],
        vec![me.clone(), me],
        vec![uri("spiffe://td/ns/shop/sa/cart/extra")],
        vec![uri("https://td/ns/shop/sa/cart")],
        vec![uri("spiffe://td")],
    ] {
        let leaf = ca.leaf_unchecked(&cart(&ca), |params| params.subject_alt_names = names.clone());
        let (caller, called) = both_ways(&ca, &leaf).await;
        assert!(matches!(caller, PeerCertificate::NoIdentity(_)), "{names:?}: {caller}");
        assert_eq!(caller, called, "{names:?}");
    }
}

#[tokio::test]
async fn a_dns_name_beside_the_identity_does_no_harm() {
    let ca = TestCa::new("td");
    let names = vec![SanType::DnsName("cart.shop.svc".try_into().unwrap()), uri(&cart(&ca).to_string())];
    let leaf = ca.leaf_with(&cart(&ca), |params| params.subject_alt_names = names);
    let server = WorkloadTls::new(&leaf, &ca.bundle()).unwrap();
    let (accepted, connected) = join(&server, &ca.workload(&cart(&ca)), &cart(&ca)).await;
    assert_eq!(accepted.unwrap().peer, cart(&ca));
    connected.unwrap();
}

#[tokio::test]
async fn a_leaf_for_another_use_is_refused() {
    let ca = TestCa::new("td");
    let name = uri(&cart(&ca).to_string());
    let leaf = |change: fn(&mut rcgen::CertificateParams)| {
        ca.leaf_unchecked(&cart(&ca), |params| {
            params.subject_alt_names = vec![name.clone()];
            change(params);
        })
    };
    for (what, leaf) in [
        ("a CA", leaf(|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained))),
        ("signs certificates", leaf(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign))),
        ("no key usage", leaf(|params| params.key_usages.clear())),
        (
            "e-mail only",
            leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]),
        ),
    ] {
        let (caller, called) = both_ways(&ca, &leaf).await;
        assert!(matches!(caller, PeerCertificate::Usage(_)), "{what}: {caller:?}");
        assert!(matches!(called, PeerCertificate::Usage(_)), "{what}: {called:?}");
    }
    let server_only = leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let client = WorkloadTls::new(&server_only, &ca.bundle()).unwrap();
    let (accepted, _) = join(&ca.workload(&cart(&ca)), &client, &cart(&ca)).await;
    assert!(matches!(certificate_error(accepted.unwrap_err()), PeerCertificate::Usage(_)));
}

#[test]
fn a_leaf_of_another_trust_domain_than_the_bundle_is_not_put_to_use() {
    let (ca, other) = (TestCa::new("td"), TestCa::new("other"));
    assert!(matches!(WorkloadTls::new(&ca.leaf(&cart(&ca)), &other.bundle()), Err(TlsError::Unusable(_))));
}

#[tokio::test]
async fn bytes_that_are_no_tls_are_named_so() {
    let ca = TestCa::new("td");
    let tls = ca.workload(&cart(&ca));
    for bytes in [
        b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0; 64],
        &[0xff; 64],
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00",
    ] {
        let (mut near, far) = duplex(64 * 1024);
        near.write_all(bytes).await.unwrap();
        let error = tls.accept(far).await.unwrap_err();
        assert!(matches!(error, TlsError::NotTls(_)), "{bytes:?}: {error:?}");
    }
    for bytes in [b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), b"SSH-2.0-OpenSSH_9.2\r\n", &[0xff; 64]] {
        let (near, mut far) = duplex(64 * 1024);
        far.write_all(bytes).await.unwrap();
        let error = tls.connect(near, &cart(&ca), Alpn::Hbone).await.unwrap_err();
        assert!(matches!(error, TlsError::NotTls(_)), "{bytes:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_peer_that_goes_away_in_the_handshake_is_named_so() {
    let ca = TestCa::new("td");
    let tls = ca.workload(&cart(&ca));
    for bytes in [b"".as_slice(), b"\x16\x03\x01\x02\x00\x01"] {
        let (mut near, far) = duplex(1024);
        near.write_all(bytes).await.unwrap();
        drop(near);
        let error = tls.accept(far).await.unwrap_err();
        assert!(matches!(error, TlsError::Closed), "{bytes:?}: {error:?}");
    }
}

/// A client that is not ours: takes any server, says what the test wants.
fn raw_client(
    ca: &TestCa,
    versions: &[&'static SupportedProtocolVersion],
    with_certificate: bool,
    alpn: &[&str],
) -> ClientConfig {
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = if with_certificate {
        let (chain, key) =
            ca.certificate(|params| params.subject_alt_names = vec![uri("spiffe://td/ns/a/sa/b")]);
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        builder.with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(key).into()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

async fn accept_raw(ca: &TestCa, config: ClientConfig) -> (Result<Accepted<DuplexStream>, TlsError>, String) {
    let (near, far) = duplex(64 * 1024);
    let server = ca.workload(&cart(ca));
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("cart").unwrap();
    let (accepted, connected) = tokio::join!(server.accept(far), connector.connect(name, near));
    (accepted, connected.err().map(|error| error.to_string()).unwrap_or_default())
}

#[tokio::test]
async fn a_client_of_tls_1_2_is_refused() {
    let ca = TestCa::new("td");
    let (accepted, _) = accept_raw(&ca, raw_client(&ca, &[&rustls::version::TLS12], true, &["h2"])).await;
    assert!(matches!(accepted, Err(TlsError::Incompatible(_))), "{accepted:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = TestCa::new("td");
    let (accepted, _) = accept_raw(&ca, raw_client(&ca, &[&rustls::version::TLS13], false, &["h2"])).await;
    assert!(matches!(accepted, Err(TlsError::NoCertificate)), "{accepted:?}");
}

#[tokio::test]
async fn a_client_without_one_of_our_protocols_is_refused() {
    let ca = TestCa::new("td");
    for alpn in [[].as_slice(), &["http/1.1"]] {
        let (accepted, _) = accept_raw(&ca, raw_client(&ca, &[&rustls::version::TLS13], true, alpn)).await;
        assert!(matches!(accepted, Err(TlsError::NoAlpn)), "{alpn:?}: {accepted:?}");
    }
    let (accepted, _) =
        accept_raw(&ca, raw_client(&ca, &[&rustls::version::TLS13], true, &["x", "h2"])).await;
    assert_eq!(accepted.unwrap().alpn, Alpn::Hbone);
}

#[tokio::test]
async fn a_server_without_the_asked_protocol_is_refused() {
    let ca = TestCa::new("td");
    for alpn in [[].as_slice(), &["http/1.1"]] {
        let (chain, key) =
            ca.certificate(|params| params.subject_alt_names = vec![uri(&cart(&ca).to_string())]);
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(chain, PrivatePkcs8KeyDer::from(key).into())
                .unwrap();
        config.alpn_protocols = alpn.iter().map(|name: &&str| name.as_bytes().to_vec()).collect();
        let (near, far) = duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (client, expected) = (ca.workload(&cart(&ca)), cart(&ca));
        let (_, connected) = tokio::join!(acceptor.accept(far), client.connect(near, &expected, Alpn::Hbone));
        assert!(matches!(connected, Err(TlsError::NoAlpn)), "{alpn:?}: {connected:?}");
    }
}

#[tokio::test]
async fn nothing_is_offered_to_resume() {
    let ca = TestCa::new("td");
    let config = Arc::new(raw_client(&ca, &[&rustls::version::TLS13], true, &["h2"]));
    for _ in 0..2 {
        let (near, far) = duplex(64 * 1024);
        let server = ca.workload(&cart(&ca));
        let connector = TlsConnector::from(Arc::clone(&config));
        let name = ServerName::try_from("cart").unwrap();
        let (accepted, connected) = tokio::join!(server.accept(far), connector.connect(name, near));
        let (mut server, mut client) = (accepted.unwrap().stream, connected.unwrap());
        server.write_all(b"x").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        let (_, session) = client.get_ref();
        assert_eq!(session.tls13_tickets_received(), 0);
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn a_bundle_is_taken_whole_or_not_at_all() {
    let ca = TestCa::new("td");
    let good = ca.bundle().roots().next().unwrap().to_vec();
    let domain = ca.bundle().trust_domain().clone();
    assert!(TrustBundle::new(domain.clone(), []).is_err());
    let error = TrustBundle::new(domain, [good, b"garbage".to_vec()]).unwrap_err();
    assert!(error.to_string().contains("root number 1"), "{error}");
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
