//! Hosts outside the cluster, which XBackends name: what looking them up came to, and which of their addresses may be called.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ahash::HashMap;
use arc_swap::ArcSwap;
use weft_model::service::{Endpoint, Service};
use weft_model::{ObjectName, Text};

use super::Snapshot;

/// By name.
pub type Hosts = HashMap<Text, Found>;

/// What looking a host up came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What was found last, as long as it counts.
    pub addresses: Vec<IpAddr>,
    /// What became of the last try, if it failed.
    pub trouble: Option<Text>,
}

impl Snapshot {
    /// The hosts to look up.
    pub fn hosts_to_look_up(&self) -> BTreeSet<Text> {
        self.named_hosts.values().cloned().collect()
    }

    /// Where what is found is put.
    pub fn hosts(&self) -> &Arc<ArcSwap<Hosts>> {
        &self.hosts
    }

    /// The addresses of a host that may be called, as endpoints.
    ///
    /// # Errors
    /// Why there is none, in words for the caller.
    pub fn endpoints_of_host(&self, host: &str, port: u16) -> Result<Vec<Endpoint>, String> {
        let hosts = self.hosts.load();
        let Some(found) = hosts.get(host) else {
            return Err(format!("{host} has not been looked up yet"));
        };
        let outside = found.addresses.iter().filter(|address| self.is_outside(**address));
        let endpoints: Vec<_> = outside.map(|ip| Endpoint::at(SocketAddr::new(*ip, port))).collect();
        match (&found.trouble, found.addresses.is_empty()) {
            _ if !endpoints.is_empty() => Ok(endpoints),
            (_, false) => Err(format!("{host} has no address outside the cluster")),
            (Some(trouble), true) => Err(format!("{host} could not be looked up: {trouble}")),
            (None, true) => Err(format!("{host} has no address")),
        }
    }

    /// Whoever may name a host could otherwise have a proxy call what is the node's, the cloud's or another namespace's.
    fn is_outside(&self, address: IpAddr) -> bool {
        let address = meant_by(address);
        !is_special(address)
            && !address.is_loopback()
            && !address.is_multicast()
            && !self.is_in_cluster(address)
            && self.nodes_by_address.get(&address).is_none()
            && self.workload_at(address).is_none()
            && self.service_at(address).is_none()
    }

    pub(super) fn put_host(&mut self, service: &Service) {
        let Some(host) = &service.host else { return self.forget_host(&service.name) };
        if self.named_hosts.get(&service.name) != Some(host) {
            Arc::make_mut(&mut self.named_hosts).insert(service.name.clone(), host.clone());
        }
    }

    pub(super) fn forget_host(&mut self, service: &ObjectName) {
        if self.named_hosts.contains_key(service) {
            Arc::make_mut(&mut self.named_hosts).remove(service);
        }
    }
}

/// The address that packets to this one reach: IPv4 may be written as IPv6, also for a NAT64 (RFC 6052).
fn meant_by(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) if ip.segments().starts_with(&[0x64, 0xff9b, 0, 0, 0, 0]) => {
            let [.., a, b, c, d] = ip.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        other => other,
    }
}

/// Of a link or of nothing at all; and what clouds tell their machines secrets at, where that is not of the link (Azure,
/// Alibaba; AWS, Google).
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            ip.is_link_local()
                || ip.is_broadcast()
                || matches!(ip.octets(), [0, ..] | [168, 63, 129, 16] | [100, 100, 100, 200])
        }
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local()
                || ip.is_unspecified()
                || matches!(ip.segments(), [0xfd00, 0xec2, ..] | [0xfd20, 0xce, ..])
        }
    }
}
