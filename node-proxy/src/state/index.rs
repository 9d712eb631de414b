//! Makes the next [`Snapshot`] of the present one and what has changed: only what a change touches is rebuilt.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::HashSet;
use weft_api::delta::Change;
use weft_model::gateway::Listener;
use weft_model::node::Node;
use weft_model::route::{Route, RouteId};
use weft_model::service::{NodePort, PortProtocol, Service};
use weft_model::workload::Workload;
use weft_model::{ObjectName, Resource, ResourceName};
use weft_routing::ServicePortRoutes;

use super::Snapshot;
use super::gateway::Touched;
use super::topology::{self, Place};

/// A Service port: a Service may have one of TCP and one of UDP with the same number.
pub(super) type PortKey = (ObjectName, PortProtocol, u16);

/// The routes of one Service port.
#[derive(Clone, Debug, Default)]
pub(super) struct PortRoutes {
    /// Which routes name this port as parent, in no order.
    listed: Vec<Arc<Route>>,
    /// What requests are decided by.
    pub(super) compiled: Option<Arc<ServicePortRoutes>>,
}

impl Snapshot {
    /// The snapshot after `changes`, in their order, which bring it to `version`.
    #[must_use]
    pub fn apply(&self, version: u64, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut next = Self { version, ..self.clone() };
        let (mut ports, mut touched) = (HashSet::default(), Touched::default());
        for change in changes {
            next.note_rejection(&change);
            match change {
                Change::Set(name, resource) => {
                    next.upsert(name, Resource::clone(&resource), &mut ports, &mut touched);
                }
                // What depends on it is refused, once it is forgotten.
                Change::Removed(name) | Change::Refused { name, .. } => {
                    next.remove(&name, &mut ports, &mut touched);
                }
            }
        }
        for port in ports {
            next.rebuild(port);
        }
        next.rebuild_listeners(&touched);
        next
    }

    fn note_rejection(&mut self, change: &Change) {
        match change {
            Change::Refused { name, message } => {
                Arc::make_mut(&mut self.rejected).insert(name.clone(), message.clone());
            }
            Change::Set(name, _) | Change::Removed(name) if self.rejected.contains_key(name) => {
                Arc::make_mut(&mut self.rejected).remove(name);
            }
            Change::Set(..) | Change::Removed(_) => {}
        }
    }

    fn upsert(
        &mut self,
        name: ResourceName,
        resource: Resource,
        ports: &mut HashSet<PortKey>,
        touched: &mut Touched,
    ) {
        match resource {
            Resource::MeshConfig(mesh) => self.mesh = Some(Arc::new(mesh)),
            Resource::Service(service) => self.put_service(service),
            Resource::Endpoints(endpoints) => {
                let service = endpoints.service.clone();
                self.all_endpoints.insert(service.clone(), Arc::new(endpoints));
                self.judge(&service);
            }
            Resource::Node(node) => self.put_node(node),
            Resource::Workload(workload) => self.put_workload(workload),
            Resource::Gateway(mut gateway) => {
                touched.gateway = true;
                gateway.listeners = gateway.listeners.into_iter().map(Listener::understood).collect();
                Arc::make_mut(&mut self.listeners).gateway = Some(Arc::new(gateway));
            }
            Resource::Certificate(certificate) => {
                touched.gateway = true;
                let certificates = &mut Arc::make_mut(&mut self.listeners).certificates;
                certificates.insert(certificate.name.clone(), Arc::new(certificate));
            }
            Resource::BackendTls(tls) => {
                touched.gateway = true;
                let backend_tls = &mut Arc::make_mut(&mut self.listeners).backend_tls;
                backend_tls.insert((tls.service.clone(), tls.port), Arc::new(tls));
            }
            Resource::Route(route) => self.put_route(name, route, ports, touched),
        }
    }

    fn put_service(&mut self, service: Service) {
        let service = Arc::new(service);
        if let Some(old) = self.services.insert(service.name.clone(), service.clone()) {
            self.forget_addresses_of_service(&old);
        }
        self.judge(&service.name);
        self.put_traffic(&service);
        self.put_host(&service);
        for ip in ips_of(&service) {
            self.services_by_ip.insert(ip, service.clone());
        }
        for address in addresses_of(&service) {
            self.services_by_address.insert(address, service.clone());
        }
        for address in udp_addresses_of(&service) {
            self.services_by_udp_address.insert(address, service.clone());
        }
        for NodePort { node_port, port, protocol } in service.node_ports.iter().copied() {
            self.services_by_node_port.insert((protocol, node_port), (service.clone(), port));
        }
    }

    fn put_node(&mut self, node: Node) {
        let node = Arc::new(node);
        let old = self.nodes.insert(node.name.clone(), node.clone());
        self.forget_addresses_of_node(old.as_deref());
        for address in &node.addresses {
            self.nodes_by_address.insert(address.to_canonical(), node.name.clone());
        }
        if node.name == self.node && old.is_none_or(|old| old.zone != node.zone) {
            self.judge_all();
        }
    }

    fn put_workload(&mut self, workload: Workload) {
        let workload = Arc::new(workload);
        if let Some(old) = self.workloads.insert(workload.uid.clone(), workload.clone()) {
            self.forget_addresses_of_workload(&old);
        }
        for address in &workload.addresses {
            self.workloads_by_address.insert(address.to_canonical(), workload.clone());
        }
    }

    fn put_route(
        &mut self,
        name: ResourceName,
        route: Route,
        ports: &mut HashSet<PortKey>,
        touched: &mut Touched,
    ) {
        let route = Arc::new(route);
        touched.note(&route);
        ports.extend(ports_of(&route));
        for port in ports_of(&route) {
            self.list(port, &route);
        }
        if let Some(old) = self.routes.insert(name, route.clone()) {
            touched.note(&old);
            let kept: HashSet<_> = ports_of(&route).collect();
            for port in ports_of(&old).filter(|port| !kept.contains(port)) {
                self.unlist(&port, &old.id);
                ports.insert(port);
            }
        }
    }

    fn remove(&mut self, name: &ResourceName, ports: &mut HashSet<PortKey>, touched: &mut Touched) {
        let (kind, key) = name.0.split_once('/').unwrap_or((&name.0, ""));
        match kind {
            "MeshConfig" => self.mesh = None,
            "Service" => {
                let service = key.parse().ok().and_then(|name: ObjectName| self.services.remove(&name));
                if let Some(service) = service {
                    self.forget_traffic(&service.name);
                    self.forget_host(&service.name);
                    self.forget_addresses_of_service(&service);
                }
            }
            "Endpoints" => {
                if let Ok(service) = key.parse::<ObjectName>() {
                    self.all_endpoints.remove(&service);
                    self.endpoints.remove(&service);
                }
            }
            "Node" => {
                let old = self.nodes.remove(key);
                self.forget_addresses_of_node(old.as_deref());
                if old.is_some() && *key == *self.node {
                    self.judge_all();
                }
            }
            "Workload" => {
                if let Some(workload) = self.workloads.remove(key) {
                    self.forget_addresses_of_workload(&workload);
                }
            }
            "Route" => {
                let Some(old) = self.routes.remove(name) else { return };
                touched.note(&old);
                for port in ports_of(&old) {
                    self.unlist(&port, &old.id);
                    ports.insert(port);
                }
            }
            _ => self.remove_of_gateway(kind, key, touched),
        }
    }

    fn remove_of_gateway(&mut self, kind: &str, key: &str, touched: &mut Touched) {
        touched.gateway |= matches!(kind, "Gateway" | "Certificate" | "BackendTls");
        let listeners = Arc::make_mut(&mut self.listeners);
        match kind {
            "Gateway" => listeners.gateway = None,
            "Certificate" => {
                if let Ok(name) = key.parse::<ObjectName>() {
                    listeners.certificates.remove(&name);
                }
            }
            "BackendTls" => {
                let parsed = key.rsplit_once('/').and_then(|(service, port)| {
                    Some((service.parse::<ObjectName>().ok()?, port.parse::<u16>().ok()?))
                });
                if let Some(key) = parsed {
                    listeners.backend_tls.remove(&key);
                }
            }
            _ => {}
        }
    }

    /// What of a Service's endpoints may be chosen from this node.
    fn judge(&mut self, service: &ObjectName) {
        let Some(endpoints) = self.all_endpoints.get(service) else { return };
        // A Gateway's callers are on no node of the cluster.
        let on_node = !self.node.is_empty();
        let policy = self.services.get(service).filter(|_| on_node).map(|s| s.internal_traffic_policy);
        let zone = self.nodes.get(&self.node).and_then(|node| node.zone.as_deref());
        let place = Place { node: &self.node, zone };
        let judged = topology::judge(endpoints, policy.unwrap_or_default(), place);
        self.endpoints.insert(service.clone(), judged);
    }

    fn judge_all(&mut self) {
        let services: Vec<ObjectName> =
            self.all_endpoints.iter().map(|(service, _)| service.clone()).collect();
        for service in services {
            self.judge(&service);
        }
    }

    /// An address may have passed to another Service in the meantime: that entry stays.
    fn forget_addresses_of_service(&mut self, old: &Arc<Service>) {
        for address in addresses_of(old) {
            if self.services_by_address.get(&address).is_some_and(|now| Arc::ptr_eq(now, old)) {
                self.services_by_address.remove(&address);
            }
        }
        for address in udp_addresses_of(old) {
            if self.services_by_udp_address.get(&address).is_some_and(|now| Arc::ptr_eq(now, old)) {
                self.services_by_udp_address.remove(&address);
            }
        }
        for port in old.node_ports.iter().map(|port| (port.protocol, port.node_port)) {
            if self.services_by_node_port.get(&port).is_some_and(|(now, _)| Arc::ptr_eq(now, old)) {
                self.services_by_node_port.remove(&port);
            }
        }
        for ip in ips_of(old) {
            if self.services_by_ip.get(&ip).is_some_and(|now| Arc::ptr_eq(now, old)) {
                self.services_by_ip.remove(&ip);
            }
        }
    }

    /// As for Services.
    fn forget_addresses_of_node(&mut self, old: Option<&Node>) {
        let Some(old) = old else { return };
        for address in old.addresses.iter().map(IpAddr::to_canonical) {
            if self.nodes_by_address.get(&address) == Some(&old.name) {
                self.nodes_by_address.remove(&address);
            }
        }
    }

    /// As for Services.
    fn forget_addresses_of_workload(&mut self, old: &Arc<Workload>) {
        for address in old.addresses.iter().map(IpAddr::to_canonical) {
            if self.workloads_by_address.get(&address).is_some_and(|now| Arc::ptr_eq(now, old)) {
                self.workloads_by_address.remove(&address);
            }
        }
    }

    fn list(&mut self, port: PortKey, route: &Arc<Route>) {
        let mut listed = self.listed(&port);
        match listed.iter_mut().find(|other| other.id == route.id) {
            Some(other) => *other = route.clone(),
            None => listed.push(route.clone()),
        }
        self.routes_by_port.insert(port, PortRoutes { listed, compiled: None });
    }

    fn unlist(&mut self, port: &PortKey, id: &RouteId) {
        let mut listed = self.listed(port);
        listed.retain(|other| other.id != *id);
        self.routes_by_port.insert(port.clone(), PortRoutes { listed, compiled: None });
    }

    fn listed(&self, port: &PortKey) -> Vec<Arc<Route>> {
        self.routes_by_port.get(port).map(|port| port.listed.clone()).unwrap_or_default()
    }

    /// Compiles the routes of one Service port anew.
    fn rebuild(&mut self, port: PortKey) {
        let listed = self.listed(&port);
        match ServicePortRoutes::compile(&port.0, port.1, port.2, &listed).map(Arc::new) {
            None => self.routes_by_port.remove(&port),
            compiled => self.routes_by_port.insert(port, PortRoutes { listed, compiled }),
        };
    }
}

fn ports_of(route: &Route) -> impl Iterator<Item = PortKey> {
    let protocol = route.id.kind.port_protocol();
    route.parents.iter().map(move |parent| (parent.service.clone(), protocol, parent.port))
}

fn ips_of(service: &Service) -> impl Iterator<Item = IpAddr> {
    service.addresses.iter().map(IpAddr::to_canonical)
}

fn udp_addresses_of(service: &Service) -> Vec<(IpAddr, u16)> {
    ips_of(service).flat_map(|ip| service.udp_ports.iter().map(move |port| (ip, *port))).collect()
}

fn addresses_of(service: &Service) -> Vec<(IpAddr, u16)> {
    let pairs = |ip: &IpAddr| {
        let ip = ip.to_canonical();
        service.ports.iter().map(move |port| (ip, port.port)).collect::<Vec<_>>()
    };
    service.addresses.iter().flat_map(pairs).collect()
}
