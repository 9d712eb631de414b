//! What a Gateway's proxy keeps of the configuration: its Gateway, compiled by port, and what TLS needs. A node's proxy is
//! sent none of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::HashSet;
use weft_model::ObjectName;
use weft_model::gateway::{BackendTls, Certificate, Gateway, ListenerId, ListenerProtocol};
use weft_model::route::Route;
use weft_model::service::PortProtocol;
use weft_routing::listener::ports_of;
use weft_routing::{ListenerEntry, ListenerTable, PortTable};

use super::Snapshot;

/// The Gateway's part of a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners {
    pub(super) gateway: Option<Arc<Gateway>>,
    pub(super) certificates: BTreeMap<ObjectName, Arc<Certificate>>,
    pub(super) backend_tls: BTreeMap<(ObjectName, u16), Arc<BackendTls>>,
    entries: BTreeMap<ListenerId, Arc<ListenerEntry>>,
    ports: BTreeMap<(PortProtocol, u16), Port>,
}

/// One port.
#[derive(Clone, Debug)]
struct Port {
    /// Of all its listeners, or one of those that TLS tells apart.
    protocol: ListenerProtocol,
    table: PortTable,
}

/// What changes have touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// The Gateway itself.
    pub(super) gateway: bool,
    /// Listeners whose routes are others now.
    listeners: HashSet<ListenerId>,
}

impl Touched {
    /// Notes the listeners that a route is or was attached to.
    pub(super) fn note(&mut self, route: &Route) {
        self.listeners.extend(route.listeners.iter().map(|attachment| attachment.listener.clone()));
    }
}

impl Snapshot {
    /// The Gateway that is served.
    pub fn gateway(&self) -> Option<&Arc<Gateway>> {
        self.listeners.gateway.as_ref()
    }

    /// The numbers of the ports to listen on.
    pub fn gateway_ports(&self, protocol: PortProtocol) -> impl Iterator<Item = u16> {
        self.listeners.ports.keys().filter(move |(of, _)| *of == protocol).map(|(_, port)| *port)
    }

    /// What is spoken on a TCP port; `None`: nothing listens there any more.
    pub fn gateway_protocol(&self, port: u16) -> Option<ListenerProtocol> {
        self.listeners.ports.get(&(PortProtocol::Tcp, port)).map(|port| port.protocol)
    }

    /// The listener on a TCP port for a host or server name ([`weft_routing::host::host_name`]).
    pub fn listener(&self, port: u16, host: &str) -> Option<&Arc<ListenerEntry>> {
        self.listeners.ports.get(&(PortProtocol::Tcp, port))?.table.listener(host)
    }

    /// Compiles anew what `touched` says, and keeps the rest.
    pub(super) fn rebuild_listeners(&mut self, touched: &Touched) {
        let Some(gateway) = self.listeners.gateway.clone() else {
            if touched.gateway {
                let (entries, ports) = (BTreeMap::new(), BTreeMap::new());
                self.listeners = Arc::new(Listeners { entries, ports, ..(*self.listeners).clone() });
            }
            return;
        };
        if !touched.gateway && touched.listeners.is_empty() {
            return;
        }
        let attached = self.routes.iter().filter(|(_, route)| !route.listeners.is_empty());
        let routes: Vec<_> = attached.map(|(_, route)| Arc::clone(route)).collect();
        let listeners = Arc::make_mut(&mut self.listeners);
        let mut before = std::mem::take(&mut listeners.entries);
        for listener in &gateway.listeners {
            let id = &listener.id;
            let same = before.remove(id).filter(|_| !touched.listeners.contains(id));
            let table = match same {
                Some(entry) if entry.listener == *listener && entry.gateway == gateway.name => {
                    listeners.entries.insert(id.clone(), entry);
                    continue;
                }
                Some(entry) if entry.gateway == gateway.name => Arc::clone(&entry.table),
                _ => Arc::new(ListenerTable::compile(&gateway.name, id, &routes)),
            };
            let entry = ListenerEntry { gateway: gateway.name.clone(), listener: listener.clone(), table };
            listeners.entries.insert(id.clone(), Arc::new(entry));
        }
        listeners.ports = ports_of(&gateway)
            .into_iter()
            .filter_map(|(protocol, number, of_port)| {
                let entries = of_port.iter().filter_map(|l| listeners.entries.get(&l.id).cloned());
                let port = Port { protocol: of_port.first()?.protocol, table: PortTable::new(entries) };
                Some(((protocol, number), port))
            })
            .collect();
    }
}
