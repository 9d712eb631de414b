//! The proxy's end of the config stream: takes what differs, puts it in force, then says so. While the controller is
//! away the last state stays in force.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use weft_api::delta::{Applied, DeltaError, Replica};
use weft_api::proto::config_client::ConfigClient;
use weft_api::proto::config_request::Request;
use weft_api::proto::{Ack, ConfigRequest, Hello, Rejection};
use weft_runtime::backoff::Backoff;

use super::Snapshot;
use crate::controller::Controller;
use crate::worker::Shared;

/// The controller's messages are at most about 1 MiB, or one larger resource.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The call failed.
    #[error("{}: {}", .0.code(), .0.message())]
    Call(#[from] tonic::Status),
    /// The controller broke the rules of the stream.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// The controller ended the stream.
    #[error("the controller ended the stream")]
    Ended,
}

/// The metadata by which a replica of the controller says where the one is that streams.
const LEADER: &str = "weft-leader";

/// Keeps a config stream open for ever: with the replica that leads, once another has said which one that is. `follow` is
/// called with every new snapshot before the controller is told that it is in force; what it returns is told too.
pub async fn run(
    shared: Arc<Shared>,
    controller: Controller,
    mut follow: impl FnMut(&Snapshot) -> Vec<Rejection>,
) {
    let mut replica = Replica::default();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut leader: Option<String> = None;
    loop {
        let (at, address) = match &leader {
            Some(address) => (controller.at(address), address.clone()),
            None => (controller.clone(), shared.config.controller.clone()),
        };
        let ended = stream(&shared, &at, (&mut replica, &mut backoff), &mut follow).await;
        let told = ended.leader();
        // The first hint is followed at once. Replicas that send a proxy from one to the other are given time.
        if leader.is_none() && told.is_some() {
            tracing::info!(controller = address, leader = told, "going to the controller's leader");
            leader = told;
            continue;
        }
        leader = told;
        let (delay, version) = (backoff.next_delay(), shared.snapshot.load().version);
        tracing::warn!(controller = address, error = %ended, version, ?delay, "no config stream; the last state stays in force");
        tokio::time::sleep(delay).await;
    }
}

impl StreamError {
    /// Where the leader is, as far as it was said.
    fn leader(&self) -> Option<String> {
        match self {
            Self::Call(status) if status.code() == Code::FailedPrecondition => {
                let address: SocketAddr = status.metadata().get(LEADER)?.to_str().ok()?.parse().ok()?;
                Some(address.to_string())
            }
            _ => None,
        }
    }
}

/// One stream, to its end.
async fn stream(
    shared: &Shared,
    controller: &Controller,
    (replica, backoff): (&mut Replica, &mut Backoff),
    follow: &mut impl FnMut(&Snapshot) -> Vec<Rejection>,
) -> StreamError {
    let result: Result<(), StreamError> = async {
        let (requests, outgoing) = mpsc::channel(4);
        let hello = Hello {
            node: shared.config.node.clone(),
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
            bucket_digests: replica.connect(),
            gateway: shared.config.own.gateway.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        say(&requests, Request::Hello(hello)).await?;
        let call = controller.request(ReceiverStream::new(outgoing))?;
        let mut client =
            ConfigClient::new(controller.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
        let mut responses = client.stream(call).await?.into_inner();
        let mut reports = shared.served.reports();
        loop {
            tokio::select! {
                biased;
                message = responses.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    if let Some(applied) = replica.apply(message)? {
                        let mut ack = put_in_force(shared, applied);
                        ack.rejections.extend(follow(&shared.snapshot.load()));
                        say(&requests, Request::Ack(ack)).await?;
                        backoff.reset();
                    }
                }
                report = reports.next() => say(&requests, Request::Served(report)).await?,
            }
        }
    }
    .await;
    result.err().unwrap_or(StreamError::Ended)
}

async fn say(requests: &mpsc::Sender<ConfigRequest>, request: Request) -> Result<(), StreamError> {
    requests.send(ConfigRequest { request: Some(request) }).await.map_err(|_| StreamError::Ended)
}

/// Makes the next snapshot and swaps it in; what is returned is true from now on.
fn put_in_force(shared: &Shared, applied: Applied) -> Ack {
    let Applied { version, changes, rejections } = applied;
    for rejection in &rejections {
        let (name, message) = (&rejection.name, &rejection.message);
        tracing::warn!(name, message, "cannot be read: refusing for it; update weft-proxy");
    }
    let count = changes.len();
    let before: Arc<Snapshot> = shared.snapshot.load_full();
    // Versions are the controller's; another leader may count lower, but never is a configured proxy unconfigured.
    let next = before.apply(version.max(1), changes);
    warn_of_foreign_trust_domain(shared, &next);
    shared.snapshot.swap(Arc::new(next));
    tracing::info!(version, changes = count, "configuration in force");
    Ack { version, rejections }
}

fn warn_of_foreign_trust_domain(shared: &Shared, next: &Snapshot) {
    let own = &shared.config.trust_domain;
    if let Some(mesh) = next.mesh().filter(|mesh| *mesh.trust_domain.0 != **own) {
        let controller = &mesh.trust_domain;
        tracing::error!(own, %controller, "the controller's trust domain is another: start with --trust-domain of it");
    }
}
