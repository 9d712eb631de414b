//! The datagrams of a pod: nft's `tproxy` gives those to Service ports with a UDPRoute to one socket for each address
//! family, which one worker serves alone.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use ahash::HashMap;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use weft_model::Reason;
use weft_routing::Table;
use weft_runtime::fd::{self, Datagram};

use super::{FlowRoute, Key, Source};
use crate::call::Listener;
use crate::listen;
use crate::outbound::http::refusal::Refused;
use crate::pod::LocalPod;
use crate::state::Snapshot;
use crate::telemetry::{Named, Outcome, Protocol};
use crate::worker::{Worker, WorkerRef};

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
    pub(crate) fn open(pod: &Arc<LocalPod>, open: &Arc<()>) -> io::Result<Vec<Self>> {
        let v6 = pod.enrolled.ipv6.then_some(Ipv6Addr::UNSPECIFIED.into());
        let families = [Some(Ipv4Addr::UNSPECIFIED.into()), v6];
        let open = |any| {
            let socket = pod.captured_datagrams(any)?;
            Ok(Self { pod: Arc::clone(pod), socket, open: Arc::clone(open) })
        };
        families.into_iter().flatten().map(open).collect()
    }
}

/// Serves a pod's socket until its scope no longer accepts; its flows end then.
pub(crate) async fn serve(worker: WorkerRef, PodSocket { pod, socket, open }: PodSocket) {
    match fd::watch(socket.into()) {
        Ok(socket) => {
            let scope = Arc::clone(&pod.scope);
            let captured = Captured { pod, socket, answering: HashMap::default(), _open: open };
            super::serve(worker, &scope, captured).await;
        }
        Err(error) => {
            tracing::error!(pod = %pod.enrolled.pod, %error, "cannot watch the socket for datagrams");
        }
    }
}

struct Captured {
    pod: Arc<LocalPod>,
    socket: AsyncFd<OwnedFd>,
    /// Sockets that answer from an address that was sent to, as long as a flow has use for them.
    answering: HashMap<SocketAddr, Weak<UdpSocket>>,
    /// Dropped after the socket.
    _open: Arc<()>,
}

impl Source for Captured {
    const AFFINITY: bool = true;

    fn pod(&self) -> &Arc<LocalPod> {
        &self.pod
    }

    async fn take(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(taken) = ready.try_io(|socket| fd::receive_datagram(socket.get_ref(), buffer)) {
                return taken;
            }
        }
    }

    fn outcome(&self, worker: &Worker, snapshot: &Snapshot, key: Key) -> Outcome {
        let mut outcome = listen::outcome(worker, &self.pod, Listener::Outbound, key.client);
        outcome.labels.protocol = Protocol::Udp;
        outcome.destination_address = Some(key.original);
        let destination = snapshot.udp_destination(key.original);
        outcome.labels.service =
            destination.map(|(service, port)| Named::Known((service.name.clone(), port)));
        outcome
    }

    /// The Service port's routes; where one went while its rules were still in the pod the Service remains.
    fn route<'s>(&self, snapshot: &'s Snapshot, key: Key) -> Result<FlowRoute<'s>, Refused> {
        let (service, port) = snapshot.udp_destination(key.original).ok_or_else(|| {
            Refused::new(Reason::UnknownDestination, format!("no Service has UDP at {}", key.original))
        })?;
        let routes = snapshot.udp_routes(&service.name, port);
        let set = routes.and_then(|routes| routes.select_set(&self.pod.enrolled.pod.namespace));
        Ok(match set.map(|set| &set.table) {
            Some(Table::Tcp(table)) => FlowRoute::Rule(table.rule()),
            Some(Table::Http(_) | Table::Tls(_)) | None => FlowRoute::Plain(service.name.clone(), port),
        })
    }

    fn answering(&mut self, from: SocketAddr) -> io::Result<Rc<UdpSocket>> {
        if let Some(socket) = self.answering.get(&from).and_then(Weak::upgrade) {
            return Ok(socket);
        }
        let socket = Rc::new(UdpSocket::from_std(self.pod.datagrams_from(from)?)?);
        self.answering.retain(|_, socket| socket.strong_count() > 0);
        self.answering.insert(from, Rc::downgrade(&socket));
        Ok(socket)
    }
}
