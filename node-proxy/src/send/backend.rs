//! TLS towards backends under a BackendTLSPolicy, and of XBackends, on whatever leads to them. A policy that cannot be carried out lets
//! nothing through.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use weft_model::gateway::{BackendRoots, BackendTls, Certificate};
use weft_tls::{Carries, KeyPem, Roots, TlsError, TlsStream};

/// A policy, ready to be used.
#[derive(Debug)]
pub struct BackendPolicy {
    stated: Arc<BackendTls>,
    /// What is shown to backends that ask.
    client: Client,
    tls: Result<weft_tls::BackendTls, TlsError>,
}

/// The certificate for backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// None is named.
    None,
    /// This one.
    Certificate(Arc<Certificate>),
    /// One is named that is not there.
    Missing,
}

impl BackendPolicy {
    /// Prepares a policy.
    pub fn new(stated: Arc<BackendTls>, client: Client) -> Self {
        let tls = prepare(&stated, &client);
        if let Err(error) = &tls {
            let (service, port, policy) = (&stated.service, stated.port, &stated.policy);
            tracing::warn!(%policy, %service, port, %error, "backends are not called: their TLS cannot be carried out");
        }
        Self { stated, client, tls }
    }

    /// Whether it is made of the very same.
    pub fn is_of(&self, stated: &BackendTls, client: &Client) -> bool {
        *self.stated == *stated && self.client == *client
    }

    /// Makes the handshake. The caller of this function sets the deadline.
    ///
    /// # Errors
    /// The backend is not who it should be, or the policy cannot be carried out.
    pub async fn connect<IO>(&self, io: IO, carries: Carries) -> Result<TlsStream<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        match &self.tls {
            Ok(tls) => tls.connect(io, carries).await,
            Err(error) => Err(error.clone()),
        }
    }
}

fn prepare(stated: &BackendTls, client: &Client) -> Result<weft_tls::BackendTls, TlsError> {
    if let Some(refusal) = &stated.refusal {
        return Err(TlsError::Unusable(refusal.message.to_string()));
    }
    let client = match client {
        Client::None => None,
        Client::Certificate(own) => Some(KeyPem { chain: &own.chain_pem, key: &own.key_pem.0 }),
        Client::Missing => {
            return Err(TlsError::Unusable("the client certificate is not there".to_owned()));
        }
    };
    let texts: Vec<&str>;
    let roots = match &stated.roots {
        BackendRoots::Pem(pems) => {
            texts = pems.iter().map(|pem| &**pem).collect();
            Roots::Pem(&texts)
        }
        BackendRoots::System => Roots::System,
    };
    weft_tls::BackendTls::new(&stated.hostname, &stated.subject_alt_names, roots, client)
}

/// A policy as part of a pool's key: connections made under another one are not used.
#[derive(Clone)]
pub(crate) struct Same(pub(crate) Arc<BackendPolicy>);

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for Same {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendTLSPolicy {}", self.0.stated.policy)
    }
}
