//! A trust domain and the roots that sign for it.

use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use weft_model::TrustDomain;

/// A trust domain and the roots that sign for it. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// A trust bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No root at all.
    #[error("the trust bundle holds no certificate: at least one root is needed")]
    Empty,
    /// A root that does not decode.
    #[error("root number {0} of the trust bundle is no X.509 certificate: {1}")]
    BadRoot(usize, String),
    /// The file cannot be read.
    #[error("cannot read the roots from {0}: {1}; give a PEM file with one or more CERTIFICATE blocks")]
    File(String, String),
}

impl TrustBundle {
    /// A bundle of DER-encoded root certificates.
    ///
    /// # Errors
    /// No root, or one that does not decode: a bundle is taken whole or not at all.
    pub fn new(
        trust_domain: TrustDomain,
        roots_der: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Self, BundleError> {
        let roots: Vec<_> = roots_der.into_iter().map(CertificateDer::from).collect();
        let mut anchors = Vec::with_capacity(roots.len());
        for (index, root) in roots.iter().enumerate() {
            let anchor = webpki::anchor_from_trusted_cert(root)
                .map_err(|error| BundleError::BadRoot(index, error.to_string()))?;
            anchors.push(anchor.to_owned());
        }
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(Self { trust_domain, roots, anchors })
    }

    /// A bundle from a PEM file.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], or the file cannot be read or is no PEM.
    pub fn from_pem_file(trust_domain: TrustDomain, path: &Path) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| BundleError::File(path.display().to_string(), error.to_string()))?;
        Self::new(trust_domain, roots.into_iter().map(|root| root.to_vec()))
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots, DER-encoded.
    pub fn roots(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.roots.iter().map(AsRef::as_ref)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}
