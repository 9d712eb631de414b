//! What agent and proxy of one node tell each other: JSON messages over a `SOCK_SEQPACKET` Unix socket, one message
//! per packet, descriptors beside them as `SCM_RIGHTS`. The agent listens, the proxy connects.
//!
//! Order: the proxy says [`ToAgent::Hello`], then [`ToAgent::Held`] for every pod it still serves (so that a restarted
//! agent gets its duplicates back), then [`ToAgent::HeldEnd`]. The agent answers with [`ToProxy::Add`] for every
//! enrolled pod (adding one that is known is no error and gives a fresh ack) and [`ToProxy::SnapshotEnd`], and from
//! then on with single changes. Every `Add`, `Remove` and `May` is answered by one [`ToAgent::Ack`] with its `id`, and
//! every [`ToAgent::WhoCalls`] by one [`ToProxy::Caller`]. While one proxy replaces another both are connected; the agent uses
//! the one that stands best by its [`ToAgent::Standing`], and sends the snapshot to it when it becomes that one. [`ToProxy::NodeAddresses`] comes before the end of the
//! snapshot, and again when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weft_model::{ObjectName, Text};

use crate::probe::Probe;

/// Version of this protocol. A different one on the other side is an error that says so.
pub const PROTOCOL_VERSION: u32 = 3;

/// Where an enrolled pod's outbound TCP is redirected to, and where captured UDP goes.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where plaintext TCP for an enrolled pod is redirected to.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// Where peers' tunnels arrive.
pub const TUNNEL_PORT: u16 = 15008;

/// A pod as the agent enrolled it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledPod {
    /// The pod's UID.
    pub uid: Text,
    /// Its namespace and name.
    pub pod: ObjectName,
    /// Its service account's name.
    pub service_account: Text,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `SO_MARK` of every socket the proxy opens in the pod's namespace: such traffic is not captured.
    pub bypass_mark: u32,
    /// `SO_MARK` of the proxy's sockets to the application that carry the caller's address: routed to `lo`.
    pub inbound_mark: u32,
    /// The namespace's `lo` has IPv6.
    pub ipv6: bool,
    /// What the kubelet may ask of it.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// Kernel settings of its namespace that were changed, by path, as they were before. Kept by the proxy for an agent
    /// that has restarted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<Text, u64>,
}

/// Which descriptor is at which place beside an [`ToProxy::Add`] or [`ToAgent::Held`].
/// The listening sockets are non-blocking, dual-stack where the pod has IPv6, listening already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodDescriptor {
    /// The pod's network namespace.
    NetworkNamespace,
    /// The listening socket on [`OUTBOUND_PORT`].
    OutboundListener,
    /// The listening socket on [`INBOUND_PLAINTEXT_PORT`].
    InboundPlaintextListener,
    /// The listening socket on [`TUNNEL_PORT`].
    TunnelListener,
}

impl PodDescriptor {
    /// All four, in the order they travel in.
    pub const ALL: [Self; 4] = [
        Self::NetworkNamespace,
        Self::OutboundListener,
        Self::InboundPlaintextListener,
        Self::TunnelListener,
    ];
}

/// From agent to proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToProxy {
    /// The agent's greeting.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// The node's name.
        node: Text,
    },
    /// Serve this pod; four descriptors as in [`PodDescriptor::ALL`]. The ack means: listeners adopted.
    Add {
        /// Comes back in the ack.
        id: u64,
        /// The pod.
        pod: EnrolledPod,
    },
    /// All enrolled pods have been sent.
    SnapshotEnd,
    /// The pod is ending or is no longer enrolled: finish its connections, then close every descriptor of its
    /// namespace. The ack means: closed.
    Remove {
        /// Comes back in the ack.
        id: u64,
        /// The pod's UID.
        uid: Text,
        /// Why.
        cause: RemoveCause,
    },
    /// May this be done with a running pod now? Answered at once; the ack's error says what is still missing.
    May {
        /// Comes back in the ack.
        id: u64,
        /// The pod's UID.
        uid: Text,
        /// What would be done.
        intent: Intent,
    },
    /// Every pod that is to be enrolled and cannot be, with the reason: for the controller. Replaces what was said
    /// before on this connection, at first none; not answered.
    Unserved {
        /// By UID.
        pods: BTreeMap<Text, String>,
    },
    /// Another proxy is the one that is used from now on; not answered. A proxy that is told to stop after that has time
    /// to drain.
    Succeeded,
    /// The node's own addresses. The kubelet calls from one of them, and so do others.
    NodeAddresses {
        /// All of them.
        addresses: Vec<IpAddr>,
    },
    /// Answer to [`ToAgent::WhoCalls`].
    Caller {
        /// The `id` answered.
        id: u64,
        /// Who has the socket.
        caller: CallerKind,
    },
}

/// Who has the other end of a connection that came from one of the node's own addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum CallerKind {
    /// A process of the node that belongs to no pod, such as the kubelet.
    Host,
    /// A process of a pod in the host's network.
    Pod,
    /// No process of the node: the connection was forwarded under the node's address.
    Nobody,
    /// The kernel did not say.
    Unknown {
        /// Why.
        message: String,
    },
}

/// What an agent would do with a running pod, were it not for the connections that this may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Intent {
    /// Capture it: the proxy needs a configuration that knows the pod, and its certificate.
    Capture,
    /// Release it: no proxy may call it by tunnel any more.
    Release,
}

/// What a proxy can do for pods. Of several proxies the agent uses one of the highest standing, the newest of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It accepts nothing any more, and is finishing what is open: it is given no pod.
    Draining,
    /// It has no configuration yet: it is given pods only if there is no other.
    Starting,
    /// It carries traffic.
    Ready,
}

/// Why a pod is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RemoveCause {
    /// CNI DEL: the pod's network goes away; flush and close at once (at most 2 s).
    PodEnd,
    /// The pod is no longer enrolled: close the listeners, let live connections end.
    Unenrolled,
}

/// Destinations that are captured although the cluster's ranges do not say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Destinations {
    /// Service addresses outside the ranges, for TCP.
    pub tcp: BTreeSet<SocketAddr>,
    /// Service addresses whose UDP port has a route.
    pub udp: BTreeSet<SocketAddr>,
    /// The addresses of all nodes, where there are node ports.
    pub nodes: BTreeSet<IpAddr>,
    /// Node ports of Services, for TCP.
    pub node_ports: BTreeSet<u16>,
    /// Node ports of Services' UDP ports with a route.
    pub udp_node_ports: BTreeSet<u16>,
}

/// From proxy to agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToAgent {
    /// The proxy's greeting, first.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// It understands [`ToProxy::Succeeded`].
        #[serde(default)]
        may_be_succeeded: bool,
    },
    /// A pod that the proxy serves, with its four descriptors.
    Held {
        /// The pod.
        pod: EnrolledPod,
    },
    /// All held pods have been sent.
    HeldEnd,
    /// What the proxy can do from now on; not answered. Until it is said: [`Standing::Starting`].
    Standing {
        /// That.
        standing: Standing,
    },
    /// Answer to `Add`, `Remove` or `May`.
    Ack {
        /// The `id` answered.
        id: u64,
        /// What went wrong, in words; `None`: done.
        error: Option<String>,
    },
    /// Who has the socket that a connection to a pod comes from?
    WhoCalls {
        /// Comes back in the answer.
        id: u64,
        /// The caller's address and port: one of the node's own addresses.
        from: SocketAddr,
        /// Where it called: the pod's address and the port before any redirect.
        to: SocketAddr,
    },
    /// Which ports of a pod admit callers in plaintext now; not answered. Until it is said, all may.
    Plaintext {
        /// The pod's UID.
        uid: Text,
        /// The ports; `None`: every one.
        ports: Option<Vec<u16>>,
    },
    /// What of a pod's outbound traffic is captured besides TCP to the cluster's ranges; not answered. Replaces what was
    /// said before; until it is said, what was in force stays.
    Destinations {
        /// The pod's UID.
        uid: Text,
        /// All of them.
        destinations: Destinations,
    },
    /// Callers in plaintext were refused; not answered. Said at the first one and then at intervals.
    Refused {
        /// The pod's UID.
        uid: Text,
        /// The port that was called.
        port: u16,
        /// Who called last.
        from: SocketAddr,
        /// How many were refused since this was said last.
        count: u64,
    },
}
