//! Certificates, keys and roots as users give them, in PEM: whether they can be used, before anything is told to use
//! them.

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::provider::provider;

/// Why a text in PEM cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It holds no certificate, or something that is none.
    #[error("there is no certificate in it that can be read")]
    NoCertificate,
    /// It holds no key that can be used.
    #[error("there is no private key in it that can be used")]
    NoKey,
    /// Certificate and key are not of one pair.
    #[error("the key does not belong to the certificate")]
    Mismatch,
}

/// Whether a chain (leaf first) and a key, both PEM, are a pair that a server or client can show.
///
/// # Errors
/// See [`PemError`].
pub fn check_pair(chain_pem: &str, key_pem: &str) -> Result<(), PemError> {
    let chain = certificates(chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| PemError::NoKey)?;
    provider().key_provider.load_private_key(key.clone_key()).map_err(|_| PemError::NoKey)?;
    CertifiedKey::from_der(chain, key, provider()).map(drop).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => PemError::Mismatch,
        _ => PemError::NoCertificate,
    })
}

/// Whether every certificate of a text in PEM, and there is one, can be held as a root.
///
/// # Errors
/// [`PemError::NoCertificate`].
pub fn check_roots(pem: &str) -> Result<(), PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|_| PemError::NoCertificate)?;
    }
    Ok(())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    read.ok().filter(|read| !read.is_empty()).ok_or(PemError::NoCertificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["shop.test".to_owned()]).unwrap();
        (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn pair_that_belongs_together_is_taken_and_any_other_is_not() {
        let ((chain, key), (other, _)) = (pair(), pair());
        assert_eq!(check_pair(&chain, &key), Ok(()));
        assert_eq!(check_pair(&other, &key), Err(PemError::Mismatch));
        assert_eq!(check_pair("malformed", &key), Err(PemError::NoCertificate));
        assert_eq!(check_pair(&chain, "malformed"), Err(PemError::NoKey));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(check_pair(broken, &key), Err(PemError::NoCertificate));
    }

    #[test]
    fn roots_are_certificates_and_at_least_one() {
        let (root, _) = pair();
        assert_eq!(check_roots(&format!("{root}{root}")), Ok(()));
        for wrong in ["", "malformed", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(check_roots(wrong), Err(PemError::NoCertificate), "{wrong:?}");
        }
    }
}
