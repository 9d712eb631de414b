//! The server's side of TLS at a Gateway's listener: a certificate by server name, and clients' certificates judged as the
//! Gateway says.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use webpki::EndEntityCert;

use crate::provider::provider;
use crate::public::{KeyPem, VERSIONS, certified, roots, signature12, signature13};
use crate::workload::first_bytes;
use crate::{TlsError, TlsStream};

/// What clients have to show.
#[derive(Clone, Copy, Debug)]
pub enum Clients<'a> {
    /// Nothing.
    Anybody,
    /// A certificate that one of these roots (PEM) signed.
    Verified(&'a [&'a str]),
    /// They are asked, and let in whatever they show.
    Asked,
}

/// What is offered to clients by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// `h2` and `http/1.1`.
    Http,
    /// Nothing: bytes of a protocol that is not known here.
    Bytes,
}

/// The server's side of one listener: built once, shared by its connections, replaced when anything changes. Cheap to
/// clone.
#[derive(Clone)]
pub struct FrontendTls {
    config: Arc<ServerConfig>,
}

impl FrontendTls {
    /// Serves with these certificates: of those whose names cover the client's server name and that the client can
    /// verify the first, else the first.
    ///
    /// # Errors
    /// No certificate, one that cannot be used, or no root to verify clients by.
    pub fn new(certificates: &[KeyPem<'_>], clients: Clients<'_>, offer: Offer) -> Result<Self, TlsError> {
        let certificates = certificates.iter().map(|pem| certified(*pem)).collect::<Result<Vec<_>, _>>()?;
        if certificates.is_empty() {
            return Err(TlsError::Unusable("there is no certificate".to_owned()));
        }
        let unusable = |error: &dyn fmt::Display| TlsError::Unusable(error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(|error| unusable(&error))?;
        let builder = match clients {
            Clients::Anybody => builder.with_no_client_auth(),
            Clients::Asked => builder.with_client_cert_verifier(Arc::new(LetIn)),
            Clients::Verified(pems) => {
                let roots = Arc::new(roots(pems.iter().copied())?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
                builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(&error))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName(certificates)));
        if offer == Offer::Http {
            config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
        }
        if matches!(clients, Clients::Anybody) {
            // A resumed session stands for a handshake in which nothing was verified.
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| unusable(&error))?;
        } else {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.max_early_data_size = 0;
        Ok(Self { config: Arc::new(config) })
    }

    /// Serves the handshake. The caller of this function sets the deadline.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub async fn accept<IO>(&self, io: IO) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = Box::pin(LazyConfigAcceptor::new(Acceptor::default(), io)).await.map_err(first_bytes)?;
        let stream = Box::pin(start.into_stream(Arc::clone(&self.config))).await;
        Ok(TlsStream::new(stream.map_err(TlsError::from_handshake)?))
    }
}

impl fmt::Debug for FrontendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontendTls").finish_non_exhaustive()
    }
}

/// A listener's certificates.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let covers = |key: &&Arc<CertifiedKey>| name.as_ref().is_some_and(|name| covers(key, name));
        let known = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let best = self.0.iter().filter(covers).find(known);
        best.or_else(|| self.0.iter().find(known)).or_else(|| self.0.first()).cloned()
    }
}

fn covers(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = key.cert.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
    leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
}

/// Asks for a certificate and takes whatever comes, or nothing (`AllowInsecureFallback`). Who shows one must have its key.
#[derive(Debug)]
struct LetIn;

impl ClientCertVerifier for LetIn {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature12(message, certificate, signature)
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
