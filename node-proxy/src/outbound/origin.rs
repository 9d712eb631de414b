//! Where a connection comes from, and all that this decides about its requests: captured from an enrolled pod, or
//! accepted at a listener of a Gateway. Whatever follows the choice of the rule is the same for both.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_model::{Identity, Reason};
use weft_routing::ListenerEntry;
use weft_routing::host::host_name;

use super::affinity::Kept;
use super::http::authority_of;
use super::http::refusal::Refused;
use super::route::{Routed, route};
use crate::call::{Captured, Destination};
use crate::config::Config;
use crate::gateway::Entrance;
use crate::pod::LocalPod;
use crate::scope::Scope;
use crate::state::Snapshot;
use crate::telemetry::{AtListener, Labels, Named, Outcome, Party, Protocol, Reporter, Security};

/// Where a connection comes from.
#[derive(Debug)]
pub struct Origin {
    /// In whose name requests are sent on: the caller's pod, or the Gateway's.
    pub sender: Arc<LocalPod>,
    /// The caller's address and port.
    pub peer: SocketAddr,
    /// How long the connection may last.
    pub scope: Arc<Scope>,
    /// How it came in.
    pub way: Way,
}

/// How a connection came in.
#[derive(Debug)]
pub enum Way {
    /// Captured on its way to this address.
    Captured(SocketAddr),
    /// At a Gateway.
    Gateway(Entrance),
}

impl Origin {
    /// The endpoints that the caller keeps. At a Gateway nobody's are kept: its own pod is no client, and its clients are
    /// as many as like.
    pub(crate) fn kept_endpoints(&self) -> Option<&Kept> {
        match self.way {
            Way::Captured(_) => Some(&self.sender.kept_endpoints),
            Way::Gateway(_) => None,
        }
    }

    /// That of a captured connection.
    pub fn captured(captured: &Captured) -> Self {
        let Captured { source, peer, original, .. } = captured;
        let (sender, scope) = (Arc::clone(source), Arc::clone(&source.scope));
        Self { sender, peer: *peer, scope, way: Way::Captured(*original) }
    }

    /// What is known of a request or of the connection before anything is decided.
    pub fn outcome(&self, snapshot: &Snapshot, protocol: Protocol) -> Outcome {
        let (reporter, source) = match &self.way {
            Way::Captured(_) => (Reporter::Source, Party::of(snapshot.workload(&self.sender.enrolled.uid))),
            Way::Gateway(_) => (Reporter::Gateway, Party::Unknown),
        };
        let mut outcome = Outcome::new(Labels::new(reporter, source, protocol, Security::None));
        outcome.source_address = Some(self.peer);
        outcome
    }

    /// Where the caller meant to go, for an outcome in which nothing else was reached.
    pub fn dialled(&self) -> SocketAddr {
        match &self.way {
            Way::Captured(original) => *original,
            Way::Gateway(entrance) => entrance.address,
        }
    }

    /// The address whose family endpoints are preferred in.
    pub fn family(&self) -> IpAddr {
        match &self.way {
            Way::Captured(original) => original.ip(),
            // The caller's own family says nothing about the cluster's.
            Way::Gateway(entrance) => {
                self.sender.enrolled.addresses.first().copied().unwrap_or_else(|| entrance.address.ip())
            }
        }
    }

    /// The scheme that was spoken.
    pub fn scheme(&self) -> &'static str {
        match &self.way {
            Way::Gateway(Entrance { server_name: Some(_), .. }) => "https",
            Way::Captured(_) | Way::Gateway(_) => "http",
        }
    }

    /// Who calls, where that is known: a captured connection's pod.
    pub fn caller(&self) -> Option<&Identity> {
        match &self.way {
            Way::Captured(_) => Some(&self.sender.identity),
            Way::Gateway(_) => None,
        }
    }

    /// Whether it came in at a Gateway.
    pub fn is_gateway(&self) -> bool {
        matches!(self.way, Way::Gateway(_))
    }

    /// For whom a proxy before a Gateway calls.
    pub fn client(&self, config: &Config, headers: &http::HeaderMap) -> Option<IpAddr> {
        match &self.way {
            Way::Captured(_) => None,
            Way::Gateway(entrance) => entrance.client(config, headers),
        }
    }

    /// What a proxy at the edge says of the caller. Between pods nothing is added.
    pub fn announce(&self, head: &mut http::request::Parts) {
        if let Way::Gateway(entrance) = &self.way {
            entrance.announce(self.scheme(), head);
        }
    }

    /// The listener that a request is for; `None`: it comes from a pod. Decided before any filter runs, and only once.
    ///
    /// # Errors
    /// At a Gateway `no_route_match` where no listener has the host, and `misdirected`.
    pub fn admit<'s>(
        &self,
        snapshot: &'s Snapshot,
        head: &http::request::Parts,
        labels: &mut Labels,
    ) -> Result<Option<&'s Arc<ListenerEntry>>, Refused> {
        match &self.way {
            Way::Captured(_) => Ok(None),
            Way::Gateway(entrance) => entrance.admit(snapshot, head, labels).map(Some),
        }
    }

    /// Finds what decides about a request; `at`: the listener that it is for.
    ///
    /// # Errors
    /// As [`route`]; at a Gateway `no_route_match`.
    pub fn decide<'s>(
        &self,
        snapshot: &'s Snapshot,
        at: Option<&'s Arc<ListenerEntry>>,
        head: &http::request::Parts,
        labels: &mut Labels,
    ) -> Result<Routed<'s>, Refused> {
        match (&self.way, at) {
            (Way::Captured(original), _) => {
                let destination = snapshot.destination(*original);
                if let Destination::Service { service, port, .. } = &destination {
                    labels.service = Some(Named::Known((service.name.clone(), *port)));
                }
                let namespace = &self.sender.enrolled.pod.namespace;
                route(snapshot, &destination, *original, namespace, head)
            }
            (Way::Gateway(_), at) => {
                let host = host_name(authority_of(head));
                let selected =
                    at.and_then(|entry| entry.table.select(&host, &head.method, &head.uri, &head.headers));
                selected.map(Routed::Rule).ok_or_else(|| {
                    let message = "no route of the Gateway's listener matches this request";
                    Refused::new(Reason::NoRouteMatch, message)
                })
            }
        }
    }
}

impl Entrance {
    fn admit<'s>(
        &self,
        snapshot: &'s Snapshot,
        head: &http::request::Parts,
        labels: &mut Labels,
    ) -> Result<&'s Arc<ListenerEntry>, Refused> {
        let host = host_name(authority_of(head));
        let port = self.address.port();
        let unknown = || {
            let message = format!("no listener of this Gateway serves this host on port {port}");
            Refused::new(Reason::NoRouteMatch, message)
        };
        let entry = snapshot.listener(port, &host).ok_or_else(unknown)?;
        labels.listener = Some(AtListener(Arc::clone(entry)));
        if let Some(name) = &self.server_name {
            let named = snapshot.listener(port, name);
            if named.is_none_or(|named| named.listener.id != entry.listener.id) {
                let message = "this connection was made for another host: use a new one";
                return Err(Refused::new(Reason::Misdirected, message));
            }
        }
        if !self.fits(&entry.listener) {
            return Err(unknown());
        }
        if let Some(refusal) = &entry.listener.refusal {
            return Err(Refused::new(Reason::InvalidListener, &*refusal.message));
        }
        Ok(entry)
    }
}
