//! TLS with those who are in no mesh, towards either side: certificates, keys and roots come from users, as PEM. TLS 1.2
//! is spoken too.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::TlsError;
use crate::provider::provider;

/// TLS versions spoken with them.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A certificate chain (leaf first) and its key.
#[derive(Clone, Copy, Debug)]
pub struct KeyPem<'a> {
    /// The chain.
    pub chain: &'a str,
    /// The key: PKCS #8, SEC 1 or PKCS #1.
    pub key: &'a str,
}

/// Where the roots of the machine or image are, as distributions place them.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads a certificate with its key, and checks that they belong together.
pub(crate) fn certified(pem: KeyPem<'_>) -> Result<Arc<CertifiedKey>, TlsError> {
    let unusable = |why: &dyn std::fmt::Display| TlsError::Unusable(why.to_string());
    let chain = CertificateDer::pem_slice_iter(pem.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unusable(&format!("the certificate is no PEM: {error}")))?;
    if chain.is_empty() {
        return Err(unusable(&"the certificate holds no CERTIFICATE block"));
    }
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
        .map_err(|error| unusable(&format!("the key is no PEM of a private key: {error}")))?;
    let key = provider().key_provider.load_private_key(key).map_err(|error| unusable(&error))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A kind of certificate that cannot be compared is left to the other side to judge.
        Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(error) => Err(unusable(&error)),
    }
}

/// Reads roots, each text one or more certificates; those that are no roots are left out, but one must be left.
pub(crate) fn roots<'a>(pems: impl IntoIterator<Item = &'a str>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for pem in pems {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
        store.add_parsable_certificates(certificates);
    }
    if store.is_empty() {
        return Err(TlsError::Unusable("no root certificate can be used: nobody can be verified".to_owned()));
    }
    Ok(store)
}

/// The roots of the machine or image.
pub(crate) fn system_roots() -> Result<RootCertStore, TlsError> {
    let read = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read_to_string(path).ok());
    let text = read.ok_or_else(|| {
        TlsError::Unusable(format!("there are no system roots: none of {}", SYSTEM_ROOTS.join(", ")))
    })?;
    roots([text.as_str()])
}

pub(crate) fn signature12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
}

pub(crate) fn signature13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
}
