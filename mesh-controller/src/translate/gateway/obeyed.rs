//! Gateways that obey the routes of the Services that they send to: which routes these are.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::route::Route;
use weft_model::service::PortProtocol;
use weft_model::{ObjectName, Resource, ResourceName, Text};

use super::{Facts, Gateways, needs};
use crate::inputs;
use crate::translate::Translated;
use crate::translate::parent::Attachment;

/// A Service's port.
type Port = (ObjectName, PortProtocol, u16);

/// The Service ports that the routes at such Gateways choose, with the Gateways' namespaces.
#[derive(Debug, Default)]
pub(crate) struct Chosen(BTreeMap<Port, BTreeSet<Text>>);

/// Gathers them. The routes at Gateways have been published.
pub(crate) fn chosen(gateways: &Gateways<'_>, out: &Translated) -> Chosen {
    let mut chosen = Chosen::default();
    if !gateways.by_name.values().any(|facts| facts.service_routes) {
        return chosen;
    }
    for route in routes(out) {
        let gateway = route.listeners.first().map(|attachment| &attachment.gateway);
        let gateway = gateway.filter(|name| gateways.by_name.get(*name).is_some_and(|it| it.service_routes));
        let Some(gateway) = gateway else { continue };
        for port in ports(route) {
            chosen.0.entry(port).or_default().insert(gateway.namespace.clone());
        }
    }
    chosen
}

impl Chosen {
    /// Whether a Gateway may obey a route where it is attached to a Service: a producer's, or one for consumers of the
    /// Gateway's namespace.
    pub(crate) fn needs(&self, route: &inputs::Route, attachment: &Attachment<'_>) -> bool {
        let protocol = route.name.kind.port_protocol();
        attachment.ports.iter().flatten().any(|port| {
            let gateways = self.0.get(&(attachment.service.clone(), protocol, *port));
            let audience = attachment.audience(route);
            gateways.is_some_and(|them| audience.is_none_or(|namespace| them.contains(&namespace)))
        })
    }
}

/// The routes that Gateways obey, by the Service ports that they are on.
#[derive(Debug, Default)]
pub(crate) struct Obeyed<'r>(BTreeMap<Port, Vec<(&'r ResourceName, &'r Route)>>);

impl<'r> Obeyed<'r> {
    /// Those that are published.
    pub(crate) fn of(out: &'r Translated) -> Self {
        let mut all = Self::default();
        for (name, resource) in &out.resources {
            let Resource::Route(route) = resource else { continue };
            for parent in route.parents.iter().filter(|_| route.for_gateways) {
                let key = (parent.service.clone(), route.id.kind.port_protocol(), parent.port);
                all.0.entry(key).or_default().push((name, route));
            }
        }
        all
    }

    /// Those that a Gateway with these routes obeys: on each Service port those of consumers of its namespace, else the
    /// producer's, as its proxies decide.
    pub(crate) fn by(
        &self,
        gateway: &Facts<'_>,
        routes: &[(&ResourceName, &'r Route)],
    ) -> Vec<(&'r ResourceName, &'r Route)> {
        let namespace = &gateway.name().namespace;
        let mut obeyed = BTreeMap::new();
        let chosen = routes.iter().filter(|_| gateway.service_routes).flat_map(|(_, route)| ports(route));
        for port in chosen {
            let on = self.0.get(&port).map(Vec::as_slice).unwrap_or_default();
            let own = |(_, route): &&(_, &Route)| {
                route.is_consumer_of(&port.0) && route.id.name.namespace == *namespace
            };
            match on.iter().any(|one| own(&one)) {
                true => obeyed.extend(on.iter().filter(own).copied()),
                false => {
                    obeyed.extend(on.iter().filter(|(_, route)| !route.is_consumer_of(&port.0)).copied())
                }
            }
        }
        obeyed.into_iter().collect()
    }
}

fn routes(out: &Translated) -> impl Iterator<Item = &Route> {
    out.resources.values().filter_map(|resource| match resource {
        Resource::Route(route) => Some(route),
        _ => None,
    })
}

/// The Service ports that a route's rules choose between.
fn ports(route: &Route) -> impl Iterator<Item = Port> {
    let protocol = route.id.kind.port_protocol();
    needs::backends(route).into_iter().map(move |(service, port)| (service.clone(), protocol, port))
}
