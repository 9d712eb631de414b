//! Mutual TLS between proxies, for one local workload.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::server::{Acceptor, NoServerSessionStorage};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use webpki::KeyUsage;
use weft_model::Identity;

use crate::certificate::Svid;
use crate::provider::{VERSIONS, provider};
use crate::verify::{Called, Callers, Expected, judge};
use crate::{Alpn, Leaf, TlsError, TlsStream, TrustBundle};

/// Both sides of mutual TLS for one workload's certificate and one trust bundle: built once, shared by its
/// connections, replaced when either changes. Cheap to clone.
#[derive(Clone)]
pub struct WorkloadTls {
    identity: Identity,
    validity: (SystemTime, SystemTime),
    bundle: Arc<TrustBundle>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// A connection that a peer made to us, and who the peer is.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The bytes.
    pub stream: TlsStream<IO>,
    /// The caller.
    pub peer: Identity,
    /// What the caller wants to carry.
    pub alpn: Alpn,
}

impl WorkloadTls {
    /// Prepares both sides.
    ///
    /// # Errors
    /// The leaf is of another trust domain than the bundle.
    pub fn new(leaf: &Leaf, bundle: &TrustBundle) -> Result<Self, TlsError> {
        if leaf.identity.trust_domain != *bundle.trust_domain() {
            let (own, other) = (&leaf.identity, bundle.trust_domain());
            return Err(TlsError::Unusable(format!("{own} is not of the trust domain {other}")));
        }
        let bundle = Arc::new(bundle.clone());
        let server = Arc::new(server_config(leaf, &bundle)?);
        let client = Arc::new(client_config(leaf, &bundle)?);
        let validity = (leaf.not_before, leaf.not_after);
        Ok(Self { identity: leaf.identity.clone(), validity, bundle, server, client })
    }

    /// Whose certificate it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The bundle that peers are judged by.
    pub fn bundle(&self) -> &Arc<TrustBundle> {
        &self.bundle
    }

    /// From when until when the own certificate is valid.
    pub fn validity(&self) -> (SystemTime, SystemTime) {
        self.validity
    }

    /// Judges a leaf as a peer with the same bundle would at `now`: asked before a new leaf or bundle is put to use.
    ///
    /// # Errors
    /// Why such a peer would refuse it.
    pub fn check_at(leaf: &Leaf, bundle: &TrustBundle, now: SystemTime) -> Result<(), TlsError> {
        let (first, rest) = leaf.key.cert.split_first().ok_or(TlsError::NoCertificate)?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        judge(bundle, first, rest, now, KeyUsage::client_auth())?;
        Ok(())
    }

    /// Serves the handshake on a connection that came in on port 15008. The caller of this function sets the deadline.
    ///
    /// # Errors
    /// Whatever keeps the peer from being a workload of this trust domain; see [`TlsError`].
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = Box::pin(LazyConfigAcceptor::new(Acceptor::default(), io)).await.map_err(first_bytes)?;
        let stream = Box::pin(start.into_stream(Arc::clone(&self.server))).await;
        let stream = TlsStream::new(stream.map_err(TlsError::from_handshake)?);
        let alpn = stream.session().alpn_protocol().and_then(Alpn::from_wire).ok_or(TlsError::NoAlpn)?;
        let leaf = stream.session().peer_certificates().and_then(<[_]>::first);
        let peer = Svid::read(leaf.ok_or(TlsError::NoCertificate)?)?.identity;
        Ok(Accepted { stream, peer, alpn })
    }

    /// Makes the handshake towards a workload. The caller of this function sets the deadline.
    ///
    /// The peer may still refuse *our* certificate: that shows on the first read (see [`TlsError::of`]).
    ///
    /// # Errors
    /// The peer is not exactly `expected`, does not speak `alpn`, or TLS fails; see [`TlsError`].
    pub async fn connect<IO>(
        &self,
        io: IO,
        expected: &Identity,
        alpn: Alpn,
    ) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        // A copy of a configuration is a handful of reference counts; key and roots are shared.
        let mut config = ClientConfig::clone(&self.client);
        config.alpn_protocols = vec![alpn.as_str().into()];
        let verifier =
            Called { bundle: Arc::clone(&self.bundle), expected: Expected::Workload(expected.clone()) };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        let connector = TlsConnector::from(Arc::new(config));
        // Never sent (SNI is off) and never compared (the verifier compares identities).
        let unused = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let stream = Box::pin(connector.connect(unused, io)).await.map_err(first_answer)?;
        let stream = TlsStream::new(stream);
        if stream.session().alpn_protocol() != Some(alpn.as_str().as_bytes()) {
            return Err(TlsError::NoAlpn);
        }
        Ok(stream)
    }
}

fn server_config(leaf: &Leaf, bundle: &Arc<TrustBundle>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(VERSIONS)
        .map_err(|error| TlsError::Unusable(error.to_string()))?
        .with_client_cert_verifier(Arc::new(Callers(Arc::clone(bundle))))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&leaf.key))));
    config.alpn_protocols = Alpn::ALL.iter().map(|alpn| alpn.as_str().into()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_config(leaf: &Leaf, bundle: &Arc<TrustBundle>) -> Result<ClientConfig, TlsError> {
    // The verifier is replaced for each connection; this one expects ourselves.
    let verifier = Called { bundle: Arc::clone(bundle), expected: Expected::Workload(leaf.identity.clone()) };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(VERSIONS)
        .map_err(|error| TlsError::Unusable(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&leaf.key))));
    config.enable_sni = false;
    config.enable_early_data = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// An error before the ClientHello was read: what came may not be TLS at all.
pub(crate) fn first_bytes(error: io::Error) -> TlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(invalid @ rustls::Error::InvalidMessage(_)) => TlsError::NotTls(invalid.to_string()),
        _ => TlsError::from_handshake(error),
    }
}

/// An error of a client's handshake: a first answer that is no TLS record is no TLS.
pub(crate) fn first_answer(error: io::Error) -> TlsError {
    use rustls::InvalidMessage as M;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(invalid @ rustls::Error::InvalidMessage(M::InvalidContentType | M::UnknownProtocolVersion)) => {
            TlsError::NotTls(invalid.to_string())
        }
        _ => TlsError::from_handshake(error),
    }
}

impl fmt::Debug for WorkloadTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadTls").field("identity", &self.identity).finish_non_exhaustive()
    }
}
