//! The controller's gRPC server: the config stream and the certificate service, over TLS, for proxies of nodes and of
//! Gateways that prove themselves with every call.

mod connection;
mod progress;
mod stream;

use std::sync::Arc;

use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt;
use weft_api::proto;
use weft_api::proto::config_server::{Config, ConfigServer};
use weft_ca::{Authenticator, Authority, CertificatesService, IdentitiesOnNode, Rate, authenticate};
use weft_model::{Identity, ObjectName};
use weft_tls::ServerTls;

use crate::leadership::Leadership;
use crate::publish::Snapshot;
use stream::Stream;

pub use progress::{Changes, GatewayProgress, NodeProgress, Progress};

/// The newest snapshot; `None` until the first translation is done.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// The gRPC service `Config`. Streams end when `stop` is cancelled.
#[derive(Debug)]
struct ConfigService<A> {
    authenticator: Arc<A>,
    streamed: Snapshots,
    progress: Arc<Progress>,
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl<A: Authenticator> Config for ConfigService<A> {
    type StreamStream = ReceiverStream<Result<proto::ConfigResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<proto::ConfigRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = authenticate(&*self.authenticator, request.metadata()).await?;
        if let Some(refusal) = self.leadership.borrow().refusal() {
            return Err(refusal);
        }
        let (stream, responses) =
            Stream::new(caller, request.into_inner(), self.streamed.clone(), &self.progress);
        tokio::spawn(stream.serve(self.leadership.clone(), self.stop.clone()));
        Ok(Response::new(responses))
    }
}

/// Answers the certificate service's question from the newest snapshot.
#[derive(Debug)]
pub struct SnapshotIdentities(pub Snapshots);

impl IdentitiesOnNode for SnapshotIdentities {
    fn runs_on(&self, identity: &Identity, node: &str) -> bool {
        let snapshot = self.0.borrow();
        let node = snapshot.as_ref().and_then(|snapshot| snapshot.nodes().get(node));
        node.is_some_and(|node| node.identities.contains(identity))
    }

    fn is_of_gateway(&self, identity: &Identity, gateway: &ObjectName) -> bool {
        let snapshot = self.0.borrow();
        let own = snapshot.as_ref().and_then(|snapshot| snapshot.gateway_identity(gateway));
        own == Some(identity)
    }
}

/// The parts of the server.
#[derive(Debug)]
pub struct Server<A> {
    /// Judges node proofs.
    pub authenticator: Arc<A>,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// The controller's own certificate.
    pub tls: ServerTls,
    /// What this replica has translated: says who runs where.
    pub snapshots: Snapshots,
    /// What is streamed; nothing before it is all decided.
    pub streamed: Snapshots,
    /// Where proxies' progress is noted.
    pub progress: Arc<Progress>,
    /// Whether this replica streams configuration. Streams end when it does not any more.
    pub leadership: watch::Receiver<Leadership>,
}

impl<A: Authenticator> Server<A> {
    /// Serves until `stop` is cancelled; then streams end and the rest has a few seconds.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let identities = Arc::new(SnapshotIdentities(self.snapshots.clone()));
        let certificates = CertificatesService::server(
            self.authority,
            Arc::clone(&self.authenticator),
            identities,
            Rate::default(),
        );
        let config = ConfigServer::new(ConfigService {
            authenticator: self.authenticator,
            streamed: self.streamed,
            progress: self.progress,
            leadership: self.leadership,
            stop: stop.clone(),
        });
        let answer = move |request: http::Request<Incoming>| {
            let (config, certificates) = (config.clone(), certificates.clone());
            async move {
                // A call's path is /package.Service/Method.
                let answered = match request.uri().path().split('/').nth(1) {
                    Some(name) if name == service_name(&config) => config.oneshot(request).await,
                    Some(name) if name == service_name(&certificates) => certificates.oneshot(request).await,
                    _ => Ok(Status::unimplemented("there is no such service here").into_http()),
                };
                answered.unwrap_or_else(|never| match never {})
            }
        };
        connection::serve(listener, self.tls, stop, answer).await;
    }
}

fn service_name<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}
