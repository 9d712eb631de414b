//! TLS of the controller: server authentication by DNS name, against the bootstrapped root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use weft_model::TrustDomain;
use weft_tls::testing::TestCa;
use weft_tls::{ClientTls, PeerCertificate, ServerTls, TlsError, TrustBundle};

const NAME: &str = "weft-controller.weft-system.svc";

async fn join(server: &ServerTls, client: &ClientTls) -> Result<(), TlsError> {
    let (near, far) = duplex(64 * 1024);
    let (accepted, connected) = tokio::join!(server.accept(far), client.connect(near));
    let mut client = connected?;
    let mut server = accepted?;
    client.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    server.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
    Ok(())
}

#[tokio::test]
async fn a_proxy_reaches_the_controller_by_its_name() {
    let (server, client) = TestCa::new("td").controller(NAME);
    join(&server, &client).await.unwrap();
}

#[tokio::test]
async fn roots_are_read_from_a_file() {
    let ca = TestCa::new("td");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("root.crt");
    std::fs::write(&file, ca.root_pem()).unwrap();
    let roots = TrustBundle::from_pem_file(TrustDomain("td".into()), &file).unwrap();
    join(&ca.controller(NAME).0, &ClientTls::new(&roots, NAME).unwrap()).await.unwrap();

    std::fs::write(&file, "no certificate").unwrap();
    let error = TrustBundle::from_pem_file(TrustDomain("td".into()), &file).unwrap_err();
    assert!(error.to_string().contains("at least one root"), "{error}");
    let error = TrustBundle::from_pem_file(TrustDomain("td".into()), &file.join("absent")).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}

#[tokio::test]
async fn another_name_is_refused() {
    let ca = TestCa::new("td");
    let (server, _) = ca.controller("other.weft-system.svc");
    let (_, client) = ca.controller(NAME);
    let error = join(&server, &client).await.unwrap_err();
    assert!(matches!(error, TlsError::Certificate(PeerCertificate::WrongName(_))), "{error:?}");
}

#[tokio::test]
async fn a_foreign_root_is_refused() {
    let (server, _) = TestCa::new("td").controller(NAME);
    let (_, client) = TestCa::new("td").controller(NAME);
    let error = join(&server, &client).await.unwrap_err();
    assert!(matches!(error, TlsError::Certificate(PeerCertificate::Foreign)), "{error:?}");
}

#[tokio::test]
async fn a_workload_certificate_is_no_controllers() {
    let ca = TestCa::new("td");
    let (_, client) = ca.controller(NAME);
    let name = weft_tls::testing::uri("spiffe://td/ns/weft-system/sa/weft-controller");
    let (chain, key) = ca.certificate(|params| params.subject_alt_names = vec![name]);
    let error = join(&ServerTls::new(chain, key).unwrap(), &client).await.unwrap_err();
    assert!(matches!(error, TlsError::Certificate(PeerCertificate::WrongName(_))), "{error:?}");
}

#[tokio::test]
async fn a_replaced_certificate_serves_the_next_connection() {
    let ca = TestCa::new("td");
    let (server, client) = ca.controller(NAME);
    let (chain, key) = ca.serving_certificate("other.weft-system.svc");
    server.replace(chain, key).unwrap();
    assert!(join(&server, &client).await.is_err());
    let (chain, _) = ca.serving_certificate(NAME);
    let (_, other_key) = ca.serving_certificate(NAME);
    assert!(server.replace(chain, other_key).is_err(), "a key that is not the certificate's");
    let (chain, key) = ca.serving_certificate(NAME);
    server.replace(chain, key).unwrap();
    join(&server, &client).await.unwrap();
}
