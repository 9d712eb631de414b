//! TLS of the controller: the server shows a certificate for its DNS name, clients verify it against a bootstrapped
//! root and prove themselves by a token inside. ALPN `h2`.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use crate::leaf::certified_key;
use crate::provider::{VERSIONS, provider};
use crate::verify::{Called, Expected};
use crate::workload::{first_answer, first_bytes};
use crate::{TlsError, TlsStream, TrustBundle};

const H2: &[u8] = b"h2";

/// The controller's side: one certificate, replaceable while connections are served. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
}

/// A proxy's side towards the controller. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// The certificate that new connections are shown.
#[derive(Debug)]
struct Certificate(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServerTls {
    /// Serves with a chain (leaf first, DER) and its key (PKCS #8, DER).
    ///
    /// # Errors
    /// The key cannot be used, or is not the certificate's.
    pub fn new(chain_der: Vec<Vec<u8>>, key_pkcs8_der: Vec<u8>) -> Result<Self, TlsError> {
        let key = load(chain_der, key_pkcs8_der)?;
        let certificate = Arc::new(Certificate(ArcSwap::new(key)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![H2.into()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), certificate })
    }

    /// Shows another certificate from the next connection on.
    ///
    /// # Errors
    /// As [`ServerTls::new`]; the one in use stays.
    pub fn replace(&self, chain_der: Vec<Vec<u8>>, key_pkcs8_der: Vec<u8>) -> Result<(), TlsError> {
        self.certificate.0.store(load(chain_der, key_pkcs8_der)?);
        Ok(())
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
        with_h2(TlsStream::new(stream.map_err(TlsError::from_handshake)?))
    }
}

impl ClientTls {
    /// Connects to `server_name` (a DNS name) if its certificate is signed by one of the bundle's roots.
    ///
    /// # Errors
    /// The name is no DNS name.
    pub fn new(roots: &TrustBundle, server_name: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| TlsError::Unusable(format!("{server_name:?} is no DNS name")))?;
        let verifier = Called { bundle: Arc::new(roots.clone()), expected: Expected::Name };
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(|error| TlsError::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![H2.into()];
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), name })
    }

    /// Makes the handshake. The caller of this function sets the deadline.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub async fn connect<IO>(&self, io: IO) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = Box::pin(connector.connect(self.name.clone(), io)).await.map_err(first_answer)?;
        with_h2(TlsStream::new(stream))
    }
}

fn load(chain_der: Vec<Vec<u8>>, key_pkcs8_der: Vec<u8>) -> Result<Arc<CertifiedKey>, TlsError> {
    certified_key(chain_der, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key_pkcs8_der)))
}

fn with_h2<IO>(stream: TlsStream<IO>) -> Result<TlsStream<IO>, TlsError> {
    match stream.session().alpn_protocol() {
        Some(H2) => Ok(stream),
        _ => Err(TlsError::NoAlpn),
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("name", &self.name).finish_non_exhaustive()
    }
}
