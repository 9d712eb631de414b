//! Why a request or a connection ended as it did: one closed list of words, used alike in the access log,
//! in metrics, in refusals sent to the caller (`weft-reason` is never sent outside the mesh) and in the docs.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Why a request or a connection ended as it did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* #[serde(rename = $word)] $name,)* }

        impl Reason {
            /// Every reason, for documentation and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word for logs, metrics and docs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

reasons! {
    /// Carried to its end.
    Ok = "ok",
    /// Routes cover this Service port and none matches: 404 or gRPC UNIMPLEMENTED.
    NoRouteMatch = "no_route_match",
    /// A filter answered (redirect, CORS preflight).
    AnsweredByFilter = "answered_by_filter",
    /// The authorization server of an `ExternalAuth` filter said no: its own status, else 403.
    AuthDenied = "auth_denied",
    /// The authorization server could not be asked, or its answer was none: 503 or UNAVAILABLE.
    AuthFailed = "auth_failed",
    /// The request's body is longer than what may be shown to the authorization server: 413 or RESOURCE_EXHAUSTED.
    BodyTooLarge = "body_too_large",
    /// The chosen rule has no backend, or the chosen backend cannot be used: 500 or UNAVAILABLE.
    InvalidBackend = "invalid_backend",
    /// The route was accepted by the API but Weft cannot carry it out: it refuses what it would have matched.
    InvalidRoute = "invalid_route",
    /// The backend has no endpoint that could be chosen: 503 or UNAVAILABLE.
    NoEndpoints = "no_endpoints",
    /// No connection to the endpoint could be established: 503.
    ConnectFailed = "connect_failed",
    /// The endpoint's certificate was not of the expected identity, or the TLS handshake failed: 503.
    TlsFailed = "tls_failed",
    /// The peer's certificate ended without a newer one having been seen, or its root is trusted no longer: its
    /// connections were cut.
    TrustEnded = "trust_ended",
    /// The route would have another try made, and the retry budget of the backend's XBackendTrafficPolicy is spent: 503.
    RetryBudget = "retry_budget",
    /// The connection ended after the request was sent and before its response: 502.
    UpstreamReset = "upstream_reset",
    /// The caller went away.
    DownstreamReset = "downstream_reset",
    /// `timeouts.request` ran out: 504.
    RequestTimeout = "request_timeout",
    /// `timeouts.backendRequest` ran out: 504.
    BackendTimeout = "backend_timeout",
    /// The caller has no mutual TLS and the callee is strict.
    PlaintextRefused = "plaintext_refused",
    /// A process of the node itself asked for something else than the probes that the pod declares.
    ProbeRefused = "probe_refused",
    /// The agent did not say in time whether a caller at the node's own address is the kubelet.
    NoAgent = "no_agent",
    /// The original destination was missing or one of Weft's own ports.
    Loop = "loop",
    /// The Service that has the address has no such port.
    UnknownPort = "unknown_port",
    /// Several live pods claim the endpoint's address.
    AddressConflict = "address_conflict",
    /// An address inside the cluster's ranges that the snapshot does not know.
    UnknownDestination = "unknown_destination",
    /// No certificate for the pod yet.
    NoCertificate = "no_certificate",
    /// The proxy has no configuration yet.
    NoConfiguration = "no_configuration",
    /// The peer's `weft-meta` header, CONNECT authority or ALPN made no sense.
    BadTunnelRequest = "bad_tunnel_request",
    /// Not valid HTTP, or HTTP that could be read in two ways (request smuggling): 400.
    BadRequest = "bad_request",
    /// The Gateway wants the PROXY protocol, and the connection did not begin with its header.
    BadProxyHeader = "bad_proxy_header",
    /// The request's host belongs to another listener than the connection's TLS server name: 421.
    Misdirected = "misdirected",
    /// The listener cannot be served: 500, or the connection is reset.
    InvalidListener = "invalid_listener",
    /// Header section larger than the limit: 431.
    HeadersTooLarge = "headers_too_large",
    /// TLS traffic whose server name no TLSRoute knows, or without one.
    NoSniMatch = "no_sni_match",
    /// A limit of the pod's budget was reached.
    Overloaded = "overloaded",
    /// The proxy is stopping.
    Draining = "draining",
    /// A defect of Weft itself: the connection was ended, the process goes on.
    Internal = "internal",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_is_explained_to_users() {
        let page = include_str!("../../../docs/telemetry.md");
        for reason in Reason::ALL {
            assert!(page.contains(&format!("`{reason}`")), "docs/telemetry.md does not explain {reason}");
        }
    }
}
