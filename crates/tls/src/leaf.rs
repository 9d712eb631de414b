//! A workload's key and certificate: asked for by [`KeyRequest`], held as [`Leaf`]. Keys live in memory only.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use weft_model::Identity;

use crate::certificate::Svid;
use crate::provider::provider;
use crate::{PeerCertificate, TlsError};

/// A fresh P-256 key and the request to certify it for one identity.
pub struct KeyRequest {
    identity: Identity,
    key: KeyPair,
    csr: Vec<u8>,
}

/// A workload's certificate with its key. Cheap to clone.
#[derive(Clone)]
pub struct Leaf {
    /// Whose certificate it is.
    pub identity: Identity,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// The serial number, hexadecimal with colons.
    pub serial: String,
    pub(crate) key: Arc<CertifiedKey>,
}

/// A certificate that was not issued as asked.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// No key or request could be made.
    #[error("cannot make a key: {0}")]
    Key(String),
    /// The authority answered without a certificate.
    #[error("the authority answered with an empty chain")]
    Empty,
    /// The certificate itself is not what a leaf must be.
    #[error("the authority's certificate cannot be used: {0}")]
    Certificate(#[from] PeerCertificate),
    /// A certificate for somebody else.
    #[error("asked for {asked}, the authority certified {found}")]
    WrongIdentity {
        /// The identity asked for.
        asked: Identity,
        /// The identity in the certificate.
        found: Identity,
    },
    /// A certificate of another key.
    #[error("the authority certified another key than ours: {0}")]
    WrongKey(String),
}

impl KeyRequest {
    /// Makes a fresh key, and a request with an empty subject and the identity as its only name.
    ///
    /// # Errors
    /// The system gave no randomness.
    pub fn new(identity: &Identity) -> Result<Self, LeafError> {
        let failed = |error: rcgen::Error| LeafError::Key(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let uri = identity.to_string().as_str().try_into().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri)];
        let csr = params.serialize_request(&key).map_err(failed)?.der().to_vec();
        Ok(Self { identity: identity.clone(), key, csr })
    }

    /// The request (PKCS #10, DER).
    pub fn csr_der(&self) -> &[u8] {
        &self.csr
    }

    /// Joins the key with the authority's answer: leaf first, then intermediates, DER.
    ///
    /// # Errors
    /// The leaf is not for exactly the identity asked for, not for this key, or no SPIFFE leaf.
    pub fn into_leaf(self, chain_der: Vec<Vec<u8>>) -> Result<Leaf, LeafError> {
        let svid = Svid::read(chain_der.first().ok_or(LeafError::Empty)?)?;
        if svid.identity != self.identity {
            return Err(LeafError::WrongIdentity { asked: self.identity, found: svid.identity });
        }
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = certified_key(chain_der, key).map_err(|error| LeafError::WrongKey(error.to_string()))?;
        let Svid { identity, not_before, not_after, serial } = svid;
        Ok(Leaf { identity, not_before, not_after, serial, key })
    }
}

impl Leaf {
    /// Whether the certificate is valid at `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// The certificate and its intermediates, leaf first, DER.
    pub fn chain_der(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.key.cert.iter().map(AsRef::as_ref)
    }
}

/// Loads a key and checks that the chain's first certificate belongs to it.
pub(crate) fn certified_key(
    chain_der: Vec<Vec<u8>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
    let chain = chain_der.into_iter().map(CertificateDer::from).collect();
    let key = provider().key_provider.load_private_key(key).map_err(unusable)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(unusable)?;
    Ok(Arc::new(certified))
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("identity", &self.identity)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").field("identity", &self.identity).finish_non_exhaustive()
    }
}
