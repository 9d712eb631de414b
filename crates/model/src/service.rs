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
}
