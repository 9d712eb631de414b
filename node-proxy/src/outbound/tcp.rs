//! Byte streams of enrolled pods, and of a Gateway's listeners: an endpoint is chosen per connection, a failed connect tries one other, and the
//! bytes are relayed with half-close and reset as they are.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::route::Backend;
use weft_model::service::PortProtocol;
use weft_routing::{ListenerEntry, StreamRule};

use super::balance::InFlight;
use super::detect::{self, Speaks};
use super::http::refusal::Refused;
use super::near::Near;
use super::obey::{Obeying, Streamed};
use super::origin::Origin;
use super::route::{Target, backend_of};
use super::tls;
use crate::call::{Captured, Destination, Selected};
use crate::listen::{self, Leaving};
use crate::relay::{Duplex as _, How, RelayEnd, relay};
use crate::send::{self, ByteStream, SendError};
use crate::state::Snapshot;
use crate::telemetry::{AtListener, Named, Outcome, Party, Protocol, RuleName};
use crate::tunnel::trusted::is_distrust;
use crate::worker::WorkerRef;

/// Tries towards different endpoints before a connection is given up.
const TRIES: u32 = 2;
/// Connecting takes long after this: it waits for a certificate, or for an endpoint that does not answer.
const LONG: Duration = Duration::from_millis(100);
/// Of a server that speaks first, so much is taken before the relay begins.
const FIRST_ANSWER: usize = 4096;

/// A connection that is decided about as a whole, and what has become of it so far.
pub struct Connection<'w> {
    /// Who carries it.
    pub worker: &'w WorkerRef,
    /// The caller's side.
    pub stream: Near,
    /// What will be told of it.
    pub outcome: Outcome,
    origin: Origin,
    destination: Destination,
    snapshot: Arc<Snapshot>,
    begun: Instant,
    /// Once a rule has chosen a Service, that one's own routes decide.
    obeys: bool,
}

/// The other side, connected.
struct Upstream {
    stream: ByteStream,
    in_flight: InFlight,
}

impl<'w> Connection<'w> {
    /// Begins the account of a captured connection.
    pub fn new(worker: &'w WorkerRef, captured: Captured, begun: Instant) -> Self {
        let origin = Origin::captured(&captured);
        let Captured { original, destination, snapshot, stream, .. } = captured;
        let mut outcome = origin.outcome(&snapshot, Protocol::Tcp);
        outcome.destination_address = Some(original);
        match &destination {
            Destination::Service { service, port, .. } => {
                outcome.labels.service = Some(Named::Known((service.name.clone(), *port)));
            }
            Destination::Workload { workload, .. } => {
                outcome.labels.destination = Party::Workload(workload.clone());
            }
            Destination::External | Destination::Unknown => {}
        }
        let stream = Near::Tcp(stream);
        Self { worker, stream, outcome, origin, destination, snapshot, begun, obeys: false }
    }

    /// Begins the account of a connection at a Gateway.
    pub fn at_gateway(
        worker: &'w WorkerRef,
        (origin, stream): (Origin, Near),
        snapshot: Arc<Snapshot>,
        entry: &Arc<ListenerEntry>,
        begun: Instant,
    ) -> Self {
        let protocol = match &stream {
            Near::Tls(_) => Protocol::Tls,
            Near::Tcp(_) => Protocol::Tcp,
        };
        let mut outcome = origin.outcome(&snapshot, protocol);
        outcome.labels.listener = Some(AtListener(Arc::clone(entry)));
        outcome.destination_address = Some(origin.dialled());
        let (destination, obeys) = (Destination::Unknown, entry.listener.service_routes);
        Self { worker, stream, outcome, origin, destination, snapshot, begun, obeys }
    }

    /// Follows a rule of a TCPRoute or TLSRoute. `first` is what was read of the caller already.
    pub async fn follow(mut self, rule: &StreamRule, mut first: BytesMut) {
        let labels = &mut self.outcome.labels;
        labels.route = Some(Named::Known(rule.route.id.clone()));
        labels.rule = Some(rule.name.clone().map_or(RuleName::Index(rule.index), RuleName::Name));
        if let Some(refusal) = &rule.refusal {
            return self.refuse(&Refused::new(Reason::InvalidRoute, &*refusal.message));
        }
        let backend: Option<&Backend> = rule.next_backend();
        let snapshot = self.snapshot.clone();
        let target = match backend_of(&snapshot, backend) {
            Ok(target) => {
                self.outcome.labels.backend = target.service.clone();
                match self.obeys {
                    // Boxed: few connections go on so, and all would carry its size.
                    true => Box::pin(self.at_service(&snapshot, target, rule, &mut first)).await,
                    false => Ok(target),
                }
            }
            Err(refused) => Err(refused),
        };
        match target {
            Ok(mut target) => {
                if self.passes_tls() {
                    target.tls = None;
                }
                self.forward(&target, first).await;
            }
            Err(refused) => self.refuse(&refused),
        }
    }

    /// Where the routes of the Service that `rule` has chosen lead; where it has none, its endpoints.
    async fn at_service<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        target: Target<'s>,
        rule: &StreamRule,
        first: &mut BytesMut,
    ) -> Result<Target<'s>, Refused> {
        let sender = Arc::clone(&self.origin.sender);
        let obeying = Obeying { snapshot, namespace: &sender.enrolled.pod.namespace, after: &rule.route.id };
        let labels = &mut self.outcome.labels;
        let decides = match obeying.stream(&target, labels)? {
            Streamed::Nothing => None,
            Streamed::Rule(rule) => Some(rule),
            Streamed::ByServerName(table) => {
                obeying.other(tls::by_server_name(table, &mut self.stream, first).await?)
            }
        };
        decides.map_or(Ok(target), |rule| obeying.follow(PortProtocol::Tcp, rule, labels))
    }

    /// Passes the connection on as it is, to the endpoints of what was dialled.
    pub async fn pass(self, first: BytesMut) {
        let snapshot = self.snapshot.clone();
        let target = self.plain_target(&snapshot);
        self.forward(&target, first).await;
    }

    /// The caller's own TLS goes on to the backend: it is what a policy would ask for.
    fn passes_tls(&self) -> bool {
        self.outcome.labels.protocol == Protocol::Tls && matches!(self.stream, Near::Tcp(_))
    }

    /// It is HTTP after all. Each request tells its own outcome, the connection none.
    pub async fn speak_http(self, first: BytesMut) {
        let Self { worker, stream, origin, .. } = self;
        match stream {
            Near::Tcp(stream) => super::http::serve(worker, origin, stream, first.freeze()).await,
            Near::Tls(stream) => super::http::serve(worker, origin, stream, first.freeze()).await,
        }
    }

    fn plain_target<'s>(&self, snapshot: &'s Snapshot) -> Target<'s> {
        let workload = match &self.destination {
            Destination::Service { service, port, protocol } => {
                return Target::service(snapshot, &service.name, *port, *protocol);
            }
            Destination::Workload { workload, .. } => Some(workload.uid.clone()),
            Destination::External | Destination::Unknown => None,
        };
        Target::address(self.origin.dialled(), workload)
    }

    async fn forward(mut self, target: &Target<'_>, first: BytesMut) {
        match self.connect(target).await {
            Ok(upstream) => self.relay(upstream, &first, &[]).await,
            Err(refused) => self.refuse(&refused),
        }
    }

    /// Connects to an endpoint, or to one other if the first one fails.
    async fn connect(&mut self, target: &Target<'_>) -> Result<Upstream, Refused> {
        let mut tried = Vec::new();
        let mut failure = None;
        for _ in 0..TRIES {
            let (family, now) = (self.origin.family(), Instant::now());
            let balancer = &self.worker.balancer;
            let picked = match self.origin.kept_endpoints() {
                Some(kept) => kept.pick(balancer, target, family, &tried, now),
                None => balancer.pick(&target.endpoints, family, &tried, now),
            };
            let Some(picked) = picked else { break };
            tried.push(picked.endpoint.address);
            self.outcome.attempts += 1;
            let source = self.outcome.labels.source.as_pod();
            let selected = Selected::of(picked.endpoint, target, &self.snapshot, source);
            self.describe(&selected);
            let connect =
                Box::pin(send::connect_bytes(self.worker, &self.origin.sender, self.origin.peer, &selected));
            let connected = tokio::select! {
                biased;
                connected = connect => connected,
                () = caller_left(self.stream.tcp()) => {
                    return Err(Refused::new(Reason::DownstreamReset, "the caller left before it was connected"));
                }
            };
            match connected {
                Ok(stream) => return Ok(Upstream { stream, in_flight: picked.in_flight }),
                Err(SendError { reason, message, .. }) => {
                    picked.in_flight.failed(Instant::now());
                    failure = Some(Refused::new(reason, message));
                }
            }
        }
        // Only the log sees it: the caller is reset.
        let conflict = || Some(Refused::new(Reason::AddressConflict, target.conflict()?));
        Err(failure.or_else(conflict).unwrap_or_else(|| target.refusal()))
    }

    fn describe(&mut self, selected: &Selected) {
        self.outcome.destination_address = Some(selected.address);
        self.outcome.labels.destination = Party::of(selected.workload.clone());
        self.outcome.labels.security = selected.security();
    }

    /// Joins both sides. `first` and `answer` were read of caller and callee already.
    async fn relay(mut self, upstream: Upstream, first: &[u8], answer: &[u8]) {
        let Upstream { stream: mut far, in_flight } = upstream;
        let written = async {
            far.write_all(first).await.map_err(How::SecondFailed)?;
            self.stream.write_all(answer).await.map_err(How::FirstFailed)?;
            // TLS holds back what it was given.
            far.flush().await.map_err(How::SecondFailed)?;
            self.stream.flush().await.map_err(How::FirstFailed)
        };
        let Self { origin, mut outcome, begun, worker, stream: near, .. } = match written.await {
            Ok(()) => self,
            Err(how) => {
                self.stream.reset_on_drop();
                far.reset_on_drop();
                return self.tell(&RelayEnd { from_first: 0, from_second: 0, how });
            }
        };
        let mut end = relay(near, far, None, origin.scope.ended.cancelled()).await;
        drop(in_flight);
        end.from_first += first.len() as u64;
        end.from_second += answer.len() as u64;
        account(&mut outcome, &end, begun);
        worker.shared.telemetry.record(&outcome);
    }

    /// Resets the caller and says why.
    pub fn refuse(mut self, refused: &Refused) {
        self.stream.reset_on_drop();
        self.outcome.labels.reason = refused.reason;
        self.outcome.message = Some(refused.message.as_str().into());
        self.outcome.duration = self.begun.elapsed();
        self.worker.shared.telemetry.record(&self.outcome);
    }

    /// The caller went away before anything was decided.
    pub fn caller_failed(self, error: &std::io::Error) {
        self.refuse(&Refused::new(Reason::DownstreamReset, error.to_string()));
    }

    fn tell(mut self, end: &RelayEnd) {
        account(&mut self.outcome, end, self.begun);
        self.worker.shared.telemetry.record(&self.outcome);
    }
}

/// Completes when the caller has reset its connection. Looked at only once connecting takes long.
async fn caller_left(stream: &TcpStream) {
    tokio::time::sleep(LONG).await;
    listen::left(stream, Leaving::Reset).await;
}

fn account(outcome: &mut Outcome, end: &RelayEnd, begun: Instant) {
    outcome.request_bytes = end.from_first;
    outcome.response_bytes = end.from_second;
    outcome.duration = begun.elapsed();
    let (reason, message) = match &end.how {
        How::Finished => (Reason::Ok, None),
        How::FirstFailed(error) => (Reason::DownstreamReset, Some(error.to_string())),
        How::SecondFailed(error) if is_distrust(error) => (Reason::TrustEnded, Some(error.to_string())),
        How::SecondFailed(error) => (Reason::UpstreamReset, Some(error.to_string())),
        How::Idle | How::Stopped => (Reason::Draining, None),
    };
    outcome.labels.reason = reason;
    outcome.message = message.map(Into::into);
}

/// The caller has not spoken in time, perhaps because the server speaks first: that one is dialled. Whoever speaks
/// first now decides what the connection is.
pub async fn dial_while_peeking(mut connection: Connection<'_>, mut first: BytesMut) {
    let snapshot = connection.snapshot.clone();
    let target = connection.plain_target(&snapshot);
    let mut upstream = match connection.connect(&target).await {
        Ok(upstream) => upstream,
        Err(refused) => return connection.refuse(&refused),
    };
    let pause = connection.worker.shared.config.peek;
    let mut answer = BytesMut::with_capacity(FIRST_ANSWER);
    tokio::select! {
        biased;
        read = upstream.stream.read_buf(&mut answer) => match read {
            // Also the server's end: the relay will see it again.
            Ok(_) => connection.relay(upstream, &first, &answer).await,
            Err(error) => connection.refuse(&Refused::new(Reason::UpstreamReset, error.to_string())),
        },
        speaks = detect::first_bytes_or_pause(&mut connection.stream, &mut first, pause) => match speaks {
            Ok(Speaks::Http) => {
                drop(upstream);
                connection.speak_http(first).await;
            }
            Ok(Speaks::Other) => connection.relay(upstream, &first, &answer).await,
            Err(error) => connection.caller_failed(&error),
        },
    }
}
