//! One flow: its socket towards the endpoint, the task that carries answers back, and what is told of it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use weft_model::{ObjectName, Reason};

use super::flows::Answers;
use super::route::FlowRoute;
use crate::outbound::balance::InFlight;
use crate::state::Snapshot;
use crate::telemetry::Outcome;
use crate::worker::Worker;

/// A refused flow is decided about again after so long.
const REFUSED: Duration = Duration::from_secs(1);
/// Answers carried before others have their turn.
const TURN: u32 = 32;

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    way: Way,
    begun: Instant,
}

#[derive(Debug)]
enum Way {
    Refused,
    Open { upstream: Box<Upstream>, outcome: Box<Outcome> },
}

/// The endpoint's side.
#[derive(Debug)]
pub(super) struct Upstream {
    socket: Rc<UdpSocket>,
    endpoint: SocketAddr,
    /// The Service port that the endpoint is of.
    backend: Option<(ObjectName, u16)>,
    /// The configuration in which the endpoint was last seen to be one that may be chosen.
    seen: u64,
    answers: Rc<Account>,
    answering: Option<AbortHandle>,
}

/// What both directions know.
#[derive(Debug)]
struct Account {
    begun: Instant,
    sent: Cell<u64>,
    received: Cell<u64>,
    last: Cell<Option<Instant>>,
    failed: RefCell<Option<String>>,
    in_flight: InFlight,
}

impl Flow {
    /// One whose endpoint is connected.
    pub(super) fn new(upstream: Upstream, outcome: Outcome, now: Instant) -> Self {
        Self { way: Way::Open { upstream: Box::new(upstream), outcome: Box::new(outcome) }, begun: now }
    }

    /// One that is told of already: its datagrams are dropped for a moment.
    pub(super) const fn refused(now: Instant) -> Self {
        Self { way: Way::Refused, begun: now }
    }

    /// Whether it goes on as it is, `route` being what decides now. If not it is to be decided about anew: its endpoint
    /// refused it or is no longer one that may be chosen.
    pub(super) fn holds<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        now: Instant,
        route: impl FnOnce() -> Option<FlowRoute<'s>>,
    ) -> bool {
        match &mut self.way {
            Way::Refused => now < self.begun + REFUSED,
            Way::Open { upstream, .. } => {
                upstream.answers.failed.borrow().is_none() && upstream.is_there(snapshot, route)
            }
        }
    }

    /// Sends a datagram of the client. What finds no room is lost, as on any way of UDP.
    pub(super) fn send(&self, bytes: &[u8]) {
        let Way::Open { upstream, .. } = &self.way else { return };
        // Past tokio, which would first wait to be told that a fresh socket can be written to.
        match SockRef::from(&*upstream.socket).send(bytes) {
            Ok(sent) => upstream.answers.sent.set(upstream.answers.sent.get() + sent as u64),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => upstream.answers.fail(&error),
        }
    }

    /// Ends it and tells what became of it.
    pub(super) fn end(self, worker: &Worker) {
        let Way::Open { upstream, mut outcome } = self.way else { return };
        let account = &upstream.answers;
        outcome.request_bytes = account.sent.get();
        outcome.response_bytes = account.received.get();
        let last = account.last.get().map_or(self.begun, |last| last.max(self.begun));
        outcome.duration = last.saturating_duration_since(self.begun);
        let failed = account.failed.take();
        outcome.labels.reason = if failed.is_some() { Reason::ConnectFailed } else { Reason::Ok };
        outcome.message = failed.map(Into::into);
        worker.shared.telemetry.record(&outcome);
    }
}

impl Answers for Flow {
    fn last_answer(&self) -> Option<Instant> {
        match &self.way {
            Way::Refused => None,
            Way::Open { upstream, .. } => upstream.answers.last.get(),
        }
    }
}

impl Upstream {
    /// `version`: of the configuration that the endpoint was chosen from.
    pub(super) fn new(
        socket: UdpSocket,
        endpoint: SocketAddr,
        backend: Option<(ObjectName, u16)>,
        in_flight: InFlight,
        version: u64,
    ) -> Self {
        let answers = Account {
            begun: Instant::now(),
            sent: Cell::default(),
            received: Cell::default(),
            last: Cell::default(),
            failed: RefCell::default(),
            in_flight,
        };
        let (socket, answers) = (Rc::new(socket), Rc::new(answers));
        Self { socket, endpoint, backend, seen: version, answers, answering: None }
    }

    /// Begins to carry answers to `client`, sent by `from`; `buffer` is shared by all flows.
    pub(super) fn answer(&mut self, from: Rc<UdpSocket>, client: SocketAddr, buffer: Rc<RefCell<Vec<u8>>>) {
        let (socket, account) = (Rc::clone(&self.socket), Rc::clone(&self.answers));
        let task = tokio::task::spawn_local(async move {
            let carried = carry(&socket, &from, client, &buffer, &account).await;
            if let Err(error) = carried {
                account.fail(&error);
            }
        });
        self.answering = Some(task.abort_handle());
    }

    /// Looks only when the configuration has changed.
    fn is_there<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        route: impl FnOnce() -> Option<FlowRoute<'s>>,
    ) -> bool {
        if self.seen == snapshot.version {
            return true;
        }
        let Some(backend) = &self.backend else { return false };
        let mut endpoints = snapshot.udp_endpoints(&backend.0, backend.1).iter();
        let there = endpoints.any(|one| one.ready && one.address == self.endpoint)
            && route().is_some_and(|route| route.leads_to(snapshot, backend));
        if there {
            self.seen = snapshot.version;
        }
        there
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(task) = &self.answering {
            task.abort();
        }
    }
}

impl Account {
    fn fail(&self, error: &std::io::Error) {
        self.in_flight.failed(Instant::now());
        self.failed.borrow_mut().get_or_insert_with(|| error.to_string());
    }

    fn answered(&self, bytes: usize, now: Instant) {
        if self.last.replace(Some(now)).is_none() {
            self.in_flight.answered(now - self.begun, now);
        }
        self.received.set(self.received.get() + bytes as u64);
    }
}

/// Carries answers for ever.
async fn carry(
    socket: &UdpSocket,
    from: &UdpSocket,
    client: SocketAddr,
    buffer: &RefCell<Vec<u8>>,
    account: &Account,
) -> std::io::Result<()> {
    loop {
        socket.readable().await?;
        for _ in 0..TURN {
            let mut buffer = buffer.borrow_mut();
            let length = match socket.try_recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            account.answered(length, Instant::now());
            // A client that does not take it, or is gone, is no fault of the endpoint.
            let _ = SockRef::from(from).send_to(buffer.get(..length).unwrap_or_default(), &client.into());
        }
        tokio::task::yield_now().await;
    }
}
