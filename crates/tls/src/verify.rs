//! Judging a peer's certificate by its SPIFFE identity (SPIFFE X509-SVID §5), for both sides of a connection.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use weft_model::Identity;

use crate::certificate::Svid;
use crate::provider::provider;
use crate::public::signature13;
use crate::{PeerCertificate, TrustBundle};

/// Judges callers: any identity of the own trust domain. Who may call what is policy, not TLS.
#[derive(Debug)]
pub(crate) struct Callers(pub(crate) Arc<TrustBundle>);

/// Judges the called.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) expected: Expected,
}

/// Whom a client called.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Exactly this workload; a DNS name in the certificate means nothing.
    Workload(Identity),
    /// The name that the connection was made for.
    Name,
}

/// Reads and judges a peer's chain; the identity is of the bundle's trust domain.
pub(crate) fn judge(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<Identity, PeerCertificate> {
    chain(bundle, leaf, intermediates, now, usage)?;
    let identity = Svid::read(leaf)?.identity;
    if identity.trust_domain != *bundle.trust_domain() {
        let expected = bundle.trust_domain().clone();
        return Err(PeerCertificate::TrustDomain { found: identity, expected });
    }
    Ok(identity)
}

/// Whether a chain leads to one of the roots, is in its time, and may be used so.
fn chain<'a>(
    bundle: &TrustBundle,
    leaf: &'a CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<EndEntityCert<'a>, PeerCertificate> {
    let certificate = EndEntityCert::try_from(leaf).map_err(|error| from_webpki(&error))?;
    let algorithms = provider().signature_verification_algorithms.all;
    certificate
        .verify_for_usage(algorithms, bundle.anchors(), intermediates, now, usage, None, None)
        .map_err(|error| from_webpki(&error))?;
    Ok(certificate)
}

fn from_webpki(error: &webpki::Error) -> PeerCertificate {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } => PeerCertificate::Expired,
        E::CertNotValidYet { .. } => PeerCertificate::NotYetValid,
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => PeerCertificate::Foreign,
        E::RequiredEkuNotFoundContext(_) | E::CaUsedAsEndEntity => PeerCertificate::Usage(error.to_string()),
        other => PeerCertificate::Malformed(other.to_string()),
    }
}

/// The error for rustls: in its own words where it has them, so that the peer gets the alert that says it best.
fn refuse(error: PeerCertificate) -> Error {
    Error::InvalidCertificate(match error {
        PeerCertificate::Expired => CertificateError::Expired,
        PeerCertificate::NotYetValid => CertificateError::NotValidYet,
        PeerCertificate::Foreign => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// TLS 1.2 is not configured, so that this is never asked; if it were, the answer is no.
fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken".into()))
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        judge(&self.0, leaf, intermediates, now, KeyUsage::client_auth()).map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Called {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usage = KeyUsage::server_auth();
        match &self.expected {
            Expected::Workload(expected) => {
                let found = judge(&self.bundle, leaf, intermediates, now, usage).map_err(refuse)?;
                if found != *expected {
                    let expected = expected.clone();
                    return Err(refuse(PeerCertificate::WrongIdentity { found, expected }));
                }
            }
            Expected::Name => {
                let certificate = chain(&self.bundle, leaf, intermediates, now, usage).map_err(refuse)?;
                let wrong = |_| refuse(PeerCertificate::WrongName(server_name.to_str().into_owned()));
                certificate.verify_is_valid_for_subject_name(server_name).map_err(wrong)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
