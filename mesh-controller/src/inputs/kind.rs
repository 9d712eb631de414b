//! The kinds of object that a translation reads.

use std::fmt;

use super::RouteKind;

/// A kind of object that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Namespace.
    Namespace,
    /// Node.
    Node,
    /// Service.
    Service,
    /// EndpointSlice.
    EndpointSlice,
    /// Pod.
    Pod,
    /// Secret, of type `kubernetes.io/tls`.
    Secret,
    /// ConfigMap.
    ConfigMap,
    /// GatewayClass.
    GatewayClass,
    /// Gateway.
    Gateway,
    /// ListenerSet.
    ListenerSet,
    /// A route.
    Route(RouteKind),
    /// BackendTLSPolicy.
    BackendTlsPolicy,
    /// XBackendTrafficPolicy.
    BackendTrafficPolicy,
    /// XBackend.
    XBackend,
    /// ReferenceGrant.
    ReferenceGrant,
    /// NetworkPolicy.
    NetworkPolicy,
    /// ClusterTrustBundle: built in, but not switched on everywhere.
    ClusterTrustBundle,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Secret,
        Self::ConfigMap,
        Self::GatewayClass,
        Self::Gateway,
        Self::ListenerSet,
        Self::Route(RouteKind::Grpc),
        Self::Route(RouteKind::Http),
        Self::Route(RouteKind::Tls),
        Self::Route(RouteKind::Tcp),
        Self::Route(RouteKind::Udp),
        Self::BackendTlsPolicy,
        Self::BackendTrafficPolicy,
        Self::XBackend,
        Self::ReferenceGrant,
        Self::NetworkPolicy,
        Self::ClusterTrustBundle,
    ];

    /// The Kubernetes kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::ListenerSet => "ListenerSet",
            Self::Route(kind) => kind.as_str(),
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::BackendTrafficPolicy => "XBackendTrafficPolicy",
            Self::XBackend => "XBackend",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterTrustBundle => "ClusterTrustBundle",
        }
    }

    /// Whether there are statuses of ours in objects of this kind.
    pub const fn has_status(self) -> bool {
        matches!(
            self,
            Self::GatewayClass
                | Self::Gateway
                | Self::ListenerSet
                | Self::Route(_)
                | Self::BackendTlsPolicy
                | Self::BackendTrafficPolicy
                | Self::XBackend
        )
    }

    /// Whether its objects live in namespaces.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass | Self::ClusterTrustBundle)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
