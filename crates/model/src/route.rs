//! Routes, in the form that proxies decide by. Every field names the Gateway API field it
//! came from; references are resolved, defaults applied, and what cannot be carried out is a [`Refusal`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gateway::Attachment;
use crate::name::{ObjectName, Text};
use crate::service::{AppProtocol, PortProtocol};
use crate::session::SessionPersistence;

/// The kinds of route that a Service can have, from the one that wins to the one that loses when several
/// kinds cover one Service port (GEP-1294: GRPCRoute > HTTPRoute > TLSRoute > TCPRoute). UDPRoute is on ports of its
/// own, those of UDP, and meets none of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    /// GRPCRoute.
    #[serde(rename = "GRPCRoute")]
    Grpc,
    /// HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    Http,
    /// TLSRoute.
    #[serde(rename = "TLSRoute")]
    Tls,
    /// TCPRoute.
    #[serde(rename = "TCPRoute")]
    Tcp,
    /// UDPRoute.
    #[serde(rename = "UDPRoute")]
    Udp,
}

impl RouteKind {
    /// All of them, the winner first.
    pub const ALL: [Self; 5] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp, Self::Udp];

    /// The Kubernetes kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }

    /// Whose ports routes of this kind are attached to. A Service may have both with one number.
    pub const fn port_protocol(self) -> PortProtocol {
        match self {
            Self::Grpc | Self::Http | Self::Tls | Self::Tcp => PortProtocol::Tcp,
            Self::Udp => PortProtocol::Udp,
        }
    }
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which route object: kind, namespace and name, written `HTTPRoute/shop/cart`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteId {
    /// The route's kind.
    pub kind: RouteKind,
    /// The route's namespace and name.
    pub name: ObjectName,
}

/// A text that is not `kind/namespace/name` with one of the kinds above.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not of the form kind/namespace/name")]
pub struct NotARouteId(String);

impl FromStr for RouteId {
    type Err = NotARouteId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (kind, name) = text.split_once('/')?;
            let kind = RouteKind::ALL.into_iter().find(|candidate| candidate.as_str() == kind)?;
            Some(Self { kind, name: name.parse().ok()? })
        };
        read().ok_or_else(|| NotARouteId(text.to_owned()))
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// A route object with the Service ports or the listeners it is in force on: of one that is on Services and at Gateways
/// there is one of these for all Services, and one for each Gateway, since references are judged otherwise there; and one
/// more for its Services if a Gateway obeys it there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The object.
    pub id: RouteId,
    /// `metadata.generation`, for explanations.
    pub generation: i64,
    /// `metadata.creationTimestamp` in seconds since the epoch: the older route wins a tie.
    pub created: i64,
    /// The Service ports that the route is in force on, as the controller resolved its parentRefs:
    /// conflicts with other kinds are already decided.
    pub parents: Vec<Parent>,
    /// The listeners that it is attached to: all of one Gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Attachment>,
    /// It is on Services, in the form for Gateways that obey Services' routes: its references are judged as at a Gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub for_gateways: bool,
    /// The rules, in the order of the object.
    pub rules: Rules,
}

/// One Service port a route is in force on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Parent {
    /// The Service.
    pub service: ObjectName,
    /// The Service port number, of the protocol that the route's kind has ([`RouteKind::port_protocol`]). A parentRef
    /// without port is one `Parent` per port.
    pub port: u16,
    /// The port was named by `port` or `sectionName`. If not, and the port declares no protocol,
    /// the proxy looks at the first bytes before it decides that this is HTTP (`docs/dataplane.md`, Protocols).
    pub explicit_port: bool,
}

impl Route {
    /// A route of another namespace than the Service's holds only for clients in its own namespace
    /// (GEP-1294, consumer routes); one of the Service's namespace holds for all (producer routes).
    pub fn is_consumer_of(&self, service: &ObjectName) -> bool {
        self.id.name.namespace != service.namespace
    }
}

/// The rules of a route, by kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "rules", rename_all = "camelCase")]
pub enum Rules {
    /// HTTPRoute and GRPCRoute rules.
    Http(Vec<HttpRule>),
    /// TLSRoute: server names and backends.
    Tls(Vec<TlsRule>),
    /// TCPRoute: backends.
    Tcp(Vec<TcpRule>),
    /// UDPRoute: backends, for each flow.
    Udp(Vec<TcpRule>),
}

/// A rule of an HTTPRoute or GRPCRoute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpRule {
    /// `rules[].name`.
    pub name: Option<Text>,
    /// `rules[].matches`; any one suffices. Never empty: no matches in the object is one [`Match`] that admits all.
    pub matches: Vec<Match>,
    /// `rules[].filters`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// `rules[].backendRefs`, including those that cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// `rules[].timeouts.request`; `None`: no limit (also for `0s`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Duration>,
    /// `rules[].timeouts.backendRequest`; `None`: no limit (also for `0s`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request_timeout: Option<Duration>,
    /// `rules[].retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// `rules[].sessionPersistence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionPersistence>,
    /// Set when the rule cannot be carried out: what it matches is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// What cannot be carried out and why, in words for the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What to do about it.
    pub message: Text,
}

/// A match of an HTTPRoute or GRPCRoute rule: all its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// `path` of an HTTPRoute match, or `method` of a GRPCRoute match.
    #[serde(default)]
    pub path: PathMatch,
    /// `method` of an HTTPRoute match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Text>,
    /// `headers`; of several with one name (compared without case) only the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ValueMatch>,
    /// `queryParams`; of several with one name only the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<ValueMatch>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum PathMatch {
    /// `Exact`.
    Exact {
        /// The path.
        value: Text,
    },
    /// `PathPrefix`: whole segments.
    Prefix {
        /// The prefix, `/` for all.
        value: Text,
    },
    /// `RegularExpression`: the whole path.
    Regex {
        /// The expression (Rust's `regex` syntax, as documented).
        value: Text,
    },
    /// A GRPCRoute's `method`; both `None`: every gRPC method.
    Grpc {
        /// `method.service`.
        service: Option<Text>,
        /// `method.method`.
        method: Option<Text>,
        /// `method.type: RegularExpression`: both are expressions.
        regex: bool,
    },
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix { value: "/".into() }
    }
}

/// A header or query parameter match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMatch {
    /// The header's (lower case) or parameter's name.
    pub name: Text,
    /// What the value must be.
    pub value: Text,
    /// `type: RegularExpression`; the whole value must match.
    #[serde(default)]
    pub regex: bool,
}

/// `rules[].retry` (GEP-1731).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// `attempts`: tries in addition to the first one; 0: never retry.
    pub attempts: u32,
    /// `codes`: statuses that are retried.
    pub codes: Vec<u16>,
    /// `backoff`: the least wait between tries. `None`: Weft's own (25 ms, doubling, jittered).
    pub backoff: Option<Duration>,
}

/// A backendRef with its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// `weight`; 0: never chosen.
    pub weight: u32,
    /// Where to send what falls to it.
    pub target: BackendTarget,
    /// `backendRefs[].filters`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
}

/// What a backendRef points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum BackendTarget {
    /// A Service port: its endpoints, never its routes.
    Service {
        /// The Service.
        service: ObjectName,
        /// The Service port number.
        port: u16,
        /// What the application is spoken to in. `Unspecified`: as the request came.
        protocol: AppProtocol,
    },
    /// Missing, of an unknown kind or not usable: its share is answered 500 (gRPC UNAVAILABLE, TCP reset).
    Invalid {
        /// What is wrong and what to do.
        message: Text,
    },
}

/// A filter, in the form it is applied in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Filter {
    /// `RequestHeaderModifier`.
    RequestHeaders(HeaderModifier),
    /// `ResponseHeaderModifier`.
    ResponseHeaders(HeaderModifier),
    /// `RequestRedirect`.
    Redirect(Redirect),
    /// `URLRewrite`.
    UrlRewrite(UrlRewrite),
    /// `RequestMirror`.
    Mirror(Mirror),
    /// `CORS`.
    Cors(Cors),
    /// `ExternalAuth`.
    ExternalAuth(ExternalAuth),
}

/// `set` replaces all values, `add` appends a value, `remove` drops all; applied in this order, names without case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderModifier {
    /// Names and values to set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(Text, Text)>,
    /// Names and values to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(Text, Text)>,
    /// Names to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<Text>,
}

/// `RequestRedirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `scheme`.
    pub scheme: Option<Text>,
    /// `hostname`.
    pub hostname: Option<Text>,
    /// `path`.
    pub path: Option<PathModifier>,
    /// `port`.
    pub port: Option<u16>,
    /// `statusCode`.
    pub status: u16,
}

/// `URLRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlRewrite {
    /// `hostname`.
    pub hostname: Option<Text>,
    /// `path`.
    pub path: Option<PathModifier>,
}

/// `HTTPPathModifier`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "camelCase")]
pub enum PathModifier {
    /// `ReplaceFullPath`.
    Full(Text),
    /// `ReplacePrefixMatch`: replaces the prefix of the match that selected the rule, whole segments.
    Prefix(Text),
}

/// `RequestMirror`: a copy is sent, its response dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Where the copy goes.
    pub target: BackendTarget,
    /// Numerator of the share that is copied.
    pub numerator: u32,
    /// Denominator of the share that is copied; never 0.
    pub denominator: u32,
}

/// `CORS` (GEP-1767).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// `allowOrigins`, as written: `*`, `scheme://host[:port]`, `scheme://*.host[:port]`.
    pub allow_origins: Vec<Text>,
    /// `allowCredentials`.
    pub allow_credentials: bool,
    /// `allowMethods`, `*` for all.
    pub allow_methods: Vec<Text>,
    /// `allowHeaders`, `*` for all.
    pub allow_headers: Vec<Text>,
    /// `exposeHeaders`.
    pub expose_headers: Vec<Text>,
    /// `maxAge`, seconds.
    pub max_age: u32,
}

/// `ExternalAuth` (GEP-1494): an authorization server is asked whether a request may pass. It passes only if that server
/// says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAuth {
    /// `backendRef`: who is asked.
    pub server: BackendTarget,
    /// `protocol`, with what is said of it.
    pub protocol: AuthProtocol,
    /// `forwardBody.maxSize`: bytes of the request's body that are shown to the server at most. A longer body is refused.
    /// 0: no body is shown.
    #[serde(default)]
    pub max_body: u32,
}

/// How an authorization server is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum AuthProtocol {
    /// `HTTP`: a request like the caller's; status 200 lets it pass.
    #[serde(rename = "HTTP")]
    Http {
        /// `http.path`: stands before the request's path. Begins with a slash and does not end with one, or is empty.
        #[serde(default)]
        prefix: Text,
        /// `http.allowedHeaders`, lower case: shown besides `Host` and `Authorization`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed_headers: Vec<Text>,
        /// `http.allowedResponseHeaders`, lower case: what the backend is told of the server's answer. Empty: all of it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed_response_headers: Vec<Text>,
    },
    /// `GRPC`: Envoy's `envoy.service.auth.v3.Authorization/Check`.
    #[serde(rename = "GRPC")]
    Grpc {
        /// `grpc.allowedHeaders`, lower case: shown. Empty: all are.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allowed_headers: Vec<Text>,
    },
}

/// A TLSRoute's rule: which server names go to which backends. Passed through, never decrypted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TlsRule {
    /// `rules[].name`.
    pub name: Option<Text>,
    /// The route's `hostnames`, lower case: exact, or `*.` and a suffix of any depth. Empty: every name and none
    /// (only with a refusal, for a route that did not decode).
    pub hostnames: Vec<Text>,
    /// `backendRefs`; filters stay empty.
    pub backends: Vec<Backend>,
    /// As [`HttpRule::refusal`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// A TCPRoute's or UDPRoute's rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpRule {
    /// `rules[].name`.
    pub name: Option<Text>,
    /// `backendRefs`; filters stay empty.
    pub backends: Vec<Backend>,
    /// As [`HttpRule::refusal`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}
