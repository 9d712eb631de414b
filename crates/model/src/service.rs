//! Services and their endpoints, as a proxy needs to know them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::name::{ObjectName, Text};

/// A Service and the addresses it is called by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The Service's namespace and name.
    pub name: ObjectName,
    /// ClusterIPs, externalIPs and load-balancer ingress IPs. Empty for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// The TCP ports, by port number.
    pub ports: Vec<ServicePort>,
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
    /// Endpoints by Service port number.
    #[serde(deserialize_with = "by_port")]
    pub ports: BTreeMap<u16, Vec<Endpoint>>,
}

/// One address behind a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where to connect: an endpoint address and its target port.
    pub address: SocketAddr,
    /// The pod behind the address, by UID. `None`: an address that is no pod of this cluster.
    pub workload: Option<Text>,
    /// May be chosen: `serving`, and not `terminating` unless nothing else is left (as kube-proxy judges).
    pub ready: bool,
    /// The endpoint's zone, for topology preference.
    pub zone: Option<Text>,
    /// Why it is not to be chosen although it is listed: several live pods claim its address. Names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Text>,
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
    fn endpoints_are_read_back_from_the_resource_they_travel_in() {
        let endpoint = Endpoint {
            address: ([10, 0, 0, 1], 8080).into(),
            workload: None,
            ready: true,
            zone: None,
            conflict: None,
        };
        let ports = [(80, vec![endpoint])].into();
        let resource = Resource::Endpoints(Endpoints { service: ObjectName::new("shop", "cart"), ports });
        let text = serde_json::to_string(&resource).unwrap();
        assert_eq!(serde_json::from_str::<Resource>(&text).unwrap(), resource);
    }
}
