//! TLS at listeners and towards backends, with one another over an in-memory connection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use weft_model::gateway::SubjectAltName;
use weft_tls::testing::{TestCa, uri};
use weft_tls::{BackendTls, Carries, Clients, FrontendTls, KeyPem, Offer, Roots, TlsError, TlsStream};

type Pair = (Result<TlsStream<DuplexStream>, TlsError>, Result<TlsStream<DuplexStream>, TlsError>);

async fn meet(server: &FrontendTls, client: &BackendTls, carries: Carries) -> Pair {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(server.accept(near), client.connect(far, carries))
}

fn frontend(pems: &[(String, String)], clients: Clients<'_>, offer: Offer) -> FrontendTls {
    let keys: Vec<_> = pems.iter().map(|(chain, key)| KeyPem { chain, key }).collect();
    FrontendTls::new(&keys, clients, offer).unwrap()
}

fn backend(ca: &TestCa, hostname: &str, names: &[SubjectAltName]) -> BackendTls {
    BackendTls::new(hostname, names, Roots::Pem(&[&ca.root_pem()]), None).unwrap()
}

/// Whether the client reads what the server writes: only then has the server taken the client's certificate.
async fn works((server, client): Pair) -> bool {
    let (Ok(mut server), Ok(mut client)) = (server, client) else { return false };
    let mut hello = [0; 5];
    let said = async {
        server.write_all(b"hello").await?;
        server.flush().await
    };
    let (said, heard) = tokio::join!(said, client.read_exact(&mut hello));
    said.is_ok() && heard.is_ok() && hello == *b"hello"
}

#[tokio::test]
async fn the_certificate_that_covers_the_server_name_is_shown_else_the_first() {
    let (first, second) = (TestCa::new("first"), TestCa::new("second"));
    let pems = [first.pem(&["a.example"]), second.pem(&["b.example", "*.b.example"])];
    let server = frontend(&pems, Clients::Anybody, Offer::Http);
    for (ca, name, shown) in [
        (&first, "a.example", true),
        (&second, "b.example", true),
        (&second, "x.b.example", true),
        (&second, "a.example", false),
        (&first, "c.example", false),
    ] {
        let met = meet(&server, &backend(ca, name, &[]), Carries::Http1).await;
        assert_eq!(works(met).await, shown, "{name}");
    }
}

#[tokio::test]
async fn http2_is_agreed_to_by_alpn_or_not_at_all() {
    let ca = TestCa::new("test");
    let client = backend(&ca, "a.example", &[]);
    let http = frontend(&[ca.pem(&["a.example"])], Clients::Anybody, Offer::Http);
    let bytes = frontend(&[ca.pem(&["a.example"])], Clients::Anybody, Offer::Bytes);
    for carries in [Carries::Http1, Carries::Http2, Carries::Bytes] {
        assert!(works(meet(&http, &client, carries).await).await, "{carries:?}");
    }
    assert!(matches!(meet(&bytes, &client, Carries::Http2).await.1, Err(TlsError::NoAlpn)));
    assert!(works(meet(&bytes, &client, Carries::Http1).await).await);
}

#[tokio::test]
async fn a_backend_must_bear_the_hostname_or_one_of_the_names_given() {
    let ca = TestCa::new("test");
    let dns = |name: &str| rcgen::SanType::DnsName(name.try_into().unwrap());
    let pem = ca.pem_with(vec![dns("a.example"), dns("*.w.example"), uri("spiffe://x/y")]);
    let server = frontend(&[pem], Clients::Anybody, Offer::Http);
    let host = |name: &str| SubjectAltName::Hostname(name.into());
    let san = |uri: &str| SubjectAltName::Uri(uri.into());
    let table: [(&str, Vec<SubjectAltName>, bool); 9] = [
        ("a.example", vec![], true),
        ("other.example", vec![], false),
        // The hostname is only sent then.
        ("other.example", vec![host("a.example")], true),
        ("a.example", vec![host("other.example")], false),
        ("other.example", vec![host("x"), host("one.w.example")], true),
        ("other.example", vec![host("one.two.w.example")], false),
        ("other.example", vec![host("*.w.example")], true),
        ("other.example", vec![san("spiffe://x/y")], true),
        ("a.example", vec![san("spiffe://x/z")], false),
    ];
    for (hostname, names, accepted) in table {
        let met = meet(&server, &backend(&ca, hostname, &names), Carries::Http1).await;
        assert_eq!(works(met).await, accepted, "{hostname} {names:?}");
    }
    let foreign = backend(&TestCa::new("test"), "a.example", &[]);
    assert!(!works(meet(&server, &foreign, Carries::Http1).await).await);
}

#[tokio::test]
async fn clients_are_verified_or_only_asked() {
    let (ca, clients, strangers) = (TestCa::new("a"), TestCa::new("b"), TestCa::new("c"));
    let pem = [ca.pem(&["a.example"])];
    let root = clients.root_pem();
    let strict = frontend(&pem, Clients::Verified(&[&root]), Offer::Http);
    let lax = frontend(&pem, Clients::Asked, Offer::Http);
    let with = |client: Option<&(String, String)>| {
        let client = client.map(|(chain, key)| KeyPem { chain, key });
        BackendTls::new("a.example", &[], Roots::Pem(&[&ca.root_pem()]), client).unwrap()
    };
    let (known, stranger) = (clients.pem(&["me"]), strangers.pem(&["me"]));
    for (client, taken) in [(Some(&known), true), (Some(&stranger), false), (None, false)] {
        let client = with(client);
        assert_eq!(works(meet(&strict, &client, Carries::Http1).await).await, taken);
        assert!(works(meet(&lax, &client, Carries::Http1).await).await);
    }
}

#[test]
fn what_cannot_be_used_is_an_error_that_says_so() {
    let ca = TestCa::new("test");
    let ((chain, key), (_, other)) = (ca.pem(&["a"]), ca.pem(&["a"]));
    let error =
        |pem: &[KeyPem<'_>], clients| FrontendTls::new(pem, clients, Offer::Http).unwrap_err().to_string();
    assert!(error(&[], Clients::Anybody).contains("no certificate"));
    assert!(error(&[KeyPem { chain: &chain, key: "" }], Clients::Anybody).contains("key"));
    assert!(error(&[KeyPem { chain: "x", key: &key }], Clients::Anybody).contains("CERTIFICATE"));
    error(&[KeyPem { chain: &chain, key: &other }], Clients::Anybody);
    let good = [KeyPem { chain: &chain, key: &key }];
    assert!(error(&good, Clients::Verified(&[])).contains("nobody can be verified"));
    assert!(BackendTls::new("a.example", &[], Roots::Pem(&["no PEM"]), None).is_err());
    assert!(BackendTls::new("not a name", &[], Roots::Pem(&[&ca.root_pem()]), None).is_err());
}
