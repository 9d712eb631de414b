//! Which of a Service port's routes count for a client: consumer routes, producer routes, or none (GEP-1294).

use std::sync::Arc;

use ahash::AHashMap;
use weft_model::route::{Route, RouteKind};
use weft_model::service::PortProtocol;
use weft_model::{ObjectName, Text};

use crate::stream::{TcpTable, TlsTable};
use crate::table::HttpTable;

/// All routes in force on one Service port.
#[derive(Debug, Default)]
pub struct ServicePortRoutes {
    producer: Option<PortRoutes>,
    /// By the routes' namespace, which is the clients' namespace.
    consumer: AHashMap<Text, PortRoutes>,
}

/// One set of routes on one Service port: the producer's, or those of one consumer namespace.
#[derive(Debug)]
pub struct PortRoutes {
    /// A route of the set names this port (by `port` or `sectionName`). If not, and the port declares no protocol,
    /// the proxy looks at the first bytes first.
    pub explicit_port: bool,
    /// The kind in force.
    pub kind: RouteKind,
    /// Its rules.
    pub table: Table,
}

/// The rules of one set, all of one kind. One per set and long-lived, so their sizes do not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Table {
    /// GRPCRoutes or HTTPRoutes.
    Http(HttpTable),
    /// TLSRoutes.
    Tls(TlsTable),
    /// TCPRoutes, or UDPRoutes on a UDP port.
    Tcp(TcpTable),
}

impl ServicePortRoutes {
    /// Prepares those of `routes` that are in force on `port` of `service`, a TCP port or a UDP port as `protocol`
    /// says; `None` if there is none.
    pub fn compile(
        service: &ObjectName,
        protocol: PortProtocol,
        port: u16,
        routes: &[Arc<Route>],
    ) -> Option<Self> {
        let mut producer = Vec::new();
        let mut consumer: AHashMap<Text, Vec<Arc<Route>>> = AHashMap::new();
        let routes = routes.iter().filter(|route| route.id.kind.port_protocol() == protocol);
        for route in routes.filter(|route| explicit(route, service, port).is_some()) {
            if route.is_consumer_of(service) {
                consumer.entry(route.id.name.namespace.clone()).or_default().push(Arc::clone(route));
            } else {
                producer.push(Arc::clone(route));
            }
        }
        let producer = PortRoutes::compile(service, port, &producer);
        let consumer: AHashMap<_, _> = consumer
            .into_iter()
            .filter_map(|(namespace, routes)| Some((namespace, PortRoutes::compile(service, port, &routes)?)))
            .collect();
        (producer.is_some() || !consumer.is_empty()).then_some(Self { producer, consumer })
    }

    /// The set that counts for a client: its namespace's consumer routes alone if there are any, else the
    /// producer's. `None`: plain forwarding. Sets are never merged.
    pub fn select_set(&self, client_namespace: &str) -> Option<&PortRoutes> {
        self.consumer.get(client_namespace).or(self.producer.as_ref())
    }
}

impl PortRoutes {
    /// Of several kinds only the strongest is kept: GRPCRoute, HTTPRoute, TLSRoute, TCPRoute. (The controller has
    /// already told the others so in their status.)
    fn compile(service: &ObjectName, port: u16, routes: &[Arc<Route>]) -> Option<Self> {
        let kind = routes.iter().map(|route| route.id.kind).min()?;
        let routes: Vec<_> = routes.iter().filter(|route| route.id.kind == kind).cloned().collect();
        let table = match kind {
            RouteKind::Grpc | RouteKind::Http => Table::Http(HttpTable::compile(&routes)),
            RouteKind::Tls => Table::Tls(TlsTable::compile(&routes)),
            RouteKind::Tcp | RouteKind::Udp => Table::Tcp(TcpTable::compile(&routes)?),
        };
        let explicit_port = routes.iter().any(|route| explicit(route, service, port) == Some(true));
        Some(Self { explicit_port, kind, table })
    }
}

/// Whether `route` is in force on the port, and if so whether it names the port.
fn explicit(route: &Route, service: &ObjectName, port: u16) -> Option<bool> {
    let on_port = route.parents.iter().filter(|parent| parent.port == port && parent.service == *service);
    on_port.map(|parent| parent.explicit_port).reduce(|a, b| a || b)
}
