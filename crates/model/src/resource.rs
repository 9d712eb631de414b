//! What a controller publishes to proxies: one resource per user resource.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::gateway::{BackendTls, Certificate, Gateway};
use crate::identity::TrustDomain;
use crate::name::Text;
use crate::node::Node;
use crate::route::{Route, RouteId};
use crate::service::{Endpoints, Service};
use crate::workload::Workload;

/// One published resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Resource {
    /// Facts about the whole mesh; exactly one.
    MeshConfig(MeshConfig),
    /// One per Service, and per XBackend that routes may use.
    Service(Service),
    /// One per Service with endpoints. Apart from [`Service`], since it changes far more often.
    Endpoints(Endpoints),
    /// One per node.
    Node(Node),
    /// One per live pod.
    Workload(Workload),
    /// One per route that is in force on a Service port, and one for each Gateway that it is attached to; and one more for
    /// the Gateways that obey it on its Services.
    Route(Route),
    /// One per Gateway, for its own proxies.
    Gateway(Gateway),
    /// One per Secret that a Gateway's listener or backend TLS names; for proxies of Gateways that name it.
    Certificate(Certificate),
    /// One per Service port with a BackendTLSPolicy, for Gateways' proxies, and per XBackend with TLS.
    BackendTls(BackendTls),
}

/// A resource's key, unique over all kinds, for example `Route/HTTPRoute/shop/cart`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResourceName(pub Text);

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ResourceName {
    /// The route that the resource is of, if it is a route's. Behind its kind, namespace and name there may be the Gateway
    /// or Gateways that this form of it is for ([`Resource::name`]).
    pub fn route_id(&self) -> Option<RouteId> {
        let mut parts = self.0.strip_prefix("Route/")?.split('/');
        let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        format!("{kind}/{namespace}/{name}").parse().ok()
    }

    /// Whether it is a route's on Services, in the form for Gateways that obey it there.
    pub fn is_for_gateways(&self) -> bool {
        self.route_id().is_some_and(|route| *self.0 == *for_gateways(&route))
    }
}

fn for_gateways(route: &RouteId) -> String {
    format!("Route/{route}/for/gateways")
}

impl Resource {
    /// The resource's key.
    pub fn name(&self) -> ResourceName {
        let text = match self {
            Self::MeshConfig(_) => "MeshConfig".to_owned(),
            Self::Service(service) => format!("Service/{}", service.name),
            Self::Endpoints(endpoints) => format!("Endpoints/{}", endpoints.service),
            Self::Node(node) => format!("Node/{}", node.name),
            Self::Workload(workload) => format!("Workload/{}", workload.uid),
            Self::Route(route) => match route.listeners.first() {
                None if route.for_gateways => for_gateways(&route.id),
                None => format!("Route/{}", route.id),
                Some(attachment) => format!("Route/{}/at/{}", route.id, attachment.gateway),
            },
            Self::Gateway(gateway) => format!("Gateway/{}", gateway.name),
            Self::Certificate(certificate) => format!("Certificate/{}", certificate.name),
            Self::BackendTls(tls) => format!("BackendTls/{}/{}", tls.service, tls.port),
        };
        ResourceName(text.into())
    }
}

/// Facts about the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshConfig {
    /// The trust domain of every identity in the mesh.
    pub trust_domain: TrustDomain,
    /// The cluster's DNS domain, for example `cluster.local`.
    pub cluster_domain: Text,
    /// Ranges that Service addresses are taken from.
    pub service_ranges: Vec<IpNet>,
    /// Ranges that pod addresses are taken from.
    pub pod_ranges: Vec<IpNet>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_route_for_gateways_is_told_by_its_name() {
        for (name, expected) in [
            ("Route/HTTPRoute/shop/cart/for/gateways", true),
            ("Route/HTTPRoute/for/gateways/for/gateways", true),
            ("Route/HTTPRoute/for/gateways", false),
            ("Route/HTTPRoute/shop/cart/at/for/gateways", false),
            ("Route/HTTPRoute/shop/cart", false),
            ("Service/for/gateways", false),
        ] {
            assert_eq!(ResourceName(name.into()).is_for_gateways(), expected, "{name}");
        }
    }

    #[test]
    fn a_route_is_told_by_its_resource_wherever_it_is_attached_and_whatever_its_names() {
        let told = |name: &str| ResourceName(name.into()).route_id().map(|id| id.to_string());
        for (name, expected) in [
            ("Route/HTTPRoute/shop/cart", Some("HTTPRoute/shop/cart")),
            ("Route/HTTPRoute/shop/cart/at/edge/web", Some("HTTPRoute/shop/cart")),
            ("Route/HTTPRoute/shop/cart/for/gateways", Some("HTTPRoute/shop/cart")),
            ("Route/HTTPRoute/at/cart", Some("HTTPRoute/at/cart")),
            ("Route/TCPRoute/at/at/at/at/at", Some("TCPRoute/at/at")),
            ("Route/PigeonRoute/shop/cart", None),
            ("Route/HTTPRoute/shop", None),
            ("Service/shop/cart", None),
        ] {
            assert_eq!(told(name).as_deref(), expected, "{name}");
        }
    }
}
