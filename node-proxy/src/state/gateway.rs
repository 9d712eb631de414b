//! What a Gateway's proxy keeps of the configuration: its Gateway, compiled by port, and what TLS needs. Of all this a node's
//! proxy is sent how XBackends are reached by TLS.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::{HashMap, HashSet};
use weft_model::gateway::{
    BackendTls, Certificate, ClientValidation, Gateway, Listener, ListenerId, ListenerProtocol, ListenerTls,
    ShownCertificate,
};
use weft_model::route::Route;
use weft_model::service::PortProtocol;
use weft_model::{ObjectName, Text};
use weft_routing::listener::ports_of;
use weft_routing::{ListenerEntry, ListenerTable, PortTable};
use weft_tls::{Clients, FrontendTls, KeyPem, Offer, TlsError};

use super::Snapshot;
use crate::gateway::udp::followed;
use crate::send::backend::{BackendPolicy, Client};

/// The Gateway's part of a snapshot.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners {
    pub(super) gateway: Option<Arc<Gateway>>,
    pub(super) certificates: BTreeMap<ObjectName, Arc<Certificate>>,
    pub(super) backend_tls: BTreeMap<(ObjectName, u16), Arc<BackendTls>>,
    /// By Service, then port.
    policies: HashMap<ObjectName, Vec<(u16, Arc<BackendPolicy>)>>,
    frontends: BTreeMap<ListenerId, Arc<Frontend>>,
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

/// What a listener's TLS is made of, and the result.
#[derive(Debug)]
pub struct Frontend {
    stated: ListenerTls,
    certificates: Vec<Arc<Certificate>>,
    /// `Err`: why it cannot be served.
    pub tls: Result<FrontendTls, TlsError>,
}

/// What changes have touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// The Gateway itself, a certificate or a backend's policy.
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

    /// The ports to listen on. One of UDP only while a route can be followed there: nothing else can refuse a datagram.
    pub fn gateway_ports(&self) -> impl Iterator<Item = (PortProtocol, u16)> {
        let ports = self.listeners.ports.iter().filter(|((protocol, _), port)| {
            let listener = || port.table.listener("");
            *protocol == PortProtocol::Tcp || listener().is_some_and(|entry| followed(entry).is_ok())
        });
        ports.map(|(port, _)| *port)
    }

    /// What is spoken on a TCP port; `None`: nothing listens there any more.
    pub fn gateway_protocol(&self, port: u16) -> Option<ListenerProtocol> {
        self.listeners.ports.get(&(PortProtocol::Tcp, port)).map(|port| port.protocol)
    }

    /// The listener on a TCP port for a host or server name ([`weft_routing::host::host_name`]).
    pub fn listener(&self, port: u16, host: &str) -> Option<&Arc<ListenerEntry>> {
        self.listeners.ports.get(&(PortProtocol::Tcp, port))?.table.listener(host)
    }

    /// How backends of a Service port are reached by TLS; `None`: they are not.
    pub fn backend_policy(&self, service: &ObjectName, port: u16) -> Option<&Arc<BackendPolicy>> {
        if self.listeners.policies.is_empty() {
            return None;
        }
        let of_service = self.listeners.policies.get(service)?;
        of_service.iter().find(|(of, _)| *of == port).map(|(_, policy)| policy)
    }

    /// The server's side of TLS at a listener; `None`: it ends none.
    pub fn frontend(&self, listener: &ListenerId) -> Option<&Arc<Frontend>> {
        self.listeners.frontends.get(listener)
    }

    /// The listener of a UDP port: it has it to itself.
    pub fn udp_listener(&self, port: u16) -> Option<&Arc<ListenerEntry>> {
        self.listeners.ports.get(&(PortProtocol::Udp, port))?.table.listener("")
    }

    /// Compiles anew what `touched` says, and keeps the rest.
    pub(super) fn rebuild_listeners(&mut self, touched: &Touched) {
        if touched.gateway {
            Arc::make_mut(&mut self.listeners).rebuild_policies();
        }
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
        if touched.gateway {
            Arc::make_mut(&mut self.listeners).rebuild_tls(&gateway);
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

impl Listeners {
    /// Makes what TLS needs, towards both sides. What has not changed is kept, with the sessions that clients resume.
    fn rebuild_tls(&mut self, gateway: &Gateway) {
        let mut before = std::mem::take(&mut self.frontends);
        for listener in &gateway.listeners {
            let Some(stated @ ListenerTls::Terminate { certificates, .. }) = &listener.tls else { continue };
            let found = certificates.iter().filter_map(|name| self.certificates.get(name).cloned());
            let found: Vec<_> = found.collect();
            let same = |old: &Arc<Frontend>| old.stated == *stated && old.certificates == found;
            let frontend = match before.remove(&listener.id).filter(same) {
                Some(old) => old,
                None => Arc::new(Frontend::new(listener, stated, found)),
            };
            self.frontends.insert(listener.id.clone(), frontend);
        }
    }

    /// Makes how backends are reached by TLS.
    fn rebuild_policies(&mut self) {
        let before = std::mem::take(&mut self.policies);
        for ((service, port), stated) in &self.backend_tls {
            let shown = match &stated.shown {
                ShownCertificate::Gateways => {
                    self.gateway.as_ref().and_then(|gateway| gateway.client_certificate.as_ref())
                }
                ShownCertificate::None => None,
                ShownCertificate::Own(name) => Some(name),
            };
            let client = match shown {
                None => Client::None,
                Some(name) => {
                    self.certificates.get(name).cloned().map_or(Client::Missing, Client::Certificate)
                }
            };
            let old = before.get(service).and_then(|of| of.iter().find(|(of, _)| of == port));
            let policy = match old.filter(|(_, old)| old.is_of(stated, &client)) {
                Some((_, old)) => Arc::clone(old),
                None => Arc::new(BackendPolicy::new(Arc::clone(stated), client.clone())),
            };
            self.policies.entry(service.clone()).or_default().push((*port, policy));
        }
    }
}

impl Frontend {
    fn new(listener: &Listener, stated: &ListenerTls, certificates: Vec<Arc<Certificate>>) -> Self {
        let tls = Self::prepare(listener, stated, &certificates);
        if let Err(error) = &tls {
            tracing::warn!(listener = %listener.id, %error, "the listener's TLS cannot be served");
        }
        Self { stated: stated.clone(), certificates, tls }
    }

    fn prepare(
        listener: &Listener,
        stated: &ListenerTls,
        certificates: &[Arc<Certificate>],
    ) -> Result<FrontendTls, TlsError> {
        let validation = match stated {
            ListenerTls::Terminate { client_validation, .. } => client_validation.as_ref(),
            ListenerTls::Passthrough => None,
        };
        let roots: Vec<&str> = match validation {
            Some(ClientValidation { roots_pem, .. }) => roots_pem.iter().map(|pem| &**pem).collect(),
            None => Vec::new(),
        };
        let clients = match validation {
            None => Clients::Anybody,
            Some(validation) if validation.allow_insecure_fallback => Clients::Asked,
            Some(_) => Clients::Verified(&roots),
        };
        let offer = match listener.protocol {
            ListenerProtocol::Https => Offer::Http,
            _ => Offer::Bytes,
        };
        let pem = |certificate: &Arc<Certificate>| -> (Text, Text) {
            (certificate.chain_pem.clone(), certificate.key_pem.0.clone())
        };
        let pems: Vec<_> = certificates.iter().map(pem).collect();
        let keys: Vec<_> = pems.iter().map(|(chain, key)| KeyPem { chain, key }).collect();
        FrontendTls::new(&keys, clients, offer)
    }
}
