//! Services and their endpoints, as a proxy needs to know them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::name::{ObjectName, Text};
use crate::traffic::BackendTraffic;

/// A Service and the addresses it is called by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The Service's namespace and name.
    pub name: ObjectName,
    /// ClusterIPs, externalIPs and load-balancer ingress IPs. Empty for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// The TCP ports, by port number.
    pub ports: Vec<ServicePort>,
    /// The numbers of the UDP ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub udp_ports: Vec<u16>,
    /// The ports at which every node's addresses lead to the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_ports: Vec<NodePort>,
    /// `internalTrafficPolicy`.
    #[serde(default, skip_serializing_if = "TrafficPolicy::is_cluster")]
    pub internal_traffic_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP`: for so many seconds after its last use a client keeps its endpoint. `None`: no affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ip_affinity: Option<u32>,
    /// What a policy says of requests to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<BackendTraffic>,
    /// A host outside the cluster: its addresses are the endpoints, and proxies look them up themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Text>,
    /// It is reached as its [`BackendTls`](crate::gateway::BackendTls) says, and not at all while that is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls_only: bool,
}

impl Service {
    /// A Service without addresses and ports, and with Kubernetes' defaults.
    pub const fn new(name: ObjectName) -> Self {
        Self {
            name,
            addresses: Vec::new(),
            ports: Vec::new(),
            udp_ports: Vec::new(),
            node_ports: Vec::new(),
            internal_traffic_policy: TrafficPolicy::Cluster,
            client_ip_affinity: None,
            traffic: None,
            host: None,
            tls_only: false,
        }
    }
}

/// What stands before the name of an XBackend among those of Services: no Service's name has a colon.
const XBACKEND: &str = "xbackend:";

/// The name that an XBackend is published under as if it were a Service.
pub fn name_of_xbackend(backend: &ObjectName) -> ObjectName {
    ObjectName::new(backend.namespace.clone(), format!("{XBACKEND}{}", backend.name))
}

/// Kind and name of what is published under the name of a Service, in words.
pub fn title(published: &ObjectName) -> String {
    match published.name.strip_prefix(XBACKEND) {
        Some(name) => format!("XBackend {}/{name}", published.namespace),
        None => format!("Service {published}"),
    }
}

/// Which endpoints callers inside the cluster may be sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those of the caller's node only.
    Local,
}

impl TrafficPolicy {
    /// Whether it is the default.
    pub const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster)
    }
}

/// `nodePort` of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePort {
    /// The port at the nodes.
    pub node_port: u16,
    /// The Service port number that it leads to.
    pub port: u16,
    /// The protocol of both.
    pub protocol: PortProtocol,
}

/// The `protocol` of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PortProtocol {
    /// `TCP`.
    Tcp,
    /// `UDP`.
    Udp,
}

impl PortProtocol {
    /// Kubernetes' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// One TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The Service port number.
    pub port: u16,
    /// The Service port name, if it has one.
    pub name: Option<Text>,
    /// What the port says it speaks.
    pub protocol: AppProtocol,
}

/// What a Service port says it speaks, by `appProtocol` or else by the port-name convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AppProtocol {
    /// Nothing, or a word Weft does not know: bytes, unless a route covers the port.
    Unspecified,
    /// HTTP/1.1 (HTTP/2 with prior knowledge is recognised by its preface).
    Http,
    /// HTTP/2 without TLS towards the application (`kubernetes.io/h2c`, `grpc`).
    H2c,
    /// `kubernetes.io/ws`: HTTP/1.1 that will be upgraded.
    WebSocket,
    /// TLS: routed by SNI if a TLSRoute covers the port, else bytes.
    Tls,
    /// Declared as bytes; never parsed.
    Tcp,
}

/// The endpoints of one Service: the union of its EndpointSlices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The Service.
    pub service: ObjectName,
    /// Endpoints by number of the Service's TCP port.
    #[serde(deserialize_with = "by_port")]
    pub ports: BTreeMap<u16, Vec<Endpoint>>,
    /// Endpoints by number of the Service's UDP port.
    #[serde(default, deserialize_with = "by_port", skip_serializing_if = "BTreeMap::is_empty")]
    pub udp_ports: BTreeMap<u16, Vec<Endpoint>>,
}

/// One address behind a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where to connect: an endpoint address and its target port.
    pub address: SocketAddr,
    /// The pod behind the address, by UID. `None`: an address that is no pod of this cluster.
    pub workload: Option<Text>,
    /// May be chosen: `serving`, and not `terminating` unless nothing else is left (as kube-proxy judges). What a
    /// controller says of the whole cluster, a proxy narrows to its own node.
    pub ready: bool,
    /// It ends and serves still: chosen only where no other is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// The endpoint's zone, for people: `hints` are what preference goes by.
    pub zone: Option<Text>,
    /// The node that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Text>,
    /// Whom it is meant for, as whoever wrote its EndpointSlice decided by `trafficDistribution`.
    #[serde(default, skip_serializing_if = "Hints::is_empty")]
    pub hints: Hints,
    /// Why it is not to be chosen although it is listed: several live pods claim its address. Names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Text>,
}

impl Endpoint {
    /// An endpoint that may be chosen and of which nothing else is known.
    pub const fn at(address: SocketAddr) -> Self {
        Self {
            address,
            workload: None,
            ready: true,
            terminating: false,
            zone: None,
            node: None,
            hints: Hints { zones: Vec::new(), nodes: Vec::new() },
            conflict: None,
        }
    }
}

/// `hints` of an EndpointSlice's endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<Text>,
    /// `forNodes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Text>,
}

impl Hints {
    /// Whether it is meant for everybody.
    pub const fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.nodes.is_empty()
    }
}

/// JSON's keys are text. Inside a tagged enum ([`crate::Resource`]) serde does not turn them into numbers by itself.
fn by_port<'de, D: serde::Deserializer<'de>>(input: D) -> Result<BTreeMap<u16, Vec<Endpoint>>, D::Error> {
    let by_text = BTreeMap::<String, Vec<Endpoint>>::deserialize(input)?;
    let number =
        |(port, endpoints): (String, _)| Ok((port.parse().map_err(serde::de::Error::custom)?, endpoints));
    by_text.into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resource;

    #[test]
    fn an_xbackend_has_a_name_that_no_service_can_have_and_is_called_what_it_is() {
        let name = ObjectName::new("shop", "cart");
        let published = name_of_xbackend(&name);
        assert_eq!(published.to_string(), "shop/xbackend:cart");
        assert_eq!(published.to_string().parse::<ObjectName>().unwrap(), published);
        assert_eq!(title(&published), "XBackend shop/cart");
        assert_eq!(title(&name), "Service shop/cart");
    }

    #[test]
    fn endpoints_are_read_back_from_the_resource_they_travel_in() {
        let endpoint = Endpoint::at(([10, 0, 0, 1], 8080).into());
        let ports: BTreeMap<_, _> = [(80, vec![endpoint])].into();
        let service = ObjectName::new("shop", "cart");
        let resource = Resource::Endpoints(Endpoints { service, udp_ports: ports.clone(), ports });
        let text = serde_json::to_string(&resource).unwrap();
        assert_eq!(serde_json::from_str::<Resource>(&text).unwrap(), resource);
    }
}
