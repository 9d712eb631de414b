//! One proxy's config stream: greeting, snapshots as they come, acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use weft_api::delta::{DeltaError, Publisher};
use weft_api::proto::config_request::Request;
use weft_api::proto::{Ack, ConfigRequest, ConfigResponse, Hello};

use super::Snapshots;
use super::progress::{Place, Progress};
use crate::leadership::{self, Leadership};
use crate::publish::{Needs, Peer, Snapshot};

/// How long a proxy may take to greet.
const GREETING: Duration = Duration::from_secs(10);

type Responses = mpsc::Sender<Result<ConfigResponse, Status>>;

/// A stream that has been authenticated.
pub(super) struct Stream {
    place: Place,
    requests: Streaming<ConfigRequest>,
    responses: Responses,
    snapshots: Snapshots,
}

/// Why a stream ends.
enum End {
    /// The proxy went away.
    Gone,
    /// It is told why.
    Told(Status),
}

impl From<DeltaError> for End {
    fn from(error: DeltaError) -> Self {
        Self::Told(Status::invalid_argument(error.to_string()))
    }
}

/// What has been published on the stream.
struct State {
    publisher: Publisher,
    version: u64,
    needs: Needs,
}

impl Stream {
    pub(super) fn new(
        peer: Peer,
        requests: Streaming<ConfigRequest>,
        snapshots: Snapshots,
        progress: &Arc<Progress>,
    ) -> (Self, ReceiverStream<Result<ConfigResponse, Status>>) {
        let (responses, receiver) = mpsc::channel(2);
        let place = progress.open(peer);
        (Self { place, requests, responses, snapshots }, ReceiverStream::new(receiver))
    }

    /// Serves the stream to its end, or for as long as this replica leads.
    pub(super) async fn serve(mut self, mut leads: watch::Receiver<Leadership>, stop: CancellationToken) {
        let peer = self.place.peer().clone();
        tracing::info!(%peer, "a proxy connected");
        let end = tokio::select! {
            end = self.run() => end,
            status = leadership::lost(&mut leads) => End::Told(status),
            () = stop.cancelled() => End::Told(Status::unavailable("the controller is stopping")),
        };
        match end {
            End::Gone => tracing::info!(%peer, "a proxy went away"),
            End::Told(status) => {
                tracing::info!(%peer, code = ?status.code(), why = status.message(), "ended a proxy's stream");
                // A proxy that reads nothing more is not waited for.
                let _ = self.responses.try_send(Err(status));
            }
        }
    }

    async fn run(&mut self) -> End {
        let ended = async {
            let hello = self.greeting().await?;
            let publisher = Publisher::hello(&hello.bucket_digests)?;
            let mut state = State { publisher, version: 0, needs: Needs::default() };
            self.snapshots.mark_changed();
            loop {
                let responses = tokio::select! {
                    changed = self.snapshots.changed() => match changed {
                        Ok(()) => state.publish(&self.newest(), self.place.peer())?,
                        Err(_) => return Err::<(), End>(End::Told(Status::unavailable("the controller is stopping"))),
                    },
                    request = self.requests.next() => self.take(&mut state, request)?,
                };
                self.place.in_force(state.publisher.in_force());
                for response in responses {
                    self.responses.send(Ok(response)).await.map_err(|_| End::Gone)?;
                }
            }
        };
        ended.await.err().unwrap_or(End::Gone)
    }

    fn newest(&mut self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow_and_update().clone()
    }

    async fn greeting(&mut self) -> Result<Hello, End> {
        let first = tokio::time::timeout(GREETING, self.requests.next())
            .await
            .map_err(|_| End::Told(Status::deadline_exceeded("no greeting came")))?;
        let peer = self.place.peer();
        match first.transpose().map_err(|_| End::Gone)?.map(|request| request.request) {
            Some(Some(Request::Hello(hello))) if is_from(&hello, peer) => Ok(hello),
            Some(Some(Request::Hello(hello))) => Err(End::Told(Status::permission_denied(format!(
                "the greeting is from node {:?}, Gateway {:?}, the proof from {peer}",
                hello.node, hello.gateway
            )))),
            Some(_) => Err(End::Told(Status::invalid_argument("the first message has to be a greeting"))),
            None => Err(End::Gone),
        }
    }

    fn take(
        &self,
        state: &mut State,
        request: Option<Result<ConfigRequest, Status>>,
    ) -> Result<Vec<ConfigResponse>, End> {
        match request.transpose().map_err(|_| End::Gone)?.map(|request| request.request) {
            Some(Some(Request::Ack(ack))) => {
                self.note(&ack);
                Ok(state.publisher.ack(ack)?)
            }
            Some(Some(Request::Served(served))) => {
                self.place.serves(served);
                Ok(Vec::new())
            }
            Some(_) => Err(End::Told(Status::invalid_argument(
                "only acknowledgements and reports may follow the greeting",
            ))),
            None => Err(End::Gone),
        }
    }

    fn note(&self, ack: &Ack) {
        let rejections = ack.rejections.iter().map(|r| (r.name.clone(), r.message.clone()));
        let rejections = rejections.collect();
        if self.place.rejects(&rejections) {
            let peer = self.place.peer();
            tracing::warn!(%peer, ?rejections, "a proxy refuses for resources it cannot decode");
        }
    }
}

/// Whether a greeting names the one that was proven.
fn is_from(hello: &Hello, peer: &Peer) -> bool {
    match peer {
        Peer::Node(node) => *hello.node == **node && hello.gateway.is_empty(),
        Peer::Gateway(gateway) => hello.gateway == gateway.to_string() && hello.node.is_empty(),
    }
}

impl State {
    /// Sends what the proxy needs of a snapshot and does not have. Nothing as long as there is none.
    fn publish(
        &mut self,
        snapshot: &Option<Arc<Snapshot>>,
        peer: &Peer,
    ) -> Result<Vec<ConfigResponse>, DeltaError> {
        let Some(snapshot) = snapshot else { return Ok(Vec::new()) };
        if snapshot.version() == self.version {
            return Ok(Vec::new());
        }
        let needs = snapshot.needs(peer);
        let changes = snapshot.changes(self.version, &needs).filter(|_| needs == self.needs);
        let responses = match changes {
            Some(changes) => self.publisher.publish_changes(snapshot.version(), changes)?,
            None => self.publisher.publish(snapshot.version(), &snapshot.whole(&needs))?,
        };
        (self.version, self.needs) = (snapshot.version(), needs);
        Ok(responses)
    }
}
