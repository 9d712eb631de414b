//! The proxy's end of the config stream: takes what differs, puts it in force, then says so. While the controller is
//! away the last state stays in force.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weft_api::delta::{Applied, DeltaError, Replica};
use weft_api::proto::config_client::ConfigClient;
use weft_api::proto::config_request::Request;
use weft_api::proto::{Ack, ConfigRequest, Hello};
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

/// Keeps a config stream open for ever.
pub async fn run(shared: Arc<Shared>, controller: Controller) {
    let mut replica = Replica::default();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let ended = stream(&shared, &controller, &mut replica, &mut backoff).await;
        let (delay, version) = (backoff.next_delay(), shared.snapshot.load().version);
        let controller = &shared.config.controller;
        tracing::warn!(controller, error = %ended, version, ?delay, "no config stream; the last state stays in force");
        tokio::time::sleep(delay).await;
    }
}

/// One stream, to its end.
async fn stream(
    shared: &Shared,
    controller: &Controller,
    replica: &mut Replica,
    backoff: &mut Backoff,
) -> StreamError {
    let result: Result<(), StreamError> = async {
        let (requests, outgoing) = mpsc::channel(4);
        let hello = Hello {
            node: shared.config.node.clone(),
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
            bucket_digests: replica.connect(),
        };
        say(&requests, Request::Hello(hello)).await?;
        let call = controller.request(ReceiverStream::new(outgoing))?;
        let mut client =
            ConfigClient::new(controller.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
        let mut responses = client.stream(call).await?.into_inner();
        while let Some(message) = responses.message().await? {
            if let Some(applied) = replica.apply(message)? {
                let ack = put_in_force(shared, applied);
                say(&requests, Request::Ack(ack)).await?;
                backoff.reset();
            }
        }
        Ok(())
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
