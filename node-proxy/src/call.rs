//! The values a connection or request becomes on its way, one type per step.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use weft_model::service::{AppProtocol, Endpoint, Service};
use weft_model::workload::Workload;
use weft_model::{Identity, ObjectName, Text};

use crate::outbound::route::Target;
use crate::pod::LocalPod;
use crate::scope::Scope;
use crate::send::backend::BackendPolicy;
use crate::state::Snapshot;
use crate::telemetry::Security;

/// A connection that a listening socket accepted, handed to a worker. Which pod it belongs to is known
/// from the listener alone, never from an address.
#[derive(Debug)]
pub struct Accepted {
    /// The pod whose listener accepted it.
    pub pod: Arc<LocalPod>,
    /// How long it may last: as the pod, or as the Gateway's port.
    pub scope: Arc<Scope>,
    /// Which of its listeners.
    pub listener: Listener,
    /// The connection.
    pub stream: TcpStream,
    /// The other end, in canonical form (no IPv4-mapped IPv6).
    pub peer: SocketAddr,
}

/// The kinds of listening sockets: an enrolled pod has the first three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// Outbound TCP of the pod, redirected to 15001.
    Outbound,
    /// Plaintext TCP for the pod, redirected to 15006.
    InboundPlaintext,
    /// Tunnels from peers, on 15008.
    Tunnel,
    /// A port of a Gateway's listeners.
    Gateway(u16),
}

/// An outbound connection whose original destination is known.
#[derive(Debug)]
pub struct Captured {
    /// The caller's pod.
    pub source: Arc<LocalPod>,
    /// The caller's address and port.
    pub peer: SocketAddr,
    /// Where the caller meant to connect, before any DNAT.
    pub original: SocketAddr,
    /// What `original` is.
    pub destination: Destination,
    /// The configuration that everything about this connection's first decisions is read from.
    /// (A new request on it takes the snapshot that is current then.)
    pub snapshot: Arc<Snapshot>,
    /// The connection.
    pub stream: TcpStream,
}

/// What an address that a pod connects to is (`docs/dataplane.md`, Protocols).
#[derive(Clone, Debug)]
pub enum Destination {
    /// A Service address and one of its ports: routes apply.
    Service {
        /// The Service.
        service: Arc<Service>,
        /// The Service port number.
        port: u16,
        /// What the port says it speaks.
        protocol: AppProtocol,
    },
    /// A pod's address: no routes; mutual TLS if it is a mesh pod.
    Workload {
        /// The pod.
        workload: Arc<Workload>,
        /// The port.
        port: u16,
    },
    /// An address inside the cluster's ranges that the snapshot does not know: refused after a short wait.
    Unknown,
    /// Outside the cluster: passes as it is.
    External,
}

/// The endpoint that a request or connection was balanced to, and how to reach it.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Address and target port.
    pub address: SocketAddr,
    /// The pod behind the address, if it is one.
    pub workload: Option<Arc<Workload>>,
    /// Which way.
    pub transport: Transport,
    /// The Service port it was chosen for; `None` when the caller dialled a pod.
    pub service: Option<(ObjectName, u16)>,
    /// What the application is spoken to in.
    pub protocol: AppProtocol,
    /// By which policy the application itself is reached by TLS.
    pub tls: Option<Arc<BackendPolicy>>,
}

/// The ways to an endpoint.
#[derive(Clone, Debug)]
pub enum Transport {
    /// A pod of this node: the same process evaluates both sides.
    SameNode(Arc<LocalPod>),
    /// A mesh pod of another node: mutual TLS, and it must be this identity.
    Tunnel(Identity),
    /// An endpoint outside the mesh: plaintext.
    Plaintext,
}

impl Selected {
    /// Decides `source`'s way to `endpoint` as of `snapshot`.
    pub fn of(
        endpoint: &Endpoint,
        target: &Target<'_>,
        snapshot: &Snapshot,
        source: Option<&Workload>,
    ) -> Self {
        let Target { service, protocol, tls, .. } = target;
        let workload = match &endpoint.workload {
            Some(uid) => snapshot.workload(uid),
            None => None,
        };
        let transport = snapshot.transport_to(workload.as_deref(), source);
        let (service, tls) = (service.clone(), tls.clone());
        Self { address: endpoint.address, workload, transport, service, protocol: *protocol, tls }
    }

    /// How it is reached, for telemetry.
    pub fn security(&self) -> Security {
        match self.transport {
            Transport::SameNode(_) => Security::SameNode,
            Transport::Tunnel(_) => Security::Mtls,
            Transport::Plaintext if self.tls.is_some() => Security::Tls,
            Transport::Plaintext => Security::Plaintext,
        }
    }
}

/// Who calls, as the callee's side knows it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The address and port the callee's application shall see.
    pub address: SocketAddr,
    /// The verified identity; `None`: plaintext.
    pub identity: Option<Identity>,
    /// How it reached this process.
    pub security: Security,
    /// Service and route as the caller's proxy claims them: for telemetry only.
    pub claimed: Option<Claimed>,
}

/// What the caller's proxy says about a request; acted on by nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The Service called.
    pub service: Option<Text>,
    /// The route chosen.
    pub route: Option<Text>,
}
