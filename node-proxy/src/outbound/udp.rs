//! UDP of enrolled pods to Service ports with a UDPRoute: each flow follows the route once, goes to its endpoint as it is
//! (UDP is not encrypted and carries no identity), and its answers come from the address that the client sent to.
//!
//! nft's `tproxy` gives the datagrams of a pod to one socket for each address family, which one worker serves alone.

mod flow;
mod flows;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior};
use weft_model::Reason;
use weft_model::route::RouteId;
use weft_model::service::PortProtocol;
use weft_model::workload::UDP_LABEL;
use weft_routing::Table;
use weft_runtime::fd::{self, Datagram};

use self::flow::{Flow, Upstream};
use self::flows::{Flows, Key};
use crate::call::Listener;
use crate::listen;
use crate::outbound::http::refusal::Refused;
use crate::outbound::route::{Target, backend_on};
use crate::pod::LocalPod;
use crate::state::Snapshot;
use crate::telemetry::{Named, Outcome, Party, Protocol, RuleName, Security};
use crate::worker::WorkerRef;

/// The longest datagram there is.
const LONGEST: usize = 65_535;
/// Flows of one pod and address family. Each has a socket; for one more the longest silent one goes.
const MAX_FLOWS: usize = 4_096;
/// How often silent flows are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// How long nothing is taken after the socket has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// A pod's socket for captured datagrams, to be served until the pod's `accepting` is cancelled.
#[derive(Debug)]
pub(crate) struct PodSocket {
    pod: Arc<LocalPod>,
    socket: std::net::UdpSocket,
    /// Dropped when the socket is closed.
    open: Arc<()>,
}

impl PodSocket {
    /// Opens one for each address family that the pod has.
    ///
    /// # Errors
    /// When the port is taken or the pod has ended.
    pub(crate) fn open(pod: &Arc<LocalPod>, open: &Arc<()>) -> std::io::Result<Vec<Self>> {
        let v6 = pod.enrolled.ipv6.then_some(Ipv6Addr::UNSPECIFIED.into());
        let families = [Some(Ipv4Addr::UNSPECIFIED.into()), v6];
        let open = |any| {
            let socket = pod.captured_datagrams(any)?;
            Ok(Self { pod: Arc::clone(pod), socket, open: Arc::clone(open) })
        };
        families.into_iter().flatten().map(open).collect()
    }
}

/// Carries the datagrams of one pod and address family until its pod no longer wants it.
pub(crate) async fn serve(worker: WorkerRef, PodSocket { pod, socket, open }: PodSocket) {
    let socket = match fd::watch(socket.into()) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(pod = %pod.enrolled.pod, %error, "cannot watch the socket for datagrams");
            return;
        }
    };
    let scope = Arc::clone(&pod.scope);
    let mut relay = Relay::new(worker, pod);
    let mut buffer = vec![0; LONGEST];
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = scope.accepting.cancelled() => break,
            _ = sweep.tick() => relay.expire(Instant::now()),
            taken = take(&socket, &mut buffer) => match taken {
                Ok(Some(datagram)) => {
                    relay.carry(datagram, buffer.get(..datagram.length).unwrap_or_default(), Instant::now());
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(pod = %relay.pod.enrolled.pod, %error, "cannot take datagrams; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    relay.end();
    drop((socket, open));
}

async fn take(socket: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> std::io::Result<Option<Datagram>> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(taken) = ready.try_io(|socket| fd::receive_datagram(socket.get_ref(), buffer)) {
            return taken;
        }
    }
}

/// What one socket's datagrams are carried by.
struct Relay {
    worker: WorkerRef,
    pod: Arc<LocalPod>,
    flows: Flows<Flow>,
    /// Sockets that answer from an address that was sent to, as long as a flow has use for them.
    answering: HashMap<SocketAddr, Weak<UdpSocket>>,
    /// Where answers are read to: one datagram at a time.
    answer: Rc<std::cell::RefCell<Vec<u8>>>,
}

impl Relay {
    fn new(worker: WorkerRef, pod: Arc<LocalPod>) -> Self {
        let answer = Rc::new(std::cell::RefCell::new(vec![0; LONGEST]));
        Self { worker, pod, flows: Flows::new(MAX_FLOWS), answering: HashMap::default(), answer }
    }

    fn carry(&mut self, datagram: Datagram, bytes: &[u8], now: Instant) {
        let key = Key { client: datagram.from, original: datagram.to };
        let snapshot = self.worker.shared.snapshot.load_full();
        if let Some(flow) = self.flows.heard(&key, now)
            && flow.holds(&snapshot, now)
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
        let mut outcome = listen::outcome(&self.worker, &self.pod, Listener::Outbound, key.client);
        outcome.labels.protocol = Protocol::Udp;
        outcome.destination_address = Some(key.original);
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
        let target = self.route(snapshot, key, outcome)?;
        let kept = &self.pod.kept_endpoints;
        let picked = kept.pick(&self.worker.balancer, &target, key.original.ip(), &[], now);
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
        let failed = |what: &str, error: std::io::Error| {
            Refused::new(Reason::ConnectFailed, format!("{what}: {error}"))
        };
        let socket = self.pod.datagrams_to(endpoint).and_then(UdpSocket::from_std);
        let socket = socket.map_err(|error| failed("no socket towards the endpoint", error))?;
        let answering =
            self.answering(key.original).map_err(|error| failed("no socket to answer from", error))?;
        let backend = target.service.clone();
        let mut upstream = Upstream::new(socket, endpoint, backend, picked.in_flight, snapshot.version);
        upstream.answer(answering, key.client, Rc::clone(&self.answer));
        Ok(upstream)
    }

    /// What the flow's Service port and its routes say.
    fn route<'s>(
        &self,
        snapshot: &'s Snapshot,
        key: Key,
        outcome: &mut Outcome,
    ) -> Result<Target<'s>, Refused> {
        let (service, port) = snapshot.udp_destination(key.original).ok_or_else(|| {
            Refused::new(Reason::UnknownDestination, format!("no Service has UDP at {}", key.original))
        })?;
        let labels = &mut outcome.labels;
        labels.service = Some(Named::Known((service.name.clone(), port)));
        let routes = snapshot.udp_routes(&service.name, port);
        let set = routes.and_then(|routes| routes.select_set(&self.pod.enrolled.pod.namespace));
        let rule = match set.map(|set| &set.table) {
            Some(Table::Tcp(table)) => table.rule(),
            // The route went while its rules were still in the pod: the Service remains.
            Some(Table::Http(_) | Table::Tls(_)) | None => {
                return Ok(Target::service_port(snapshot, &service.name, PortProtocol::Udp, port));
            }
        };
        let id: &RouteId = &rule.route.id;
        labels.route = Some(Named::Known(id.clone()));
        labels.rule = Some(rule.name.clone().map_or(RuleName::Index(rule.index), RuleName::Name));
        if let Some(refusal) = &rule.refusal {
            return Err(Refused::new(Reason::InvalidRoute, &*refusal.message));
        }
        let target = backend_on(snapshot, PortProtocol::Udp, rule.next_backend())?;
        labels.backend = target.service.clone();
        Ok(target)
    }

    fn answering(&mut self, from: SocketAddr) -> std::io::Result<Rc<UdpSocket>> {
        if let Some(socket) = self.answering.get(&from).and_then(Weak::upgrade) {
            return Ok(socket);
        }
        let socket = Rc::new(UdpSocket::from_std(self.pod.datagrams_from(from)?)?);
        self.answering.insert(from, Rc::downgrade(&socket));
        Ok(socket)
    }

    fn expire(&mut self, now: Instant) {
        for flow in self.flows.expire(now) {
            flow.end(&self.worker);
        }
        self.answering.retain(|_, socket| socket.strong_count() > 0);
    }

    fn end(mut self) {
        for flow in self.flows.clear() {
            flow.end(&self.worker);
        }
    }
}
