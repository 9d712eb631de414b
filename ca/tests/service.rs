//! The certificate service over real TLS and gRPC, as a proxy calls it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use support::{Pods, ask, with_proof};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};
use weft_api::proto::WatchTrustBundleRequest;
use weft_api::proto::certificates_client::CertificatesClient;
use weft_ca::{Authority, CertificatesService, NodeSecretAuthenticator, Rate, Settings};
use weft_model::{Identity, TrustDomain};
use weft_tls::testing::TestCa;

const GOOD: &str = "Bearer node-1:right";

struct Fixture {
    directory: TempDir,
    authority: Arc<Authority>,
    client: CertificatesClient<Channel>,
}

fn cart() -> Identity {
    "spiffe://td/ns/shop/sa/cart".parse().unwrap()
}

async fn fixture(rate: Rate) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::new(TrustDomain("td".into()));
    let authority =
        Arc::new(Authority::open(&directory.path().join("ca"), settings, SystemTime::now()).unwrap());
    let secrets = directory.path().join("secrets");
    fs::write(
        &secrets,
        "# nodes\nnode-1=right\nnode-2=other\ngateway/shop/front=gate\nserviceaccount/shop/cart=own\n",
    )
    .unwrap();
    let pods = Pods::of([(cart(), "node-1")]);
    let authenticator = Arc::new(NodeSecretAuthenticator::new(&secrets, TrustDomain("td".into())));
    let service = CertificatesService::server(Arc::clone(&authority), authenticator, Arc::new(pods), rate);
    let client = support::serve(&authority, service).await;
    Fixture { directory, authority, client }
}
impl Fixture {
    /// Asks for a certificate of `asked`, with a request made for `named`.
    async fn ask(
        &mut self,
        proof: Option<&'static str>,
        asked: &str,
        named: &Identity,
    ) -> Result<(), Status> {
        ask(&self.authority, &mut self.client, proof, asked, named).await
    }

    async fn refused(&mut self, proof: Option<&'static str>, asked: &str) -> (Code, String) {
        let named = asked.parse().unwrap_or_else(|_| cart());
        let status = self.ask(proof, asked, &named).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }
}

#[tokio::test]
async fn a_node_gets_certificates_for_its_own_live_pods_only() {
    let mut fixture = fixture(Rate::default()).await;
    let own = cart().to_string();
    fixture.ask(Some(GOOD), &own, &cart()).await.unwrap();
    let (code, why) = fixture.refused(Some("Bearer node-2:other"), &own).await;
    assert_eq!(code, Code::PermissionDenied);
    assert_eq!(why, "no live pod with the identity spiffe://td/ns/shop/sa/cart is bound to node node-2");
    let (code, _) = fixture.refused(Some(GOOD), "spiffe://td/ns/shop/sa/other").await;
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn without_a_valid_proof_nothing_is_answered() {
    let mut fixture = fixture(Rate::default()).await;
    let own = cart().to_string();
    for proof in [
        None,
        Some("Bearer node-1:wrong"),
        Some("Bearer node-1:righ"),
        Some("Bearer node-1:right2"),
        Some("Bearer node-1:"),
        Some("Bearer node-3:right"),
        Some("Bearer right"),
        Some("Basic node-1:right"),
    ] {
        assert_eq!(fixture.refused(proof, &own).await.0, Code::Unauthenticated, "{proof:?}");
        let watch = fixture.client.watch_trust_bundle(with_proof(WatchTrustBundleRequest {}, proof)).await;
        assert_eq!(watch.unwrap_err().code(), Code::Unauthenticated, "{proof:?}");
    }
}

#[tokio::test]
async fn a_gateways_proxy_gets_its_own_certificate_and_no_other() {
    let mut fixture = fixture(Rate::default()).await;
    let own: Identity = "spiffe://td/ns/shop/sa/front-weft".parse().unwrap();
    let proof = Some("Bearer gateway/shop/front:gate");
    fixture.ask(proof, &own.to_string(), &own).await.unwrap();
    let (code, why) = fixture.refused(proof, &cart().to_string()).await;
    assert_eq!(code, Code::PermissionDenied);
    assert!(why.contains("their own identity only"), "{why}");
    let (code, _) = fixture.refused(Some("Bearer gateway/shop/front:other"), &own.to_string()).await;
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test]
async fn a_service_accounts_pods_get_their_own_certificate_and_no_other() {
    let mut fixture = fixture(Rate::default()).await;
    let proof = Some("Bearer serviceaccount/shop/cart:own");
    fixture.ask(proof, &cart().to_string(), &cart()).await.unwrap();
    let (code, _) = fixture.refused(proof, "spiffe://td/ns/shop/sa/other").await;
    assert_eq!(code, Code::PermissionDenied);
    let (code, _) = fixture.refused(Some("Bearer serviceaccount/shop/cart:right"), &cart().to_string()).await;
    assert_eq!(code, Code::Unauthenticated);
}

#[tokio::test]
async fn secrets_are_read_again_when_they_change_and_a_damaged_file_proves_nobody() {
    let mut fixture = fixture(Rate::default()).await;
    let own = cart().to_string();
    fixture.ask(Some(GOOD), &own, &cart()).await.unwrap();
    let secrets = fixture.directory.path().join("secrets");
    fs::write(&secrets, "node-1=another\n").unwrap();
    assert_eq!(fixture.refused(Some(GOOD), &own).await.0, Code::Unauthenticated);
    fixture.ask(Some("Bearer node-1:another"), &own, &cart()).await.unwrap();
    fs::write(&secrets, "node-1=another\nno equals sign\n").unwrap();
    let (code, why) = fixture.refused(Some("Bearer node-1:another"), &own).await;
    assert_eq!(code, Code::Unavailable);
    assert!(why.contains("line 2"), "{why}");
    fs::remove_file(&secrets).unwrap();
    assert_eq!(fixture.refused(Some("Bearer node-1:another"), &own).await.0, Code::Unavailable);
    fs::write(&secrets, "node-1=right\n").unwrap();
    fixture.ask(Some(GOOD), &own, &cart()).await.unwrap();
}

#[tokio::test]
async fn foreign_trust_domains_and_requests_that_do_not_fit_are_refused() {
    let mut fixture = fixture(Rate::default()).await;
    let (code, why) = fixture.refused(Some(GOOD), "spiffe://other/ns/shop/sa/cart").await;
    assert_eq!(code, Code::PermissionDenied);
    assert!(why.contains("trust domain td"), "{why}");
    assert_eq!(fixture.refused(Some(GOOD), "spiffe://td/ns/shop").await.0, Code::InvalidArgument);
    let other = "spiffe://td/ns/shop/sa/admin".parse().unwrap();
    let status = fixture.ask(Some(GOOD), &cart().to_string(), &other).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("must name spiffe://td/ns/shop/sa/cart"), "{status}");
}

#[tokio::test]
async fn a_node_that_asks_too_fast_is_told_to_wait() {
    let mut fixture = fixture(Rate { burst: 2, per_second: 0 }).await;
    let own = cart().to_string();
    for _ in 0..2 {
        fixture.ask(Some(GOOD), &own, &cart()).await.unwrap();
    }
    assert_eq!(fixture.refused(Some(GOOD), &own).await.0, Code::ResourceExhausted);
    let (code, _) = fixture.refused(Some("Bearer node-2:other"), &own).await;
    assert_eq!(code, Code::PermissionDenied, "another node is not held back");
}

#[tokio::test]
async fn the_trust_bundle_comes_at_once_and_again_when_it_changes() {
    let mut fixture = fixture(Rate::default()).await;
    let watch = fixture.client.watch_trust_bundle(with_proof(WatchTrustBundleRequest {}, Some(GOOD))).await;
    let mut watch = watch.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!((first.trust_domain.as_str(), first.roots_der.len()), ("td", 1));
    let other = TestCa::new("td").bundle().roots().next().unwrap().to_vec();
    fixture.authority.trust_also(vec![other.clone()]).unwrap();
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(second.roots_der, [first.roots_der[0].clone(), other]);
}
