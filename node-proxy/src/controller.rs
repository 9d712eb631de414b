//! The connection to the controller: gRPC over TLS that the proxy verifies, with this node's proof in every call.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use weft_model::TrustDomain;
use weft_tls::{ClientTls, TrustBundle};

use crate::config::Config;

/// Deadline of TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// How soon a controller that is silently gone is noticed: the interval and the wait for its answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// How this node proves itself.
#[derive(Debug)]
enum Proof {
    /// By a secret that the controller has as well.
    Secret { name: String, file: PathBuf },
    /// By a token that the API server reviews.
    Token { file: PathBuf },
}

/// What the controller's certificate is verified against: a file that may come later and may change.
#[derive(Debug)]
struct Roots {
    file: PathBuf,
    trust_domain: TrustDomain,
    name: String,
    /// What was wrong the last time: told once, not with every attempt.
    told: Mutex<Option<String>>,
}

/// The controller, connected when first needed and again after each failure.
#[derive(Clone, Debug)]
pub struct Controller {
    /// For the generated clients.
    pub channel: Channel,
    endpoint: Endpoint,
    roots: Arc<Roots>,
    proof: Arc<Proof>,
}

impl Controller {
    /// Prepares the connection. Must be called on the runtime that will use it.
    ///
    /// # Errors
    /// The controller's name is no host name, or there is nothing that would prove this node.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let roots = Arc::new(Roots {
            file: config.controller_ca.clone(),
            trust_domain: TrustDomain(config.trust_domain.as_str().into()),
            name: config.controller_name.clone(),
            told: Mutex::default(),
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", config.controller_name))
            .context("--controller-name")?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true);
        let channel = channel(&endpoint, &config.controller, &roots);
        Ok(Self { channel, endpoint, roots, proof: Arc::new(Proof::new(config)?) })
    }

    /// The same controller at another address, which is verified by the same name.
    pub fn at(&self, address: &str) -> Self {
        Self { channel: channel(&self.endpoint, address, &self.roots), ..self.clone() }
    }

    /// A call's request with this node's proof.
    ///
    /// # Errors
    /// The proof's file cannot be read.
    pub fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.proof.read()?);
        Ok(request)
    }
}

impl Proof {
    fn new(config: &Config) -> anyhow::Result<Self> {
        match (&config.node_token_file, &config.node_secret_file) {
            (Some(file), _) => Ok(Self::Token { file: file.clone() }),
            (None, Some(file)) => {
                let name = match config.gateway()? {
                    None => config.node.clone(),
                    Some(own) => format!("gateway/{}", own.gateway),
                };
                Ok(Self::Secret { name, file: file.clone() })
            }
            (None, None) => anyhow::bail!("one of --node-token-file and --node-secret-file is needed"),
        }
    }

    /// Read anew for each call: secrets are replaced, and tokens live for an hour or so.
    fn read(&self) -> Result<MetadataValue<Ascii>, Status> {
        let (flag, file) = match self {
            Self::Secret { file, .. } => ("--node-secret-file", file),
            Self::Token { file } => ("--node-token-file", file),
        };
        let path = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Status::unauthenticated(format!("cannot read {flag} {path}: {error}")))?;
        let proof = match self {
            Self::Secret { name, .. } => format!("Bearer {name}:{}", text.trim()),
            Self::Token { .. } => format!("Bearer {}", text.trim()),
        };
        let mut proof = MetadataValue::try_from(proof)
            .map_err(|_| Status::unauthenticated(format!("what is in {path} is not one line of text")))?;
        proof.set_sensitive(true);
        Ok(proof)
    }
}

impl Roots {
    fn tls(&self) -> io::Result<ClientTls> {
        let read = TrustBundle::from_pem_file(self.trust_domain.clone(), &self.file)
            .map_err(|error| error.to_string())
            .and_then(|roots| ClientTls::new(&roots, &self.name).map_err(|error| error.to_string()));
        let problem = read.as_ref().err().cloned();
        let before = std::mem::replace(&mut *self.told.lock(), problem.clone());
        match &problem {
            Some(problem) if before.as_ref() != Some(problem) => {
                let file = self.file.display();
                tracing::warn!(%file, problem, "the controller cannot be verified yet; waiting for its roots");
            }
            _ => {}
        }
        read.map_err(io::Error::other)
    }
}

/// Connects when it is first needed.
fn channel(endpoint: &Endpoint, address: &str, roots: &Arc<Roots>) -> Channel {
    let (address, roots) = (Arc::<str>::from(address), roots.clone());
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| connect(address.clone(), roots.clone())))
}

async fn connect(
    address: Arc<str>,
    roots: Arc<Roots>,
) -> io::Result<TokioIo<weft_tls::TlsStream<TcpStream>>> {
    let tls = roots.tls()?;
    let stream = TcpStream::connect(&*address).await?;
    stream.set_nodelay(true)?;
    let stream = tls.connect(stream).await.map_err(io::Error::other)?;
    Ok(TokioIo::new(stream))
}

#[cfg(test)]
mod tests;
