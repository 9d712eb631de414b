//! Gateways: which listener of a port a request or connection is for, and which rule of the routes attached to it decides.
//!
//! Of the listeners of a port the one with the most specific hostname that covers the host decides alone (listener
//! isolation). Among the routes attached to it those whose own hostname is more specific go first, whatever their paths;
//! what their rules do not match falls through to the less specific ones.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use weft_model::ObjectName;
use weft_model::gateway::{Gateway, Listener, ListenerId, ListenerProtocol};
use weft_model::route::{Route, RouteKind};
use weft_model::service::PortProtocol;

use crate::host::HostMap;
use crate::rule::{RouteRules, rules_of};
use crate::stream::{StreamRule, TcpTable, TlsTable};
use crate::table::{HttpTable, Selection, is_grpc};

/// The routes attached to one listener.
#[derive(Debug, Default)]
pub struct ListenerTable {
    /// By the routes' own hostnames.
    http: HostMap<HostTables>,
    tls: TlsTable,
    stream: Option<TcpTable>,
}

/// HTTPRoutes and GRPCRoutes with one hostname.
#[derive(Debug, Default)]
struct HostTables {
    grpc: HttpTable,
    http: HttpTable,
}

/// The listeners of one port, by hostname.
#[derive(Clone, Debug, Default)]
pub struct PortTable {
    listeners: HostMap<Arc<ListenerEntry>>,
}

/// A listener with its routes.
#[derive(Debug)]
pub struct ListenerEntry {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The listener.
    pub listener: Listener,
    /// What decides about what comes to it.
    pub table: Arc<ListenerTable>,
}

impl ListenerTable {
    /// The table of those of `routes` that are attached to `listener` of `gateway`. Kinds that the listener's protocol
    /// does not take are left out: the controller attaches none.
    pub fn compile(gateway: &ObjectName, listener: &ListenerId, routes: &[Arc<Route>]) -> Self {
        let attached: Vec<_> = routes
            .iter()
            .filter_map(|route| Some((route, hostnames_at(route, gateway, listener)?)))
            .collect();
        let of_kind = |kind: RouteKind| {
            let of_kind = attached.iter().filter(move |(route, _)| route.id.kind == kind);
            of_kind.map(|(route, _)| Arc::clone(route)).collect::<Vec<_>>()
        };
        let streams = [RouteKind::Tcp, RouteKind::Udp].map(of_kind).concat();
        let tls = attached.iter().filter(|(route, _)| route.id.kind == RouteKind::Tls);
        Self {
            http: http_tables(&attached),
            tls: TlsTable::with_hostnames(tls.map(|(route, names)| (Arc::clone(route), names.clone()))),
            stream: TcpTable::compile(&streams),
        }
    }

    /// The rule for a request to `host` (see [`crate::host::host_name`]); `None`: refuse (`no_route_match`, 404 or
    /// UNIMPLEMENTED). Of one hostname's routes a gRPC request sees GRPCRoutes before HTTPRoutes.
    pub fn select(
        &self,
        host: &str,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Option<Selection<'_>> {
        let grpc = is_grpc(headers);
        self.http.covering(host).find_map(|tables| {
            let of_grpc = grpc.then(|| tables.grpc.select(method, uri, headers)).flatten();
            of_grpc.or_else(|| tables.http.select(method, uri, headers))
        })
    }

    /// The TLSRoutes' rule for a server name; `None`: refuse (`no_sni_match`).
    pub fn by_server_name(&self, server_name: Option<&str>) -> Option<&Arc<StreamRule>> {
        self.tls.select(server_name)
    }

    /// The TCPRoutes' or UDPRoutes' rule.
    pub fn stream(&self) -> Option<&Arc<StreamRule>> {
        self.stream.as_ref().map(TcpTable::rule)
    }
}

/// The hostnames by which `route` is attached to the listener; `None`: it is not.
fn hostnames_at(route: &Route, gateway: &ObjectName, listener: &ListenerId) -> Option<Vec<String>> {
    let mut found = None;
    for attachment in route.listeners.iter().filter(|a| a.listener == *listener && a.gateway == *gateway) {
        let hostnames: &mut Vec<String> = found.get_or_insert_default();
        hostnames.extend(attachment.hostnames.iter().map(ToString::to_string));
    }
    found
}

fn http_tables(attached: &[(&Arc<Route>, Vec<String>)]) -> HostMap<HostTables> {
    let mut by_hostname: HostMap<(Vec<RouteRules>, Vec<RouteRules>)> = HostMap::default();
    for (route, hostnames) in attached {
        // Compiled once, so that weights are kept over all of the route's hostnames.
        let Some(rules) = rules_of(route) else { continue };
        let hostnames: Vec<_> = hostnames.iter().map(|name| Some(name.as_str())).collect();
        let hostnames = if hostnames.is_empty() { vec![None] } else { hostnames };
        for hostname in hostnames {
            let (grpc, http) = by_hostname.entry(hostname, Default::default);
            let list = if route.id.kind == RouteKind::Grpc { grpc } else { http };
            if !list.iter().any(|known| Arc::ptr_eq(&known.route, route)) {
                list.push(rules.clone());
            }
        }
    }
    by_hostname.map(|(grpc, http)| HostTables { grpc: HttpTable::of(&grpc), http: HttpTable::of(&http) })
}

impl PortTable {
    /// The port's listeners.
    pub fn new(listeners: impl IntoIterator<Item = Arc<ListenerEntry>>) -> Self {
        let mut table = HostMap::default();
        for entry in listeners {
            // Two of one hostname would be a conflict, which is decided already: the first stays.
            table.entry(entry.listener.hostname.as_deref(), || Arc::clone(&entry));
        }
        Self { listeners: table }
    }

    /// The listener for a host or server name (see [`crate::host::host_name`]; empty: none was given).
    pub fn listener(&self, host: &str) -> Option<&Arc<ListenerEntry>> {
        self.listeners.most_specific(host)
    }
}

/// The number and protocol of every port of a Gateway, each with its listeners in the order of the Gateway.
pub fn ports_of(gateway: &Gateway) -> Vec<(PortProtocol, u16, Vec<&Listener>)> {
    let mut ports: Vec<(PortProtocol, u16, Vec<&Listener>)> = Vec::new();
    for listener in &gateway.listeners {
        let protocol = match listener.protocol {
            ListenerProtocol::Udp => PortProtocol::Udp,
            _ => PortProtocol::Tcp,
        };
        match ports.iter_mut().find(|(p, number, _)| *p == protocol && *number == listener.port) {
            Some((_, _, listeners)) => listeners.push(listener),
            None => ports.push((protocol, listener.port, vec![listener])),
        }
    }
    ports
}
