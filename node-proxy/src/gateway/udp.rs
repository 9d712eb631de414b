//! UDP listeners. The datagrams of one caller's address and port are a flow: it has one backend, chosen by weight when it
//! begins, and ends when nothing has passed for a while. Backends are reached in plaintext: UDP is not in the mesh.
//!
//! A port is open only while a route can be followed there, so that the kernel refuses what comes too early (ICMP).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use weft_model::route::{Backend, BackendTarget};
use weft_model::{ObjectName, Reason};
use weft_routing::{ListenerEntry, StreamRule};

use crate::outbound::balance::InFlight;
use crate::outbound::http::refusal::Refused;
use crate::pod::LocalPod;
use crate::scope::{Admission, Scope};
use crate::state::Snapshot;
use crate::telemetry::{AtListener, Labels, Named, Outcome, Party, Protocol, Reporter, RuleName, Security};
use crate::worker::WorkerRef;

/// After so long without a datagram in either direction a flow has ended.
const IDLE: Duration = Duration::from_secs(30);
/// The largest datagram.
const LARGEST: usize = 64 * 1024;

/// One worker's socket of a UDP port. The kernel gives all datagrams of a flow to one of them.
#[derive(Debug)]
pub(crate) struct DatagramPort {
    pub(crate) pod: Arc<LocalPod>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) socket: std::net::UdpSocket,
    pub(crate) number: u16,
}

/// The flows of one worker on one port.
struct Flows {
    worker: WorkerRef,
    pod: Arc<LocalPod>,
    scope: Arc<Scope>,
    socket: UdpSocket,
    number: u16,
    by_caller: RefCell<HashMap<SocketAddr, Rc<Flow>>>,
}

/// A flow.
struct Flow {
    backend: (ObjectName, u16),
    endpoint: SocketAddr,
    socket: UdpSocket,
    /// The configuration that its backend was found to be good in.
    version: Cell<u64>,
    last: Cell<Instant>,
    outcome: RefCell<Outcome>,
    _admission: Admission,
    _in_flight: InFlight,
}

thread_local! {
    /// Where a worker's flows read into, one after the other.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into());
}

/// Serves a port until its scope no longer accepts; its flows end then.
pub(crate) async fn serve(worker: WorkerRef, port: DatagramPort) {
    let DatagramPort { pod, scope, socket, number } = port;
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(port = number, %error, "cannot watch a UDP port"),
    };
    let by_caller = RefCell::default();
    let flows = Rc::new(Flows { worker, pod, scope: Arc::clone(&scope), socket, number, by_caller });
    let receive = async {
        loop {
            if flows.socket.readable().await.is_ok() {
                SCRATCH.with_borrow_mut(|scratch| flows.receive(scratch));
                // Others get their turn.
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        biased;
        () = scope.accepting.cancelled() => {}
        () = receive => {}
    }
    // Each flow's own task holds the socket; without a flow there is none.
    flows.by_caller.borrow_mut().clear();
    flows.scope.ended.cancel();
}

impl Flows {
    /// Takes what has come, up to a turn's worth.
    fn receive(self: &Rc<Self>, scratch: &mut [u8]) {
        for _ in 0..64 {
            match self.socket.try_recv_from(scratch) {
                Ok((length, caller)) => {
                    self.forward(scratch.get(..length).unwrap_or_default(), caller);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // News of an earlier reply that a caller did not take.
                Err(_) => {}
            }
        }
    }

    fn forward(self: &Rc<Self>, datagram: &[u8], caller: SocketAddr) {
        let snapshot = self.worker.shared.snapshot.load_full();
        let flow = match self.known(&snapshot, caller) {
            Some(flow) => flow,
            None => match self.begin(&snapshot, caller) {
                Ok(flow) => flow,
                Err(outcome) => return self.worker.shared.telemetry.record(&outcome),
            },
        };
        flow.last.set(Instant::now());
        // What the kernel does not take now is lost, as it may be anywhere on the way.
        if SockRef::from(&flow.socket).send(datagram).is_ok() {
            flow.outcome.borrow_mut().request_bytes += datagram.len() as u64;
        }
    }

    /// The caller's flow, if its endpoint may still be used.
    fn known(&self, snapshot: &Snapshot, caller: SocketAddr) -> Option<Rc<Flow>> {
        let flow = self.by_caller.borrow().get(&caller).cloned()?;
        if flow.version.get() != snapshot.version {
            let listener = snapshot.udp_listener(self.number);
            let rule = listener.and_then(|entry| entry.table.stream());
            if !rule.is_some_and(|rule| flow.is_good(rule, snapshot)) {
                self.by_caller.borrow_mut().remove(&caller);
                return None;
            }
            flow.version.set(snapshot.version);
        }
        Some(flow)
    }

    fn begin(
        self: &Rc<Self>,
        snapshot: &Arc<Snapshot>,
        caller: SocketAddr,
    ) -> Result<Rc<Flow>, Box<Outcome>> {
        let peer = SocketAddr::new(caller.ip().to_canonical(), caller.port());
        let labels = Labels::new(Reporter::Gateway, Party::Unknown, Protocol::Udp, Security::None);
        let mut outcome = Box::new(Outcome { source_address: Some(peer), ..Outcome::new(labels) });
        match self.open(snapshot, &mut outcome) {
            Ok(flow) => {
                let flow = Rc::new(flow);
                self.by_caller.borrow_mut().insert(caller, Rc::clone(&flow));
                tokio::task::spawn_local(replies(Rc::clone(self), Rc::clone(&flow), caller));
                Ok(flow)
            }
            Err(refused) => {
                outcome.labels.reason = refused.reason;
                outcome.message = Some(refused.message.into());
                Err(outcome)
            }
        }
    }

    fn open(&self, snapshot: &Snapshot, outcome: &mut Outcome) -> Result<Flow, Refused> {
        let admission = self.scope.admit(self.worker.shared.config.max_connections_per_pod);
        let admission =
            admission.ok_or_else(|| Refused::new(Reason::Overloaded, "too many UDP flows are open"))?;
        let entry = snapshot.udp_listener(self.number);
        let entry = entry.ok_or_else(|| Refused::new(Reason::Draining, "the listener has been removed"))?;
        outcome.labels.listener = Some(AtListener(Arc::clone(entry)));
        let rule = followed(entry).map_err(|why| Refused::new(Reason::InvalidRoute, why))?;
        outcome.labels.route = Some(Named::Known(rule.route.id.clone()));
        outcome.labels.rule = Some(rule.name.clone().map_or(RuleName::Index(rule.index), RuleName::Name));
        let backend = service_of(rule.next_backend())?;
        outcome.labels.backend = Some(backend.clone());
        let endpoints = snapshot.udp_endpoints(&backend.0, backend.1);
        let own = self.pod.enrolled.addresses.first().copied();
        let family = own.unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into());
        let picked = self.worker.balancer.pick(endpoints, family, &[], Instant::now());
        let picked = picked.ok_or_else(|| {
            let message = format!("UDP port {} of Service {} has no ready endpoint", backend.1, backend.0);
            Refused::new(Reason::NoEndpoints, message)
        })?;
        let endpoint = picked.endpoint.address;
        outcome.destination_address = Some(endpoint);
        outcome.labels.destination =
            Party::of(picked.endpoint.workload.as_ref().and_then(|uid| snapshot.workload(uid)));
        outcome.labels.security = Security::Plaintext;
        outcome.attempts = 1;
        let socket = connected(endpoint)
            .map_err(|error| Refused::new(Reason::ConnectFailed, format!("{endpoint}: {error}")))?;
        Ok(Flow {
            backend,
            endpoint,
            socket,
            version: Cell::new(snapshot.version),
            last: Cell::new(Instant::now()),
            outcome: RefCell::new(outcome.clone()),
            _admission: admission,
            _in_flight: picked.in_flight,
        })
    }

    /// The flow has ended; its place is another's if the caller has begun a new one.
    fn forget(&self, flow: &Rc<Flow>, caller: SocketAddr) {
        let mut flows = self.by_caller.borrow_mut();
        if flows.get(&caller).is_some_and(|current| Rc::ptr_eq(current, flow)) {
            flows.remove(&caller);
        }
    }
}

impl Flow {
    /// Whether the flow's endpoint is one that a new flow could get.
    fn is_good(&self, rule: &StreamRule, snapshot: &Snapshot) -> bool {
        let still = |backend: &Backend| {
            backend.weight > 0 && service_of(Some(backend)).is_ok_and(|backend| backend == self.backend)
        };
        let endpoints = snapshot.udp_endpoints(&self.backend.0, self.backend.1);
        rule.backends().iter().any(still) && endpoints.iter().any(|e| e.ready && e.address == self.endpoint)
    }

    /// Sends the caller what the backend has answered. The error is the backend's refusal (ICMP).
    fn answer(&self, caller: SocketAddr, from: &UdpSocket) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            loop {
                let length = match self.socket.try_recv(scratch) {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                };
                self.last.set(Instant::now());
                let datagram = scratch.get(..length).unwrap_or_default();
                if SockRef::from(from).send_to(datagram, &caller.into()).is_ok() {
                    self.outcome.borrow_mut().response_bytes += length as u64;
                }
            }
        })
    }
}

/// Carries a flow's answers until it ends, and tells what became of it.
async fn replies(flows: Rc<Flows>, flow: Rc<Flow>, caller: SocketAddr) {
    let begun = Instant::now();
    let ended = flows.scope.ended.clone();
    let failed = loop {
        let idle = flow.last.get() + IDLE;
        tokio::select! {
            biased;
            () = ended.cancelled() => break None,
            ready = flow.socket.readable() => {
                if let Err(error) = ready.and_then(|()| flow.answer(caller, &flows.socket)) {
                    break Some(error);
                }
            }
            () = tokio::time::sleep_until(idle) => if flow.last.get() + IDLE <= Instant::now() { break None },
        }
    };
    flows.forget(&flow, caller);
    let mut outcome = flow.outcome.borrow().clone();
    outcome.duration = begun.elapsed();
    if let Some(error) = failed {
        outcome.labels.reason = Reason::ConnectFailed;
        outcome.message = Some(error.to_string().into());
    }
    flows.worker.shared.telemetry.record(&outcome);
}

/// The rule of a listener, if it can be followed.
///
/// # Errors
/// Why not, in words for the log.
pub(crate) fn followed(entry: &ListenerEntry) -> Result<&Arc<StreamRule>, String> {
    if let Some(refusal) = &entry.listener.refusal {
        return Err(refusal.message.to_string());
    }
    let rule = entry.table.stream().ok_or("no route is attached to the listener")?;
    match &rule.refusal {
        Some(refusal) => Err(refusal.message.to_string()),
        None => Ok(rule),
    }
}

fn service_of(backend: Option<&Backend>) -> Result<(ObjectName, u16), Refused> {
    match backend.map(|backend| &backend.target) {
        Some(BackendTarget::Service { service, port, .. }) => Ok((service.clone(), *port)),
        Some(BackendTarget::Invalid { message }) => Err(Refused::new(Reason::InvalidBackend, &**message)),
        None => Err(Refused::new(Reason::InvalidBackend, "the rule has no backend with a weight above 0")),
    }
}

fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
