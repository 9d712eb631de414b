//! Checking a certificate request (PKCS #10): its signature, its key, and the one name it asks for.

use rcgen::SubjectPublicKeyInfo;
use weft_model::Identity;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::{FromDer, GeneralName};

/// Why a certificate request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not PKCS #10.
    #[error("it is no PKCS #10 request in DER: {0}")]
    Malformed(String),
    /// Not signed by the key it holds: the sender may not have that key.
    #[error("its signature is not by the key it holds")]
    Signature,
    /// Another kind of key.
    #[error("its key is not on the curve P-256")]
    Key,
    /// Other names than the identity.
    #[error("it must name {wanted} and nothing else, it names {found}")]
    Names {
        /// What it may name.
        wanted: String,
        /// What it names.
        found: String,
    },
}

/// Checks a request; its key.
pub(crate) fn check(der: &[u8], identity: &Identity) -> Result<SubjectPublicKeyInfo, RequestError> {
    let malformed = |error: &dyn std::fmt::Display| RequestError::Malformed(error.to_string());
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|error| malformed(&error))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes after its end"));
    }
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
        return Err(RequestError::Key);
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(value) = extension {
            names.extend(value.general_names.iter());
        }
    }
    let wanted = identity.to_string();
    match names.as_slice() {
        [GeneralName::URI(uri)] if *uri == wanted => {}
        other => return Err(RequestError::Names { wanted, found: format!("{other:?}") }),
    }
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| RequestError::Key)
}
