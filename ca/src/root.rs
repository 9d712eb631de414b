//! The root certificate and its key, wherever they are kept: making and reading them.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use weft_model::TrustDomain;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::authority::random_serial;

/// Why there is no root to sign with.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file system refused.
    #[error("cannot {doing} {path}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Others could read the key or replace it.
    #[error(
        "{path} has mode {mode:04o}: the authority's key must belong to its user alone; `chmod {wanted:04o} {path}`, and make a new root if somebody else may have read it"
    )]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// Not what this program writes.
    #[error(
        "{place} is damaged: {why}; restore it from a copy, or remove it to begin with a new root (every proxy must then be given the new root certificate)"
    )]
    Damaged {
        /// The file or object.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Of another mesh.
    #[error(
        "{place} is the root of {found}, but the trust domain is set to {wanted}; use another place or the same trust domain"
    )]
    TrustDomain {
        /// The file or object.
        place: String,
        /// The root's trust domain.
        found: String,
        /// The configured one.
        wanted: String,
    },
    /// Too old.
    #[error(
        "the root in {place} has expired; remove it to begin with a new root and give every proxy the new root certificate"
    )]
    Expired {
        /// The file or object.
        place: String,
    },
    /// The library refused to make a key or a certificate.
    #[error("cannot make a root: {0}")]
    Make(#[from] rcgen::Error),
}

/// A root that can sign.
pub(crate) struct Root {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate_der: Vec<u8>,
    pub(crate) not_after: SystemTime,
}

/// A root that was made, to be kept somewhere.
pub struct NewRoot {
    /// The key, PKCS #8, PEM.
    pub key_pem: String,
    /// The certificate, PEM.
    pub certificate_pem: String,
}

impl NewRoot {
    /// Makes a root for a trust domain.
    ///
    /// # Errors
    /// The library refuses.
    pub fn make(trust_domain: &TrustDomain, lifetime: Duration, now: SystemTime) -> Result<Self, RootError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Weft root of {trust_domain}"));
        // SPIFFE X509-SVID §3.2: a signing certificate names its trust domain.
        params.subject_alt_names = vec![SanType::URI(spiffe(trust_domain).as_str().try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial());
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + lifetime).into();
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { key_pem: key.serialize_pem(), certificate_pem })
    }
}

impl std::fmt::Debug for NewRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewRoot").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Reads a root: key and certificate as PEM, in any order. `place` is where they come from, for errors.
pub(crate) fn read(
    pem: &[u8],
    place: &str,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Root, RootError> {
    let place = place.to_owned();
    let damaged = |why: String| RootError::Damaged { place: place.clone(), why };
    let (key_der, certificate_der) = blocks(pem).map_err(damaged)?;
    let key = KeyPair::try_from(key_der).map_err(|error| damaged(format!("its key: {error}")))?;
    let (found, not_after) = check_certificate(&certificate_der, &key).map_err(damaged)?;
    let wanted = spiffe(trust_domain);
    if found != wanted {
        return Err(RootError::TrustDomain { place, found, wanted });
    }
    if not_after <= now {
        return Err(RootError::Expired { place });
    }
    let issuer = Issuer::from_ca_cert_der(&certificate_der.as_slice().into(), key)?;
    Ok(Root { issuer, certificate_der, not_after })
}

/// The key (PKCS #8) and the certificate in a PEM text.
fn blocks(text: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (mut key, mut certificate) = (None, None);
    for block in Pem::iter_from_buffer(text) {
        let block = block.map_err(|error| error.to_string())?;
        match block.label.as_str() {
            "PRIVATE KEY" => key = Some(block.contents),
            "CERTIFICATE" => certificate = Some(block.contents),
            other => return Err(format!("unexpected block {other}")),
        }
    }
    let key = key.ok_or("it holds no PRIVATE KEY block")?;
    Ok((key, certificate.ok_or("it holds no CERTIFICATE block")?))
}

/// Checks that a certificate is a root of this key; its trust domain as a URI, and its end.
fn check_certificate(der: &[u8], key: &KeyPair) -> Result<(String, SystemTime), String> {
    use rcgen::PublicKeyData;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("its certificate is not of its key".into());
    }
    certificate.verify_signature(None).map_err(|error| format!("its certificate's signature: {error}"))?;
    if !certificate.is_ca() {
        return Err("its certificate is not an authority's".into());
    }
    let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let uri = uri.ok_or("its certificate names no trust domain")?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    Ok((uri, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)))
}

fn spiffe(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}

/// A certificate as PEM (RFC 7468).
pub(crate) fn certificate_pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
