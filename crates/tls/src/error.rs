//! Why a TLS connection did not come about or ended, in words that say which side has to act.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error as Rustls};
use weft_model::{Identity, TrustDomain};

/// Why a TLS connection did not come about, or ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer's first bytes are no TLS record.
    #[error("the peer does not speak TLS: {0}")]
    NotTls(String),
    /// The peer and this side have no TLS version or algorithm in common.
    #[error("the peer cannot speak TLS 1.3 as Weft needs it: {0}")]
    Incompatible(String),
    /// The client sent no certificate.
    #[error("the peer presented no certificate: it is no member of the mesh")]
    NoCertificate,
    /// The peer's certificate was refused.
    #[error("the peer's certificate was refused: {0}")]
    Certificate(#[from] PeerCertificate),
    /// The peer offers none of the protocols of this port, or named none.
    #[error("the peer agreed to no application protocol (ALPN) of this port")]
    NoAlpn,
    /// The peer refused our certificate or broke the handshake off.
    #[error("the peer refused the connection with the TLS alert {0}")]
    Refused(String),
    /// The connection ended before the handshake did.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// The connection ended without close_notify: what was read may be cut short (RFC 8446 §6.1).
    #[error("the connection was cut off without close_notify: the data may be incomplete")]
    Truncated,
    /// Any other violation of TLS.
    #[error("TLS failed: {0}")]
    Protocol(String),
    /// The transport below failed.
    #[error("the connection failed: {0}")]
    Io(Arc<io::Error>),
    /// Our own certificate, key or roots cannot be used.
    #[error("this side's certificate cannot be used: {0}")]
    Unusable(String),
}

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertificate {
    /// Its validity has ended.
    #[error("it has expired; the peer's proxy should have renewed it")]
    Expired,
    /// Its validity has not begun.
    #[error("it is not valid yet; compare the clocks of the two nodes")]
    NotYetValid,
    /// No root of the trust bundle signed it.
    #[error("none of the roots trusted here signed it; compare the trust bundles of both sides")]
    Foreign,
    /// It names no identity, or more than one, or one of another form.
    #[error("it does not hold exactly one SPIFFE identity: {0}")]
    NoIdentity(String),
    /// Its identity belongs to another mesh.
    #[error("its identity {found} is not of the trust domain {expected}")]
    TrustDomain {
        /// Who the peer is.
        found: Identity,
        /// The trust domain of this mesh.
        expected: TrustDomain,
    },
    /// It is another workload than the one that was called.
    #[error("it belongs to {found}, expected {expected}")]
    WrongIdentity {
        /// Who the peer is.
        found: Identity,
        /// Who was called.
        expected: Identity,
    },
    /// It does not hold the DNS name that was called.
    #[error("it is not valid for the name {0}")]
    WrongName(String),
    /// It may not be used for this side of TLS (extended key usage, key usage, or a CA's certificate).
    #[error("it may not be used for this: {0}")]
    Usage(String),
    /// It does not decode, or is wrong in another way.
    #[error("{0}")]
    Malformed(String),
}

impl TlsError {
    /// What TLS has to say about an error of a [`crate::TlsStream`]'s reads and writes; `None`: not an error of TLS.
    ///
    /// A server's refusal of the client's certificate arrives here, on the client's first read, since a TLS 1.3
    /// client's handshake ends before the server has judged its certificate.
    pub fn of(error: &io::Error) -> Option<Self> {
        if let Some(inner) = error.get_ref() {
            if let Some(tls) = inner.downcast_ref::<Self>() {
                return Some(tls.clone());
            }
            if let Some(tls) = inner.downcast_ref::<Rustls>() {
                return Some(Self::from_rustls(tls));
            }
        }
        (error.kind() == io::ErrorKind::UnexpectedEof).then_some(Self::Truncated)
    }

    /// Reads the outcome of a handshake.
    pub(crate) fn from_handshake(error: io::Error) -> Self {
        match Self::of(&error) {
            Some(Self::Truncated) => Self::Closed,
            Some(tls) => tls,
            None => Self::Io(Arc::new(error)),
        }
    }

    pub(crate) fn from_rustls(error: &Rustls) -> Self {
        match error {
            Rustls::NoCertificatesPresented => Self::NoCertificate,
            Rustls::NoApplicationProtocol => Self::NoAlpn,
            Rustls::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::NoAlpn,
            Rustls::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            Rustls::PeerIncompatible(why) => Self::Incompatible(format!("{why:?}")),
            Rustls::InvalidCertificate(why) => Self::Certificate(PeerCertificate::from_rustls(why)),
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl PeerCertificate {
    fn from_rustls(error: &CertificateError) -> Self {
        match error {
            CertificateError::Other(other) => match other.0.downcast_ref::<Self>() {
                Some(own) => own.clone(),
                None => Self::Malformed(other.0.to_string()),
            },
            CertificateError::Expired => Self::Expired,
            CertificateError::NotValidYet => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::Foreign,
            other => Self::Malformed(other.to_string()),
        }
    }
}
