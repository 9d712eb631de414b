//! UDP listeners of a Gateway. Backends are reached in plaintext: UDP is not in the mesh.
//!
//! A port is open only while a route can be followed there, so that the kernel refuses what comes too early (ICMP).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::UdpSocket;
use weft_model::Reason;
use weft_routing::{ListenerEntry, StreamRule};
use weft_runtime::fd::Datagram;

use crate::outbound::http::refusal::Refused;
use crate::outbound::udp::{self, FlowRoute, Key, Source};
use crate::pod::LocalPod;
use crate::scope::Scope;
use crate::state::Snapshot;
use crate::telemetry::{AtListener, Labels, Outcome, Party, Protocol, Reporter, Security};
use crate::worker::{Worker, WorkerRef};

/// One worker's socket of a UDP port. The kernel gives all datagrams of a flow to one of them.
#[derive(Debug)]
pub(crate) struct DatagramPort {
    pub(crate) pod: Arc<LocalPod>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) socket: std::net::UdpSocket,
    pub(crate) number: u16,
}

/// Serves a port until its scope no longer accepts; its flows end then.
pub(crate) async fn serve(worker: WorkerRef, port: DatagramPort) {
    let DatagramPort { pod, scope, socket, number } = port;
    match UdpSocket::from_std(socket) {
        Ok(socket) => udp::serve(worker, &scope, Port { pod, socket: Rc::new(socket), number }).await,
        Err(error) => tracing::error!(port = number, %error, "cannot watch a UDP port"),
    }
}

struct Port {
    pod: Arc<LocalPod>,
    socket: Rc<UdpSocket>,
    number: u16,
}

impl Source for Port {
    const AFFINITY: bool = false;

    fn pod(&self) -> &Arc<LocalPod> {
        &self.pod
    }

    /// The pod's own address stands for where the client sent to: by its family endpoints are preferred.
    async fn take(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let (length, from) = self.socket.recv_from(buffer).await?;
        let own = self.pod.enrolled.addresses.first().copied();
        let to = SocketAddr::new(own.unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into()), self.number);
        Ok(Some(Datagram { from, to, length }))
    }

    fn outcome(&self, _: &Worker, snapshot: &Snapshot, key: Key) -> Outcome {
        let client = SocketAddr::new(key.client.ip().to_canonical(), key.client.port());
        let labels = Labels::new(Reporter::Gateway, Party::Unknown, Protocol::Udp, Security::None);
        let mut outcome = Outcome { source_address: Some(client), ..Outcome::new(labels) };
        let entry = snapshot.udp_listener(self.number);
        outcome.labels.listener = entry.map(|entry| AtListener(Arc::clone(entry)));
        outcome
    }

    fn route<'s>(&self, snapshot: &'s Snapshot, _: Key) -> Result<FlowRoute<'s>, Refused> {
        let entry = snapshot.udp_listener(self.number);
        let entry = entry.ok_or_else(|| Refused::new(Reason::Draining, "the listener has been removed"))?;
        let rule = followed(entry).map_err(|why| Refused::new(Reason::InvalidRoute, why))?;
        Ok(match entry.listener.service_routes {
            true => FlowRoute::Obeying(rule, self.pod.enrolled.pod.namespace.clone()),
            false => FlowRoute::Rule(rule),
        })
    }

    fn answering(&mut self, _: SocketAddr) -> io::Result<Rc<UdpSocket>> {
        Ok(Rc::clone(&self.socket))
    }
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
