//! UDP that routes lead somewhere: each flow follows its route once, goes to its endpoint as it is (UDP is not encrypted
//! and carries no identity), and its answers come from the address that the client sent to. Where the datagrams come from
//! is a [`Source`]: those of a pod are captured ([`captured`]), others reach a port of a Gateway.

pub(crate) mod captured;
mod flow;
mod flows;
mod route;

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior};
use weft_model::Reason;
use weft_model::workload::UDP_LABEL;
use weft_runtime::fd::Datagram;

use self::flow::{Flow, Upstream};
use self::flows::Flows;
pub(crate) use self::flows::Key;
pub(crate) use self::route::FlowRoute;
use crate::outbound::http::refusal::Refused;
use crate::pod::LocalPod;
use crate::scope::Scope;
use crate::state::Snapshot;
use crate::telemetry::{Outcome, Party, Security};
use crate::worker::{Worker, WorkerRef};

/// The longest datagram there is.
const LONGEST: usize = 65_535;
/// Flows of one source. Each has a socket; for one more the longest silent one goes.
const MAX_FLOWS: usize = 4_096;
/// How often silent flows are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// How long nothing is taken after the socket has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// One worker's socket that datagrams of clients come from.
pub(crate) trait Source {
    /// Whether its pod keeps the endpoints that `sessionAffinity` asks it to.
    const AFFINITY: bool;

    /// The pod that flows leave from.
    fn pod(&self) -> &Arc<LocalPod>;

    /// The next datagram, read into `buffer`; `None`: one that cannot be carried.
    async fn take(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>>;

    /// What is known of a flow before it is decided about.
    fn outcome(&self, worker: &Worker, snapshot: &Snapshot, key: Key) -> Outcome;

    /// What decides about a flow.
    ///
    /// # Errors
    /// Nothing does: the reason.
    fn route<'s>(&self, snapshot: &'s Snapshot, key: Key) -> Result<FlowRoute<'s>, Refused>;

    /// A socket that answers from the address that a flow was sent to.
    fn answering(&mut self, original: SocketAddr) -> io::Result<Rc<UdpSocket>>;
}

/// Carries the datagrams of `source` until `scope` no longer accepts; its flows end then.
pub(crate) async fn serve(worker: WorkerRef, scope: &Scope, source: impl Source) {
    let mut relay = Relay::new(worker, source);
    let mut buffer = vec![0; LONGEST];
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = scope.accepting.cancelled() => break,
            _ = sweep.tick() => relay.expire(Instant::now()),
            taken = relay.source.take(&mut buffer) => match taken {
                Ok(Some(datagram)) => {
                    relay.carry(datagram, buffer.get(..datagram.length).unwrap_or_default(), Instant::now());
                }
                Ok(None) => {}
                Err(error) => {
                    let pod = &relay.source.pod().enrolled.pod;
                    tracing::warn!(%pod, %error, "cannot take datagrams; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    relay.end();
}

/// What one source's datagrams are carried by.
struct Relay<S> {
    worker: WorkerRef,
    source: S,
    flows: Flows<Flow>,
    /// Where answers are read to: one datagram at a time.
    answer: Rc<RefCell<Vec<u8>>>,
}

impl<S: Source> Relay<S> {
    fn new(worker: WorkerRef, source: S) -> Self {
        Self { worker, source, flows: Flows::new(MAX_FLOWS), answer: Rc::new(RefCell::new(vec![0; LONGEST])) }
    }

    fn carry(&mut self, datagram: Datagram, bytes: &[u8], now: Instant) {
        let key = Key { client: datagram.from, original: datagram.to };
        let snapshot = self.worker.shared.snapshot.load_full();
        let source = &self.source;
        if let Some(flow) = self.flows.heard(&key, now)
            && flow.holds(&snapshot, now, || source.route(&snapshot, key).ok())
        {
            return flow.send(bytes);
        }
        if let Some(old) = self.flows.end(&key) {
            old.end(&self.worker);
        }
        let flow = self.begin(&snapshot, key, now);
        flow.send(bytes);
        if let Some(gone) = self.flows.begin(key, flow, now) {
            gone.end(&self.worker);
        }
    }

    /// Decides about a flow. One that is refused is told at once, and then kept for a moment, so that not each of its
    /// datagrams is.
    fn begin(&mut self, snapshot: &Arc<Snapshot>, key: Key, now: Instant) -> Flow {
        let mut outcome = self.source.outcome(&self.worker, snapshot, key);
        match self.connect(snapshot, key, &mut outcome, now) {
            Ok(upstream) => Flow::new(upstream, outcome, now),
            Err(refused) => {
                outcome.labels.reason = refused.reason;
                outcome.message = Some(refused.message.as_str().into());
                self.worker.shared.telemetry.record(&outcome);
                Flow::refused(now)
            }
        }
    }

    fn connect(
        &mut self,
        snapshot: &Arc<Snapshot>,
        key: Key,
        outcome: &mut Outcome,
        now: Instant,
    ) -> Result<Upstream, Refused> {
        let target = self.source.route(snapshot, key)?.target(snapshot, &mut outcome.labels)?;
        let (balancer, dialled) = (&self.worker.balancer, key.original.ip());
        let picked = if S::AFFINITY {
            self.source.pod().kept_endpoints.pick(balancer, &target, dialled, &[], now)
        } else {
            balancer.pick(&target.endpoints, dialled, &[], now)
        };
        let picked = picked.ok_or_else(|| target.refusal())?;
        let endpoint = picked.endpoint.address;
        outcome.attempts = 1;
        outcome.destination_address = Some(endpoint);
        let workload = picked.endpoint.workload.as_deref().and_then(|uid| snapshot.workload(uid));
        let refuses = workload.as_ref().filter(|workload| workload.refuses_udp).map(|workload| {
            let message =
                format!("pod {} takes no UDP from routes (label {UDP_LABEL}: refuse)", workload.pod);
            Refused::new(Reason::PlaintextRefused, message)
        });
        outcome.labels.destination = Party::of(workload);
        if let Some(refused) = refuses {
            return Err(refused);
        }
        outcome.labels.security = Security::Plaintext;
        let failed =
            |what: &str, error: io::Error| Refused::new(Reason::ConnectFailed, format!("{what}: {error}"));
        let socket = self.source.pod().datagrams_to(endpoint).and_then(UdpSocket::from_std);
        let socket = socket.map_err(|error| failed(&format!("no socket towards {endpoint}"), error))?;
        let answering = self.source.answering(key.original);
        let answering = answering.map_err(|error| failed("no socket to answer from", error))?;
        let backend = target.service.clone();
        let mut upstream = Upstream::new(socket, endpoint, backend, picked.in_flight, snapshot.version);
        upstream.answer(answering, key.client, Rc::clone(&self.answer));
        Ok(upstream)
    }

    fn expire(&mut self, now: Instant) {
        for flow in self.flows.expire(now) {
            flow.end(&self.worker);
        }
    }

    fn end(mut self) {
        for flow in self.flows.clear() {
            flow.end(&self.worker);
        }
    }
}
