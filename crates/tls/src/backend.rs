//! The client's side of TLS towards a backend, as a BackendTLSPolicy says: which server name is sent, and by which roots
//! and names the backend is verified.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use weft_model::gateway::SubjectAltName;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::provider::provider;
use crate::public::{KeyPem, VERSIONS, certified, roots, signature12, signature13, system_roots};
use crate::workload::first_answer;
use crate::{PeerCertificate, TlsError, TlsStream};

/// What a backend is verified against.
#[derive(Clone, Copy, Debug)]
pub enum Roots<'a> {
    /// These roots, as PEM.
    Pem(&'a [&'a str]),
    /// Those of the machine or image.
    System,
}

/// What a connection to a backend is to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carries {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: the backend must agree by ALPN.
    Http2,
    /// Bytes of a protocol that is not known here: no ALPN.
    Bytes,
}

/// The client's side towards the backends of one policy: built once, shared by its connections. Cheap to clone.
#[derive(Clone)]
pub struct BackendTls {
    name: ServerName<'static>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

impl BackendTls {
    /// Sends `hostname` as server name. The backend's certificate must bear it, or, if there are any, one of
    /// `subject_alt_names`. `client` is shown to backends that ask for a certificate.
    ///
    /// # Errors
    /// No root can be used, `hostname` is no DNS name, or the client's certificate cannot be used.
    pub fn new(
        hostname: &str,
        subject_alt_names: &[SubjectAltName],
        trusted: Roots<'_>,
        client: Option<KeyPem<'_>>,
    ) -> Result<Self, TlsError> {
        let name = ServerName::try_from(hostname.to_owned())
            .map_err(|_| TlsError::Unusable(format!("{hostname:?} is no DNS name")))?;
        let roots = match trusted {
            Roots::Pem(pems) => roots(pems.iter().copied())?,
            Roots::System => system_roots()?,
        };
        let names = subject_alt_names.to_vec();
        let unusable = |error: Error| TlsError::Unusable(error.to_string());
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Backend { roots, names }));
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let resolver = rustls::sign::SingleCertAndKey::from(certified(pem)?);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.resumption = Resumption::disabled();
        let with = |alpn: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        let (http1, http2, bytes) = (with(&[b"http/1.1"]), with(&[b"h2"]), with(&[]));
        Ok(Self { name, http1, http2, bytes })
    }

    /// Makes the handshake. The caller of this function sets the deadline.
    ///
    /// # Errors
    /// The backend's certificate was refused, it does not agree to HTTP/2, or TLS fails.
    pub async fn connect<IO>(&self, io: IO, carries: Carries) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match carries {
            Carries::Http1 => &self.http1,
            Carries::Http2 => &self.http2,
            Carries::Bytes => &self.bytes,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = Box::pin(connector.connect(self.name.clone(), io)).await.map_err(first_answer)?;
        let stream = TlsStream::new(stream);
        if carries == Carries::Http2 && stream.session().alpn_protocol() != Some(b"h2") {
            return Err(TlsError::NoAlpn);
        }
        Ok(stream)
    }
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Judges a backend.
#[derive(Debug)]
struct Backend {
    roots: RootCertStore,
    /// If there are any, one of them in the place of the server name.
    names: Vec<SubjectAltName>,
}

impl ServerCertVerifier for Backend {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        if self.names.is_empty() {
            verify_server_name(&certificate, server_name)?;
        } else if !bears_one_of(leaf, &self.names) {
            let wrong = PeerCertificate::WrongName(format!("{:?}", self.names));
            return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(wrong)))));
        }
        Ok(ServerCertVerified::assertion())
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

fn bears_one_of(leaf: &CertificateDer<'_>, names: &[SubjectAltName]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
    let Ok(Some(borne)) = certificate.subject_alternative_name() else { return false };
    borne.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) => names.iter().any(|wanted| is_dns(wanted, name)),
        GeneralName::URI(uri) => {
            names.iter().any(|wanted| matches!(wanted, SubjectAltName::Uri(wanted) if **wanted == **uri))
        }
        _ => false,
    })
}

/// Whether a certificate's DNS name, which may be a wildcard for one label, is the wanted one, which may be too.
fn is_dns(wanted: &SubjectAltName, borne: &str) -> bool {
    let SubjectAltName::Hostname(wanted) = wanted else { return false };
    let (wanted, borne) = (wanted.to_ascii_lowercase(), borne.to_ascii_lowercase());
    let is_under = |name: &str, wildcard: &str| {
        let suffix = wildcard.strip_prefix("*.");
        suffix.is_some_and(|suffix| name.split_once('.').is_some_and(|(_, rest)| rest == suffix))
    };
    wanted == borne || is_under(&wanted, &borne) || is_under(&borne, &wanted)
}
