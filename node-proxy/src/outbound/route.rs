//! What decides about a request: the routes of the Service port that was dialled, as the caller's namespace sees them.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_model::route::{Backend, BackendTarget};
use weft_model::service::{AppProtocol, Endpoint, PortProtocol, TrafficPolicy, title};
use weft_model::{ObjectName, Reason};
use weft_routing::{HttpTable, Selection, StreamRule, Table};

use super::affinity::Affinity;
use super::http::refusal::Refused;
use crate::call::Destination;
use crate::send::backend::BackendPolicy;
use crate::state::Snapshot;
use crate::state::traffic::Traffic;

/// A request that knows what decides about it.
#[derive(Debug)]
pub enum Routed<'s> {
    /// A rule of a route.
    Rule(Selection<'s>),
    /// No route: to the endpoints of what was dialled.
    Plain(Target<'s>),
}

/// A set of endpoints that one is picked from.
#[derive(Clone, Debug)]
pub struct Target<'s> {
    /// The Service port; `None` when an address was dialled that is no Service's.
    pub service: Option<(ObjectName, u16)>,
    /// What the application is spoken to in.
    pub protocol: AppProtocol,
    /// By which policy its applications are reached by TLS: of Services at Gateways only.
    pub tls: Option<Arc<BackendPolicy>>,
    /// The endpoints, ready or not.
    pub endpoints: Cow<'s, [Endpoint]>,
    /// The Service's `sessionAffinity`, if it has one.
    pub affinity: Option<Affinity>,
    /// What an XBackendTrafficPolicy says of the Service.
    pub traffic: Option<&'s Traffic>,
    /// The Service's `internalTrafficPolicy`, for saying why there is no endpoint: they are judged by it already.
    pub policy: TrafficPolicy,
    /// Why there is no endpoint, where that is known better.
    pub trouble: Option<String>,
}

/// Finds what decides about a request to `destination`.
///
/// # Errors
/// `no_route_match` where routes cover the port and none matches: never plain forwarding (GEP-1294);
/// `unknown_destination` for an address that the snapshot does not know.
pub fn route<'s>(
    snapshot: &'s Snapshot,
    destination: &Destination,
    original: SocketAddr,
    client_namespace: &str,
    head: &http::request::Parts,
) -> Result<Routed<'s>, Refused> {
    let (service, port, protocol) = match destination {
        Destination::Service { service, port, protocol } => (&service.name, *port, *protocol),
        Destination::Workload { workload, .. } => {
            let workload = Some(workload.uid.clone());
            return Ok(Routed::Plain(Target::address(original, workload)));
        }
        Destination::External => return Ok(Routed::Plain(Target::address(original, None))),
        Destination::Unknown => {
            let message = format!("nothing in the cluster has the address {original}");
            return Err(Refused::new(Reason::UnknownDestination, message));
        }
    };
    let routes = snapshot.routes(service, port).and_then(|routes| routes.select_set(client_namespace));
    match routes.map(|set| &set.table) {
        None => Ok(Routed::Plain(Target::service(snapshot, service, port, protocol))),
        Some(Table::Http(table)) => select(table, service, port, head),
        // The route came while the connection was already open and spoke HTTP: its backends hold all the same.
        Some(Table::Tcp(table)) => follow(snapshot, table.rule()),
        Some(Table::Tls(_)) => Err(no_match(service, port)),
    }
}

/// The rule of a Service port's table for a request.
///
/// # Errors
/// `no_route_match`.
pub(super) fn select<'s>(
    table: &'s HttpTable,
    service: &ObjectName,
    port: u16,
    head: &http::request::Parts,
) -> Result<Routed<'s>, Refused> {
    let selected = table.select(&head.method, &head.uri, &head.headers);
    selected.map(Routed::Rule).ok_or_else(|| no_match(service, port))
}

fn follow<'s>(snapshot: &'s Snapshot, rule: &StreamRule) -> Result<Routed<'s>, Refused> {
    match &rule.refusal {
        Some(refusal) => Err(Refused::new(Reason::InvalidRoute, &*refusal.message)),
        None => backend_of(snapshot, rule.next_backend()).map(Routed::Plain),
    }
}

/// Routes cover a port, and none of them is for this request.
pub(super) fn no_match(service: &ObjectName, port: u16) -> Refused {
    let message = format!("routes cover port {port} of Service {service} and none matches this request");
    Refused::new(Reason::NoRouteMatch, message)
}

/// Where what falls to `backend` goes.
///
/// # Errors
/// `invalid_backend` if there is none or it cannot be used.
pub fn backend_of<'s>(snapshot: &'s Snapshot, backend: Option<&Backend>) -> Result<Target<'s>, Refused> {
    backend_on(snapshot, PortProtocol::Tcp, backend)
}

/// As [`backend_of`], for a route on ports of this protocol.
///
/// # Errors
/// As [`backend_of`].
pub fn backend_on<'s>(
    snapshot: &'s Snapshot,
    on: PortProtocol,
    backend: Option<&Backend>,
) -> Result<Target<'s>, Refused> {
    match backend.map(|backend| &backend.target) {
        Some(BackendTarget::Service { service, port, protocol }) => {
            Ok(Target { protocol: *protocol, ..Target::service_port(snapshot, service, on, *port) })
        }
        Some(BackendTarget::Invalid { message }) => Err(Refused::new(Reason::InvalidBackend, &**message)),
        None => {
            let message = "the rule that matched has no backend with a weight above 0: give it one";
            Err(Refused::new(Reason::InvalidBackend, message))
        }
    }
}

impl<'s> Target<'s> {
    /// The endpoints of a TCP port of a Service.
    pub fn service(snapshot: &'s Snapshot, service: &ObjectName, port: u16, protocol: AppProtocol) -> Self {
        Self { protocol, ..Self::service_port(snapshot, service, PortProtocol::Tcp, port) }
    }

    /// The endpoints of a Service port, whatever its application speaks.
    pub fn service_port(snapshot: &'s Snapshot, service: &ObjectName, on: PortProtocol, port: u16) -> Self {
        let facts = snapshot.service(service);
        let mut endpoints = Cow::Borrowed(match on {
            PortProtocol::Tcp => snapshot.endpoints(service, port),
            PortProtocol::Udp => snapshot.udp_endpoints(service, port),
        });
        let seconds = facts.and_then(|service| service.client_ip_affinity);
        let policy = facts.map(|service| service.internal_traffic_policy).unwrap_or_default();
        let affinity = seconds.map(|seconds| Affinity {
            port: (service.clone(), on, port),
            timeout: Duration::from_secs(seconds.into()),
        });
        let tls = match on {
            PortProtocol::Tcp => snapshot.backend_policy(service, port).cloned(),
            PortProtocol::Udp => None,
        };
        let mut trouble = None;
        if let Some(host) = facts.and_then(|facts| facts.host.as_deref()) {
            match snapshot.endpoints_of_host(host, port) {
                Ok(found) => endpoints = Cow::Owned(found),
                Err(why) => trouble = Some(why),
            }
        }
        if facts.is_some_and(|facts| facts.tls_only) && tls.is_none() {
            endpoints = Cow::Borrowed(&[]);
            trouble = Some("how it is reached by TLS is not known".to_owned());
        }
        let traffic = snapshot.traffic(service);
        let (service, protocol) = (Some((service.clone(), port)), AppProtocol::Unspecified);
        Self { service, protocol, tls, endpoints, affinity, traffic, policy, trouble }
    }

    /// An address that was dialled and is no Service's.
    pub fn address(address: SocketAddr, workload: Option<weft_model::Text>) -> Self {
        let endpoints = Cow::Owned(vec![Endpoint { workload, ..Endpoint::at(address) }]);
        let (protocol, policy) = (AppProtocol::Unspecified, TrafficPolicy::Cluster);
        let (service, tls, affinity, traffic, trouble) = (None, None, None, None, None);
        Self { service, protocol, tls, endpoints, affinity, traffic, policy, trouble }
    }

    /// The pods that claim an endpoint's address, for the log.
    pub fn conflict(&self) -> Option<&str> {
        self.endpoints.iter().find_map(|endpoint| endpoint.conflict.as_deref())
    }

    /// Why there is no endpoint to pick, in words for the caller.
    pub fn refusal(&self) -> Refused {
        if self.conflict().is_some() {
            let message = "several pods claim the endpoint's address; the access log names them";
            return Refused::new(Reason::AddressConflict, message);
        }
        let message = match (&self.service, &self.trouble) {
            (Some((service, _)), Some(why)) => format!("{} has no endpoint: {why}", title(service)),
            (Some((service, port)), None) => {
                let here = match self.policy {
                    TrafficPolicy::Cluster => "",
                    TrafficPolicy::Local => " on the caller's node (internalTrafficPolicy: Local)",
                };
                format!("port {port} of {} has no ready endpoint{here}", title(service))
            }
            (None, _) => "the endpoint is not ready".to_owned(),
        };
        Refused::new(Reason::NoEndpoints, message)
    }
}
