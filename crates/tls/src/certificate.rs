//! What Weft reads out of an X.509 certificate.

use std::time::{Duration, SystemTime};

use weft_model::Identity;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::PeerCertificate;

/// Facts of a SPIFFE leaf certificate (X509-SVID).
#[derive(Debug)]
pub(crate) struct Svid {
    pub(crate) identity: Identity,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
}

impl Svid {
    /// Reads a leaf: exactly one URI SAN, which is an identity (X509-SVID §2), and key usages that fit a leaf (§4.3).
    pub(crate) fn read(der: &[u8]) -> Result<Self, PeerCertificate> {
        let malformed = |why: &dyn std::fmt::Display| PeerCertificate::Malformed(why.to_string());
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| malformed(&e))?;
        if !rest.is_empty() {
            return Err(malformed(&"bytes after the certificate"));
        }
        let usage = certificate.key_usage().map_err(|e| malformed(&e))?;
        let usage = usage.ok_or_else(|| PeerCertificate::Usage("it has no key usage".into()))?.value;
        if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
            return Err(PeerCertificate::Usage(format!("key usage {usage}, a leaf's is Digital Signature")));
        }
        Ok(Self {
            identity: identity(&certificate)?,
            not_before: system_time(certificate.validity().not_before.timestamp()),
            not_after: system_time(certificate.validity().not_after.timestamp()),
            serial: certificate.raw_serial_as_string(),
        })
    }
}

fn identity(certificate: &X509Certificate<'_>) -> Result<Identity, PeerCertificate> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| PeerCertificate::Malformed(error.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let Some(uri) = uris.next() else {
        return Err(PeerCertificate::NoIdentity("it has no URI name".into()));
    };
    let others = uris.count();
    if others > 0 {
        return Err(PeerCertificate::NoIdentity(format!("it has {} URI names", others + 1)));
    }
    uri.parse()
        .map_err(|error: weft_model::identity::NotAnIdentity| PeerCertificate::NoIdentity(error.to_string()))
}

fn system_time(seconds: i64) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}
