//! [`Outcome`]: what became of one request or connection. The counters, the access-log line and every later
//! signal are made from this one value, so that they cannot disagree.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use weft_model::gateway::ListenerId;
use weft_model::route::RouteId;
use weft_model::workload::Workload;
use weft_model::{Identity, ObjectName, Reason, Text};
use weft_routing::ListenerEntry;

/// What became of one request or connection, told once, when its last byte has passed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The bounded part: what series are told apart by.
    pub labels: Labels,
    /// The caller's address.
    pub source_address: Option<SocketAddr>,
    /// The endpoint chosen (source) or the application's address (destination).
    pub destination_address: Option<SocketAddr>,
    /// HTTP only, for the access log only.
    pub http: Option<HttpLine>,
    /// Details of a failure, for the access log only.
    pub message: Option<Text>,
    /// Tries made towards endpoints; 0 when none was reached.
    pub attempts: u32,
    /// Body (or stream) bytes from the caller.
    pub request_bytes: u64,
    /// Body (or stream) bytes to the caller.
    pub response_bytes: u64,
    /// From the request's head (or the accept) to the last byte.
    pub duration: Duration,
}

/// The request line, for the access log.
#[derive(Clone, Debug)]
pub struct HttpLine {
    /// The method.
    pub method: http::Method,
    /// Scheme, authority and path as the caller sent them.
    pub uri: http::Uri,
    /// The `Host` header of an HTTP/1 request.
    pub host: Option<http::HeaderValue>,
    /// For whom the caller called, at a Gateway that believes proxies.
    pub client: Option<IpAddr>,
}

/// What series are told apart by. Everything here is bounded by the cluster's objects or a closed list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Which side tells it.
    pub reporter: Reporter,
    /// The listener that it came to, at a Gateway.
    pub listener: Option<AtListener>,
    /// Who called.
    pub source: Party,
    /// Who was called.
    pub destination: Party,
    /// The Service port called.
    pub service: Option<Named<(ObjectName, u16)>>,
    /// The route that decided.
    pub route: Option<Named<RouteId>>,
    /// Its rule.
    pub rule: Option<RuleName>,
    /// At a Gateway that obeys Services' routes: the one that decided after `route` had chosen `service`, with its rule.
    pub service_route: Option<(RouteId, RuleName)>,
    /// The backend Service port the rule chose.
    pub backend: Option<(ObjectName, u16)>,
    /// What was spoken.
    pub protocol: Protocol,
    /// How the other side was reached or had reached us.
    pub security: Security,
    /// The HTTP status the caller got; 0: none.
    pub code: u16,
    /// `grpc-status`, for gRPC.
    pub grpc_code: Option<u16>,
    /// Why it ended as it did.
    pub reason: Reason,
}

impl Labels {
    /// Labels of something that has only just begun: nothing known but who tells it, who calls and how.
    pub fn new(reporter: Reporter, source: Party, protocol: Protocol, security: Security) -> Self {
        Self {
            reporter,
            listener: None,
            source,
            destination: Party::Unknown,
            service: None,
            route: None,
            rule: None,
            service_route: None,
            backend: None,
            protocol,
            security,
            code: 0,
            grpc_code: None,
            reason: Reason::Ok,
        }
    }
}

impl Labels {
    /// The Service port called, if it is known.
    pub const fn service_port(&self) -> Option<u16> {
        match &self.service {
            Some(Named::Known((_, port))) => Some(*port),
            Some(Named::Claimed(_)) | None => None,
        }
    }
}

impl Outcome {
    /// An outcome with the given labels and nothing counted yet.
    pub fn new(labels: Labels) -> Self {
        Self {
            labels,
            source_address: None,
            destination_address: None,
            http: None,
            message: None,
            attempts: 0,
            request_bytes: 0,
            response_bytes: 0,
            duration: Duration::ZERO,
        }
    }
}

/// A listener of a Gateway. Compared by Gateway and listener, not by what is attached to it.
#[derive(Clone, Debug)]
pub struct AtListener(pub Arc<ListenerEntry>);

impl AtListener {
    fn key(&self) -> (&ObjectName, &ListenerId) {
        (&self.0.gateway, &self.0.listener.id)
    }
}

impl PartialEq for AtListener {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.key() == other.key()
    }
}

impl Eq for AtListener {}

impl Hash for AtListener {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// A rule of a route: its name, or its place from 0 if it has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleName {
    /// `rules[].name`.
    Name(Text),
    /// Its place.
    Index(usize),
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => index.fmt(f),
        }
    }
}

/// Which side of a call tells its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The caller's side.
    Source,
    /// The callee's side.
    Destination,
    /// The proxy of a Gateway, for callers from anywhere.
    Gateway,
}

impl Reporter {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Gateway => "gateway",
        }
    }
}

/// One end of a call. Compared by what labels show of it, not by the pod.
#[derive(Clone, Debug)]
pub enum Party {
    /// A pod of the cluster.
    Workload(Arc<Workload>),
    /// Only its verified identity is known.
    Identity(Identity),
    /// Neither a known pod nor an identity.
    Unknown,
}

impl Party {
    /// The pod, if it is one that is known.
    pub fn as_pod(&self) -> Option<&Workload> {
        match self {
            Self::Workload(workload) => Some(workload),
            Self::Identity(_) | Self::Unknown => None,
        }
    }

    /// The pod, if it is known, else unknown.
    pub fn of(workload: Option<Arc<Workload>>) -> Self {
        workload.map_or(Self::Unknown, Self::Workload)
    }

    /// The namespace; empty if unknown.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Workload(workload) => &workload.pod.namespace,
            Self::Identity(identity) => &identity.namespace,
            Self::Unknown => "",
        }
    }

    /// The workload's name; empty if unknown.
    pub fn workload(&self) -> &str {
        match self {
            Self::Workload(workload) => &workload.workload,
            Self::Identity(_) | Self::Unknown => "",
        }
    }

    /// The identity.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Workload(workload) => Some(&workload.identity),
            Self::Identity(identity) => Some(identity),
            Self::Unknown => None,
        }
    }
}

impl PartialEq for Party {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Workload(a), Self::Workload(b)) if Arc::ptr_eq(a, b) => true,
            _ => self.namespace() == other.namespace() && self.workload() == other.workload(),
        }
    }
}

impl Eq for Party {}

impl Hash for Party {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace().hash(state);
        self.workload().hash(state);
    }
}

/// A name known here, or only claimed by the caller's proxy (`dataplane.md` rule 20).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Named<T> {
    /// Known here.
    Known(T),
    /// As the caller's proxy claims it.
    Claimed(Text),
}

impl fmt::Display for Named<(ObjectName, u16)> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known((service, _)) => service.fmt(f),
            Self::Claimed(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Named<RouteId> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(route) => route.fmt(f),
            Self::Claimed(text) => f.write_str(text),
        }
    }
}

/// What was spoken with the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.x requests.
    Http1,
    /// HTTP/2 requests.
    Http2,
    /// gRPC requests.
    Grpc,
    /// A TLS connection passed through.
    Tls,
    /// A byte stream.
    Tcp,
    /// A flow of datagrams.
    Udp,
}

impl Protocol {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Counted per request; otherwise per connection.
    pub const fn is_request(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Grpc)
    }
}

/// How the other side was reached, or had reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// By mutual TLS.
    Mtls,
    /// Inside the node: this process knows both pods.
    SameNode,
    /// By TLS as a BackendTLSPolicy says.
    Tls,
    /// Unprotected.
    Plaintext,
    /// It was not reached.
    None,
}

impl Security {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::SameNode => "same_node",
            Self::Tls => "tls",
            Self::Plaintext => "plaintext",
            Self::None => "none",
        }
    }
}
