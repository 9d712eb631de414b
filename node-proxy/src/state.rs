//! What the proxy knows: one immutable [`Snapshot`], swapped atomically. A request reads one from start to end.

pub mod client;
mod describe;
mod destinations;
mod gateway;
pub mod hosts;
mod index;
pub mod shards;
mod topology;
pub mod traffic;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use weft_model::node::Node;
use weft_model::route::Route;
use weft_model::service::{AppProtocol, Endpoint, Endpoints, PortProtocol, Service};
use weft_model::workload::{Workload, WorkloadProtocol};
use weft_model::{MeshConfig, ObjectName, ResourceName, Text};
use weft_routing::ServicePortRoutes;

use self::shards::Sharded;
use crate::call::{Destination, Transport};
use crate::config::SameNode;
use crate::pod::LocalPods;

/// The current snapshot, and a way to wait for the next one.
#[derive(Debug)]
pub struct State {
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
}

impl State {
    /// Starts with `first`.
    pub fn new(first: Snapshot) -> Self {
        let version = watch::Sender::new(first.version);
        Self { current: ArcSwap::from_pointee(first), version }
    }

    /// The current snapshot, for a short look.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The current snapshot, to be kept.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts `next` in force: what begins after this sees it.
    pub fn swap(&self, next: Arc<Snapshot>) {
        let version = next.version;
        self.current.store(next);
        self.version.send_replace(version);
    }

    /// Told at every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits at most `patience` for a snapshot in which `find` finds something; the snapshot in force is asked first.
    pub async fn find<T>(
        &self,
        patience: Duration,
        mut find: impl FnMut(&Arc<Snapshot>) -> Option<T>,
    ) -> Option<T> {
        let mut changed = self.version.subscribe();
        let search = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = find(&self.load()) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, search).await.ok().flatten()
    }
}

/// One consistent configuration, with the indexes that requests look things up in.
/// Cloning it is cheap: what is not changed is shared.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The version last applied; 0: none yet, everything is refused.
    pub version: u64,
    mesh: Option<Arc<MeshConfig>>,
    services: Sharded<ObjectName, Arc<Service>>,
    services_by_address: Sharded<(IpAddr, u16), Arc<Service>>,
    services_by_udp_address: Sharded<(IpAddr, u16), Arc<Service>>,
    services_by_node_port: Sharded<(PortProtocol, u16), (Arc<Service>, u16)>,
    /// The same without the port: who has an address where nobody has the port.
    services_by_ip: Sharded<IpAddr, Arc<Service>>,
    /// As they travel; `endpoints` holds what this node may choose of them.
    all_endpoints: Sharded<ObjectName, Arc<Endpoints>>,
    endpoints: Sharded<ObjectName, Arc<Endpoints>>,
    /// What policies say of Services.
    traffic: traffic::ByService,
    /// The hosts outside the cluster, by what names them.
    named_hosts: Arc<BTreeMap<ObjectName, Text>>,
    /// What they were found to be: always the present state, since it comes and goes by the DNS's word.
    hosts: Arc<ArcSwap<hosts::Hosts>>,
    nodes: Sharded<Text, Arc<Node>>,
    nodes_by_address: Sharded<IpAddr, Text>,
    /// The node that this proxy, and so every caller, is on.
    node: Text,
    workloads: Sharded<Text, Arc<Workload>>,
    workloads_by_address: Sharded<IpAddr, Arc<Workload>>,
    /// Of one route there may be two in a Gateway's proxy: at listeners, and on Services.
    routes: Sharded<ResourceName, Arc<Route>>,
    routes_by_port: Sharded<index::PortKey, index::PortRoutes>,
    /// Empty but in a Gateway's proxy.
    listeners: Arc<gateway::Listeners>,
    /// What could not be read, and why.
    rejected: Arc<BTreeMap<ResourceName, String>>,
    /// The pods served here: always the present ones, since they come and go by the agent's word.
    pods: Arc<ArcSwap<LocalPods>>,
    same_node: SameNode,
}

impl Snapshot {
    /// Knows nothing yet, so that everything is refused.
    pub fn empty(pods: Arc<ArcSwap<LocalPods>>, same_node: SameNode) -> Self {
        Self {
            version: 0,
            mesh: None,
            services: Sharded::default(),
            services_by_address: Sharded::default(),
            services_by_udp_address: Sharded::default(),
            services_by_node_port: Sharded::default(),
            services_by_ip: Sharded::default(),
            all_endpoints: Sharded::default(),
            endpoints: Sharded::default(),
            traffic: Arc::default(),
            named_hosts: Arc::default(),
            hosts: Arc::default(),
            nodes: Sharded::default(),
            nodes_by_address: Sharded::default(),
            node: Text::default(),
            workloads: Sharded::default(),
            workloads_by_address: Sharded::default(),
            routes: Sharded::default(),
            routes_by_port: Sharded::default(),
            listeners: Arc::default(),
            rejected: Arc::default(),
            pods,
            same_node,
        }
    }

    /// Which node callers are on, for policies that prefer what is near.
    #[must_use]
    pub fn on_node(self, node: &str) -> Self {
        Self { node: node.into(), ..self }
    }

    /// Whether a controller has told this proxy anything; if not, every connection is refused.
    pub fn is_configured(&self) -> bool {
        self.version > 0 && self.mesh.is_some()
    }

    /// Facts about the whole mesh.
    pub fn mesh(&self) -> Option<&Arc<MeshConfig>> {
        self.mesh.as_ref()
    }

    /// What an original destination is (`dataplane.md` rule 8).
    pub fn destination(&self, original: SocketAddr) -> Destination {
        let (ip, port) = (original.ip().to_canonical(), original.port());
        if let Some(service) = self.services_by_address.get(&(ip, port)) {
            let protocol = protocol_of(service, port);
            return Destination::Service { service: service.clone(), port, protocol };
        }
        if let Some((service, port)) = self.node_port(PortProtocol::Tcp, ip, port) {
            let protocol = protocol_of(service, port);
            return Destination::Service { service: service.clone(), port, protocol };
        }
        if let Some(workload) = self.workloads_by_address.get(&ip) {
            return Destination::Workload { workload: workload.clone(), port };
        }
        if self.is_in_cluster(ip) { Destination::Unknown } else { Destination::External }
    }

    /// The Service that has this address, whatever its ports.
    pub fn service_at(&self, ip: IpAddr) -> Option<&Arc<Service>> {
        self.services_by_ip.get(&ip.to_canonical())
    }

    /// Without the mesh's facts every address may be the cluster's.
    fn is_in_cluster(&self, ip: IpAddr) -> bool {
        self.mesh.as_ref().is_none_or(|mesh| {
            mesh.service_ranges.iter().chain(&mesh.pod_ranges).any(|range| range.contains(&ip))
        })
    }

    /// The Service of this name.
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// What a TCP port of a Service says it speaks.
    pub fn declared(&self, service: &ObjectName, port: u16) -> AppProtocol {
        self.service(service).map_or(AppProtocol::Unspecified, |service| protocol_of(service, port))
    }

    /// The endpoints of a TCP port of a Service, ready to be chosen from this node or not; none for a Service that is not known.
    pub fn endpoints(&self, service: &ObjectName, port: u16) -> &[Endpoint] {
        let known = self.endpoints.get(service).and_then(|endpoints| endpoints.ports.get(&port));
        known.map_or(&[], Vec::as_slice)
    }

    /// As [`Self::endpoints`], but ready to be chosen from anywhere: what this node prefers does not count.
    pub fn endpoints_anywhere(&self, service: &ObjectName, port: u16) -> &[Endpoint] {
        let known = self.all_endpoints.get(service).and_then(|endpoints| endpoints.ports.get(&port));
        known.map_or(&[], Vec::as_slice)
    }

    /// As [`Self::endpoints`], of a UDP port.
    pub fn udp_endpoints(&self, service: &ObjectName, port: u16) -> &[Endpoint] {
        let known = self.endpoints.get(service).and_then(|endpoints| endpoints.udp_ports.get(&port));
        known.map_or(&[], Vec::as_slice)
    }

    /// The routes in force on a TCP port of a Service; `None`: plain forwarding.
    pub fn routes(&self, service: &ObjectName, port: u16) -> Option<&Arc<ServicePortRoutes>> {
        self.routes_by_port.get(&(service.clone(), PortProtocol::Tcp, port))?.compiled.as_ref()
    }

    /// The pod with this UID.
    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        self.workloads.get(uid).cloned()
    }

    /// The pod that has this address.
    pub fn workload_at(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads_by_address.get(&ip.to_canonical())
    }

    /// The way from the pod `source` to a pod (or to an address that is none). The short cut inside this process is taken only
    /// where no packet filter of the host has a say about either: it would see no packet (`dataplane.md` rule 24). A
    /// source that is not known may have one.
    pub fn transport_to(&self, workload: Option<&Workload>, source: Option<&Workload>) -> Transport {
        let Some(workload) = workload else { return Transport::Plaintext };
        let unfiltered = |pod: &Workload| pod.filtered_by.is_none();
        let short =
            self.same_node == SameNode::Direct && unfiltered(workload) && source.is_some_and(unfiltered);
        let local = || self.pods.load().by_uid(&workload.uid).filter(|_| short).cloned();
        match workload.protocol {
            WorkloadProtocol::Plaintext => Transport::Plaintext,
            WorkloadProtocol::Tunnel => {
                local().map_or_else(|| Transport::Tunnel(workload.identity.clone()), Transport::SameNode)
            }
        }
    }

    /// How many of each thing there are, for the admin server: kind and number.
    pub fn counts(&self) -> [(&'static str, usize); 5] {
        [
            ("Node", self.nodes.len()),
            ("Service", self.services.len()),
            ("Endpoints", self.all_endpoints.len()),
            ("Workload", self.workloads.len()),
            ("Route", self.routes.len()),
        ]
    }
}

fn protocol_of(service: &Service, port: u16) -> AppProtocol {
    let port = service.ports.iter().find(|p| p.port == port);
    port.map_or(AppProtocol::Unspecified, |p| p.protocol)
}
