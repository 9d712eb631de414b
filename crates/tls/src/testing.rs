//! An authority in memory, for tests of everything that needs certificates (feature `testing`).
#![allow(clippy::expect_used)]

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_model::{Identity, TrustDomain};

use crate::leaf::certified_key;
use crate::{ClientTls, KeyRequest, Leaf, ServerTls, TrustBundle, WorkloadTls};

/// A root of its own, with a trust domain.
pub struct TestCa {
    trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    /// A new root for a trust domain, for example `cluster.local`.
    pub fn new(trust_domain: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Test root of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        Self { trust_domain: TrustDomain(trust_domain.into()), issuer }
    }

    /// Its trust bundle.
    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(self.trust_domain.clone(), [self.issuer.der().to_vec()]).expect("a bundle")
    }

    /// An identity in its trust domain.
    pub fn identity(&self, namespace: &str, service_account: &str) -> Identity {
        Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    /// A leaf, valid for an hour.
    pub fn leaf(&self, identity: &Identity) -> Leaf {
        let now = SystemTime::now();
        self.leaf_valid(identity, now - Duration::from_secs(60), now + Duration::from_secs(3600))
    }

    /// A leaf with a validity of choice, also one that has ended.
    pub fn leaf_valid(&self, identity: &Identity, not_before: SystemTime, not_after: SystemTime) -> Leaf {
        let uri = uri(&identity.to_string());
        self.leaf_with(identity, |params| {
            params.not_before = not_before.into();
            params.not_after = not_after.into();
            params.subject_alt_names = vec![uri];
        })
    }

    /// A leaf whose certificate the test shapes; it must still hold `identity` as its only URI name.
    pub fn leaf_with(&self, identity: &Identity, shape: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let request = KeyRequest::new(identity).expect("a request");
        let chain = self.sign(request.csr_der(), shape);
        request.into_leaf(chain).expect("a leaf")
    }

    /// A leaf that *claims* `identity` here and holds whatever the test puts into the certificate: for hostile peers.
    pub fn leaf_unchecked(&self, identity: &Identity, shape: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let (chain, key) = self.certificate(shape);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let key = certified_key(chain, key).expect("a certificate of its key");
        let now = SystemTime::now();
        Leaf {
            identity: identity.clone(),
            not_before: now,
            not_after: now + Duration::from_secs(3600),
            serial: "00".into(),
            key,
        }
    }

    /// A fresh key with a certificate of the test's shape, as (chain, PKCS #8 key), DER. Without a shape it has no
    /// names, and both extended key usages.
    pub fn certificate(&self, shape: impl FnOnce(&mut CertificateParams)) -> (Vec<Vec<u8>>, Vec<u8>) {
        let key = KeyPair::generate().expect("a key");
        let certificate = leaf_params(shape).signed_by(&key, &self.issuer).expect("a certificate");
        (vec![certificate.der().to_vec()], key.serialize_der())
    }

    /// The root as PEM.
    pub fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a request's key with whatever the test puts into the certificate.
    pub fn sign(&self, csr_der: &[u8], shape: impl FnOnce(&mut CertificateParams)) -> Vec<Vec<u8>> {
        use x509_parser::prelude::{FromDer, X509CertificationRequest};
        let (_, csr) = X509CertificationRequest::from_der(csr_der).expect("a request");
        let key =
            SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw).expect("a key");
        let params = leaf_params(shape);
        vec![params.signed_by(&key, &self.issuer).expect("a certificate").der().to_vec()]
    }

    /// Mutual TLS for one identity.
    pub fn workload(&self, identity: &Identity) -> WorkloadTls {
        WorkloadTls::new(&self.leaf(identity), &self.bundle()).expect("mutual TLS")
    }

    /// A controller's side for a DNS name, and a client that trusts it.
    pub fn controller(&self, dns_name: &str) -> (ServerTls, ClientTls) {
        let (chain, key) = self.serving_certificate(dns_name);
        let client = ClientTls::new(&self.bundle(), dns_name).expect("a client");
        (ServerTls::new(chain, key).expect("a server"), client)
    }

    /// A certificate for these DNS names, as (chain, key), PEM.
    pub fn pem(&self, dns_names: &[&str]) -> (String, String) {
        let name = |name: &&str| SanType::DnsName((*name).try_into().expect("an ASCII name"));
        self.pem_with(dns_names.iter().map(name).collect())
    }

    /// A certificate for these names, as (chain, key), PEM.
    pub fn pem_with(&self, names: Vec<SanType>) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = leaf_params(|params| params.subject_alt_names = names);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A certificate for a DNS name, as (chain, PKCS #8 key), DER.
    pub fn serving_certificate(&self, dns_name: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
        let name = SanType::DnsName(dns_name.try_into().expect("an ASCII name"));
        self.certificate(|params| params.subject_alt_names = vec![name])
    }
}

/// A URI name.
pub fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("an ASCII URI"))
}

fn leaf_params(shape: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    shape(&mut params);
    params
}
