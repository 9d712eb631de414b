//! Makes the next [`Snapshot`] of the present one and what has changed: only what a change touches is rebuilt.

use std::sync::Arc;

use ahash::HashSet;
use serde::Deserialize;
use weft_model::route::{
    HttpRule, Match, Parent, Refusal, Route, RouteId, RouteKind, Rules, TcpRule, TlsRule,
};
use weft_model::service::Service;
use weft_model::workload::Workload;
use weft_model::{ObjectName, Resource, Text};

use super::Snapshot;

/// One change, as the config stream brings it.
#[derive(Clone, Debug)]
pub enum Change {
    /// A resource is new or different.
    Upsert(Resource),
    /// The resource of this name is gone.
    Remove(Text),
    /// The resource of this name could not be read: what it would govern is refused.
    Unreadable {
        /// The resource's name.
        name: Text,
        /// Why.
        message: Text,
        /// A route's stand-in, if at least its head could be read.
        stand_in: Option<Box<Route>>,
    },
}

/// The routes of one Service port.
#[derive(Clone, Debug, Default)]
pub(super) struct PortRoutes {
    /// Which routes name this port as parent.
    pub(super) routes: Vec<Arc<Route>>,
}

/// What every route has, whatever its rules are.
#[derive(Deserialize)]
struct RouteHead {
    id: RouteId,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    created: i64,
    parents: Vec<Parent>,
}

impl Change {
    /// Reads an upsert's payload, a [`Resource`] as JSON.
    pub fn read(name: &str, json: &[u8]) -> Self {
        let message = match serde_json::from_slice::<Resource>(json) {
            Ok(resource) if *resource.name().0 == *name => return Self::Upsert(resource),
            Ok(resource) => format!("the payload is {}", resource.name()),
            Err(error) => error.to_string(),
        };
        let head = serde_json::from_slice::<RouteHead>(json).ok();
        let stand_in = head
            .filter(|head| *name == *format!("Route/{}", head.id))
            .map(|head| Box::new(refusing(head, &message)));
        Self::Unreadable { name: name.into(), message: message.into(), stand_in }
    }
}

/// A route in the place of one that this proxy cannot read: it refuses whatever reaches it.
fn refusing(head: RouteHead, message: &str) -> Route {
    let message = format!("this proxy cannot read the route ({message}); update weft-proxy").into();
    let refusal = Some(Refusal { message });
    let rules = match head.id.kind {
        RouteKind::Grpc | RouteKind::Http => {
            Rules::Http(vec![HttpRule { matches: vec![Match::default()], refusal, ..HttpRule::default() }])
        }
        RouteKind::Tls => {
            Rules::Tls(vec![TlsRule { name: None, hostnames: Vec::new(), backends: Vec::new(), refusal }])
        }
        RouteKind::Tcp => Rules::Tcp(vec![TcpRule { name: None, backends: Vec::new(), refusal }]),
    };
    Route { id: head.id, generation: head.generation, created: head.created, parents: head.parents, rules }
}

impl Snapshot {
    /// The snapshot after `changes`, in their order, which bring it to `version`.
    #[must_use]
    pub fn apply(&self, version: u64, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut next = Self { version, ..self.clone() };
        let mut ports = HashSet::default();
        for change in changes {
            match change {
                Change::Upsert(resource) => {
                    next.unreadable.remove(&*resource.name().0);
                    next.upsert(resource, &mut ports);
                }
                Change::Remove(name) => {
                    next.unreadable.remove(&*name);
                    next.remove(&name, &mut ports);
                }
                Change::Unreadable { name, message, stand_in } => {
                    next.unreadable.insert(name.clone(), message);
                    match stand_in {
                        Some(route) => next.upsert(Resource::Route(*route), &mut ports),
                        // The mesh's old facts are better than none; anything else is refused once forgotten.
                        None if &*name == "MeshConfig" => {}
                        None => next.remove(&name, &mut ports),
                    }
                }
            }
        }
        for port in ports {
            next.rebuild(port);
        }
        next
    }

    fn upsert(&mut self, resource: Resource, ports: &mut HashSet<(ObjectName, u16)>) {
        match resource {
            Resource::MeshConfig(mesh) => self.mesh = Some(Arc::new(mesh)),
            Resource::Service(service) => {
                let service = Arc::new(service);
                if let Some(old) = self.services.insert(service.name.clone(), service.clone()) {
                    self.forget_addresses_of_service(&old);
                }
                for address in addresses_of(&service) {
                    self.services_by_address.insert(address, service.clone());
                }
            }
            Resource::Endpoints(endpoints) => {
                self.endpoints.insert(endpoints.service.clone(), Arc::new(endpoints));
            }
            Resource::Workload(workload) => {
                let workload = Arc::new(workload);
                if let Some(old) = self.workloads.insert(workload.uid.clone(), workload.clone()) {
                    self.forget_addresses_of_workload(&old);
                }
                for address in &workload.addresses {
                    self.workloads_by_address.insert(address.to_canonical(), workload.clone());
                }
            }
            Resource::Route(route) => {
                let route = Arc::new(route);
                ports.extend(ports_of(&route));
                for port in ports_of(&route) {
                    self.list(port, &route);
                }
                if let Some(old) = self.routes.insert(route.id.clone(), route.clone()) {
                    let kept: HashSet<_> = ports_of(&route).collect();
                    for port in ports_of(&old).filter(|port| !kept.contains(port)) {
                        self.unlist(&port, &old.id);
                        ports.insert(port);
                    }
                }
            }
        }
    }

    fn remove(&mut self, name: &str, ports: &mut HashSet<(ObjectName, u16)>) {
        let (kind, key) = name.split_once('/').unwrap_or((name, ""));
        match kind {
            "MeshConfig" => self.mesh = None,
            "Service" => {
                let service = key.parse().ok().and_then(|name: ObjectName| self.services.remove(&name));
                if let Some(service) = service {
                    self.forget_addresses_of_service(&service);
                }
            }
            "Endpoints" => {
                if let Ok(service) = key.parse::<ObjectName>() {
                    self.endpoints.remove(&service);
                }
            }
            "Workload" => {
                if let Some(workload) = self.workloads.remove(key) {
                    self.forget_addresses_of_workload(&workload);
                }
            }
            "Route" => {
                let Some(old) = route_id(key).and_then(|id| self.routes.remove(&id)) else { return };
                for port in ports_of(&old) {
                    self.unlist(&port, &old.id);
                    ports.insert(port);
                }
            }
            _ => {}
        }
    }

    /// An address may have passed to another Service in the meantime: that entry stays.
    fn forget_addresses_of_service(&mut self, old: &Arc<Service>) {
        for address in addresses_of(old) {
            if self.services_by_address.get(&address).is_some_and(|now| Arc::ptr_eq(now, old)) {
                self.services_by_address.remove(&address);
            }
        }
    }

    /// As for Services.
    fn forget_addresses_of_workload(&mut self, old: &Arc<Workload>) {
        for address in old.addresses.iter().map(std::net::IpAddr::to_canonical) {
            if self.workloads_by_address.get(&address).is_some_and(|now| Arc::ptr_eq(now, old)) {
                self.workloads_by_address.remove(&address);
            }
        }
    }

    fn list(&mut self, port: (ObjectName, u16), route: &Arc<Route>) {
        let mut routes = self.routes_of_port(&port);
        match routes.iter_mut().find(|listed| listed.id == route.id) {
            Some(listed) => *listed = route.clone(),
            None => routes.push(route.clone()),
        }
        self.routes_by_port.insert(port, Arc::new(PortRoutes { routes }));
    }

    fn unlist(&mut self, port: &(ObjectName, u16), id: &RouteId) {
        let mut routes = self.routes_of_port(port);
        routes.retain(|listed| listed.id != *id);
        self.routes_by_port.insert(port.clone(), Arc::new(PortRoutes { routes }));
    }

    fn routes_of_port(&self, port: &(ObjectName, u16)) -> Vec<Arc<Route>> {
        self.routes_by_port.get(port).map(|port| port.routes.clone()).unwrap_or_default()
    }

    /// Compiles the routes of one Service port anew.
    fn rebuild(&mut self, port: (ObjectName, u16)) {
        if self.routes_of_port(&port).is_empty() {
            self.routes_by_port.remove(&port);
        }
    }
}

fn ports_of(route: &Route) -> impl Iterator<Item = (ObjectName, u16)> {
    route.parents.iter().map(|parent| (parent.service.clone(), parent.port))
}

fn addresses_of(service: &Service) -> Vec<(std::net::IpAddr, u16)> {
    let pairs = |ip: &std::net::IpAddr| {
        let ip = ip.to_canonical();
        service.ports.iter().map(move |port| (ip, port.port)).collect::<Vec<_>>()
    };
    service.addresses.iter().flat_map(pairs).collect()
}

fn route_id(key: &str) -> Option<RouteId> {
    let (kind, name) = key.split_once('/')?;
    let kind = [RouteKind::Grpc, RouteKind::Http, RouteKind::Tls, RouteKind::Tcp]
        .into_iter()
        .find(|candidate| candidate.as_str() == kind)?;
    Some(RouteId { kind, name: name.parse().ok()? })
}
