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
use weft_ca::Caller;
use weft_model::ObjectName;

use super::Snapshots;
use super::progress::{Place, Progress};
use crate::leadership::{self, Leadership};
use crate::publish::{Needs, Peer, Snapshot};

/// How long a proxy may take to greet.
const GREETING: Duration = Duration::from_secs(10);
/// How long a Gateway's proxy waits for the Gateway to be known.
const KNOWN: Duration = Duration::from_secs(10);

type Responses = mpsc::Sender<Result<ConfigResponse, Status>>;

/// A stream that has been authenticated.
pub(super) struct Stream {
    caller: Caller,
    progress: Arc<Progress>,
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

/// What has been published on the stream, and to whom.
struct State {
    caller: Caller,
    peer: Peer,
    place: Place,
    publisher: Publisher,
    version: u64,
    needs: Needs,
}

impl Stream {
    pub(super) fn new(
        caller: Caller,
        requests: Streaming<ConfigRequest>,
        snapshots: Snapshots,
        progress: &Arc<Progress>,
    ) -> (Self, ReceiverStream<Result<ConfigResponse, Status>>) {
        let (responses, receiver) = mpsc::channel(2);
        let progress = Arc::clone(progress);
        (Self { caller, progress, requests, responses, snapshots }, ReceiverStream::new(receiver))
    }

    /// Serves the stream to its end, or for as long as this replica leads.
    pub(super) async fn serve(mut self, mut leads: watch::Receiver<Leadership>, stop: CancellationToken) {
        let caller = self.caller.clone();
        tracing::info!(%caller, "a proxy connected");
        let end = tokio::select! {
            end = self.run() => end,
            status = leadership::lost(&mut leads) => End::Told(status),
            () = stop.cancelled() => End::Told(Status::unavailable("the controller is stopping")),
        };
        match end {
            End::Gone => tracing::info!(%caller, "a proxy went away"),
            End::Told(status) => {
                tracing::info!(%caller, code = ?status.code(), why = status.message(), "ended a proxy's stream");
                // A proxy that reads nothing more is not waited for.
                let _ = self.responses.try_send(Err(status));
            }
        }
    }

    async fn run(&mut self) -> End {
        let ended = async {
            let hello = self.greeting().await?;
            let peer = self.admit(&hello).await?;
            let publisher = Publisher::hello(&hello.bucket_digests)?;
            let (caller, needs) = (self.caller.clone(), Needs::default());
            let place = self.progress.open(peer.clone());
            let mut state = State { caller, peer, place, publisher, version: 0, needs };
            self.snapshots.mark_changed();
            loop {
                let responses = tokio::select! {
                    changed = self.snapshots.changed() => match changed {
                        Ok(()) => state.publish(&self.newest())?,
                        Err(_) => return Err::<(), End>(End::Told(Status::unavailable("the controller is stopping"))),
                    },
                    request = self.requests.next() => state.take(request)?,
                };
                state.place.sent(state.version);
                state.place.in_force(state.publisher.in_force());
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
        match first.transpose().map_err(|_| End::Gone)?.map(|request| request.request) {
            Some(Some(Request::Hello(hello))) => Ok(hello),
            Some(_) => Err(End::Told(Status::invalid_argument("the first message has to be a greeting"))),
            None => Err(End::Gone),
        }
    }

    /// Whose proxy greets; it must have proved that.
    async fn admit(&mut self, hello: &Hello) -> Result<Peer, End> {
        let denied = |why: String| End::Told(Status::permission_denied(why));
        let caller = &self.caller;
        match whose(hello) {
            Some(peer @ Peer::Node(_)) if is(caller, &peer) => Ok(peer),
            Some(peer @ Peer::Gateway(_)) if !matches!(caller, Caller::Node(_)) => {
                let Peer::Gateway(name) = &peer else { return Err(End::Gone) };
                // A Gateway's pod may be faster than the news of the Gateway.
                let known = |snapshot: &Option<Arc<Snapshot>>| {
                    snapshot.as_ref().is_some_and(|snapshot| snapshot.gateway_identity(name).is_some())
                };
                match tokio::time::timeout(KNOWN, self.snapshots.wait_for(known)).await {
                    Ok(Ok(snapshot)) if may_serve(&snapshot, caller, name) => Ok(peer.clone()),
                    Ok(Err(_)) => Err(End::Told(Status::unavailable("the controller is stopping"))),
                    _ => Err(denied(format!("{caller} is not who the proxies of {peer} are"))),
                }
            }
            Some(peer) => Err(denied(format!("the greeting is from {peer}, but the proof from {caller}"))),
            None => Err(denied(format!(
                "the greeting has to name a node or a Gateway (NAMESPACE/NAME), and not both: it names node {:?} and Gateway {:?}",
                hello.node, hello.gateway
            ))),
        }
    }
}

/// Whose proxy a greeting says it is from.
fn whose(hello: &Hello) -> Option<Peer> {
    match (hello.node.as_str(), hello.gateway.as_str()) {
        (node, "") => Some(Peer::Node(node.into())),
        ("", gateway) => gateway.parse().ok().map(Peer::Gateway),
        _ => None,
    }
}

fn is(caller: &Caller, peer: &Peer) -> bool {
    match (caller, peer) {
        (Caller::Node(node), Peer::Node(name)) => *node.name == **name,
        _ => false,
    }
}

/// Whether the caller is a proxy of this Gateway.
fn may_serve(snapshot: &Option<Arc<Snapshot>>, caller: &Caller, gateway: &ObjectName) -> bool {
    let identity = snapshot.as_ref().and_then(|snapshot| snapshot.gateway_identity(gateway));
    match (caller, identity) {
        (Caller::Workload(own), Some(identity)) => own == identity,
        (Caller::Gateway(own), Some(_)) => own == gateway,
        _ => false,
    }
}

impl State {
    fn take(&mut self, request: Option<Result<ConfigRequest, Status>>) -> Result<Vec<ConfigResponse>, End> {
        match request.transpose().map_err(|_| End::Gone)?.map(|request| request.request) {
            Some(Some(Request::Ack(ack))) => {
                self.place.acknowledged(jiff::Timestamp::now());
                self.note(&ack);
                Ok(self.publisher.ack(ack)?)
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
            let peer = &self.peer;
            tracing::warn!(%peer, ?rejections, "a proxy refuses for resources it cannot decode");
        }
    }

    /// Sends what the proxy needs of a snapshot and does not have. Nothing as long as there is none.
    fn publish(&mut self, snapshot: &Option<Arc<Snapshot>>) -> Result<Vec<ConfigResponse>, DeltaError> {
        let Some(newest) = snapshot else { return Ok(Vec::new()) };
        if newest.version() == self.version {
            return Ok(Vec::new());
        }
        let needs = match &self.peer {
            // One that is not its own any more is taken back whole.
            Peer::Gateway(name) if !may_serve(snapshot, &self.caller, name) => Needs::Gateway(None),
            peer => newest.needs(peer),
        };
        let changes = newest.changes(self.version, &needs).filter(|_| needs == self.needs);
        let responses = match changes {
            Some(changes) => self.publisher.publish_changes(newest.version(), changes)?,
            None => self.publisher.publish(newest.version(), &newest.whole(&needs))?,
        };
        (self.version, self.needs) = (newest.version(), needs);
        Ok(responses)
    }
}
