//! Where a Service is called besides its TCP ports' addresses in the cluster's ranges, and what of that the agent has to
//! capture for a pod.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_api::node::Destinations;
use weft_model::ObjectName;
use weft_model::service::{PortProtocol, Service};
use weft_routing::ServicePortRoutes;

use super::Snapshot;

/// The most destinations of one pod; a message to the agent has room for more.
const LIMIT: usize = 1_000;

impl Snapshot {
    /// The Service whose UDP port is called at this address, and the port's number.
    pub fn udp_destination(&self, original: SocketAddr) -> Option<(&Arc<Service>, u16)> {
        let (ip, port) = (original.ip().to_canonical(), original.port());
        let service = self.services_by_udp_address.get(&(ip, port)).map(|service| (service, port));
        service.or_else(|| self.node_port(PortProtocol::Udp, ip, port))
    }

    /// The Service port that a port of a node leads to.
    pub(super) fn node_port(
        &self,
        protocol: PortProtocol,
        ip: IpAddr,
        port: u16,
    ) -> Option<(&Arc<Service>, u16)> {
        self.nodes_by_address.get(&ip)?;
        let (service, port) = self.services_by_node_port.get(&(protocol, port))?;
        Some((service, *port))
    }

    /// The routes in force on a UDP port of a Service; `None`: plain forwarding.
    pub fn udp_routes(&self, service: &ObjectName, port: u16) -> Option<&Arc<ServicePortRoutes>> {
        self.routes_by_port.get(&(service.clone(), PortProtocol::Udp, port))?.compiled.as_ref()
    }

    /// What is to be captured of a pod of this namespace besides TCP to the cluster's ranges, and how much more there
    /// would be than is possible.
    pub fn captured(&self, namespace: &str) -> (Destinations, usize) {
        let mut all = Destinations::default();
        for (_, service) in self.services.iter() {
            for ip in service.addresses.iter().filter(|ip| !self.is_in_cluster(ip.to_canonical())) {
                all.tcp.extend(service.ports.iter().map(|port| SocketAddr::new(*ip, port.port)));
            }
            let of_tcp = service.node_ports.iter().filter(|port| port.protocol == PortProtocol::Tcp);
            all.node_ports.extend(of_tcp.map(|port| port.node_port));
        }
        self.add_routed_udp(namespace, &mut all);
        if !(all.node_ports.is_empty() && all.udp_node_ports.is_empty()) {
            all.nodes = self.nodes.iter().flat_map(|(_, node)| node.addresses.iter().copied()).collect();
        }
        let more = cut(&mut all);
        (all, more)
    }

    fn add_routed_udp(&self, namespace: &str, all: &mut Destinations) {
        for ((service, protocol, port), routes) in self.routes_by_port.iter() {
            let here = routes.compiled.as_ref().is_some_and(|routes| routes.select_set(namespace).is_some());
            if *protocol != PortProtocol::Udp || !here {
                continue;
            }
            let Some(service) = self.services.get(service) else { continue };
            all.udp.extend(service.addresses.iter().map(|ip| SocketAddr::new(*ip, *port)));
            let mut at_nodes = service.node_ports.iter();
            let at_nodes = at_nodes.find(|at| at.protocol == PortProtocol::Udp && at.port == *port);
            all.udp_node_ports.extend(at_nodes.map(|at| at.node_port));
        }
    }
}

/// Cuts to what is possible. Returns how many were cut off.
fn cut(all: &mut Destinations) -> usize {
    let mut room = LIMIT;
    let udp = keep(&mut all.udp, &mut room) + keep(&mut all.udp_node_ports, &mut room);
    let tcp = keep(&mut all.tcp, &mut room) + keep(&mut all.node_ports, &mut room);
    udp + tcp + keep(&mut all.nodes, &mut room)
}

fn keep<T: Ord + Clone>(set: &mut BTreeSet<T>, room: &mut usize) -> usize {
    let more = set.len().saturating_sub(*room);
    if let Some(first_too_many) = set.iter().nth(*room).cloned() {
        set.split_off(&first_too_many);
    }
    *room -= set.len();
    more
}
