//! The connection to the controller: gRPC over TLS that the proxy verifies, with this node's proof in every call.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use weft_model::TrustDomain;
use weft_tls::{ClientTls, TrustBundle};

use crate::config::Config;

/// Deadline of TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// How soon a controller that is silently gone is noticed: the interval and the wait for its answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// The controller, connected when first needed and again after each failure.
#[derive(Clone, Debug)]
pub struct Controller {
    /// For the generated clients.
    pub channel: Channel,
    node: String,
    secret_file: PathBuf,
}

impl Controller {
    /// Prepares the connection. Must be called on the runtime that will use it.
    ///
    /// # Errors
    /// The root file cannot be read, or the name is no DNS name.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let trust_domain = TrustDomain(config.trust_domain.as_str().into());
        let roots = TrustBundle::from_pem_file(trust_domain, &config.controller_ca)?;
        let tls = Arc::new(ClientTls::new(&roots, &config.controller_name)?);
        let address: Arc<str> = config.controller.as_str().into();
        let connector = tower::service_fn(move |_| connect(address.clone(), tls.clone()));
        let uri = format!("http://{}", config.controller_name);
        let channel = Endpoint::from_shared(uri)
            .context("--controller-name")?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        Ok(Self { channel, node: config.node.clone(), secret_file: config.node_secret_file.clone() })
    }

    /// A call's request with this node's proof. The secret is read anew: it may be replaced at any time.
    ///
    /// # Errors
    /// The secret's file cannot be read.
    pub fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let path = self.secret_file.display();
        let secret = std::fs::read_to_string(&self.secret_file).map_err(|error| {
            Status::unauthenticated(format!("cannot read --node-secret-file {path}: {error}"))
        })?;
        let proof = format!("Bearer {}:{}", self.node, secret.trim());
        let mut proof = MetadataValue::try_from(proof)
            .map_err(|_| Status::unauthenticated(format!("the secret in {path} is not one line of text")))?;
        proof.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", proof);
        Ok(request)
    }
}

async fn connect(
    address: Arc<str>,
    tls: Arc<ClientTls>,
) -> io::Result<TokioIo<weft_tls::TlsStream<TcpStream>>> {
    let stream = TcpStream::connect(&*address).await?;
    stream.set_nodelay(true)?;
    let stream = tls.connect(stream).await.map_err(io::Error::other)?;
    Ok(TokioIo::new(stream))
}

#[cfg(test)]
mod tests;
