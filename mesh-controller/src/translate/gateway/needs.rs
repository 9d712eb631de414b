//! What a Gateway's proxies are sent: exactly what they need.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::gateway::{Gateway, ListenerTls, ShownCertificate};
use weft_model::route::{Backend, BackendTarget, Filter, Route, Rules};
use weft_model::service::Service;
use weft_model::{Identity, ObjectName, Resource, ResourceName, Text};

use super::obeyed::Obeyed;
use super::{Facts, Gateways};
use crate::infrastructure::names;
use crate::inputs::Inputs;
use crate::translate::Translated;

/// Who a Gateway's proxies are, and what they need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayNeeds {
    /// The ServiceAccount that its proxies run as, in the Gateway's namespace.
    pub service_account: Text,
    /// The identity that they have, and the only one.
    pub identity: Identity,
    /// The resources that they are sent.
    pub names: BTreeSet<ResourceName>,
}

/// Gathers it for all of them. Everything that is published has been.
pub(crate) fn all(
    inputs: &Inputs,
    gateways: &Gateways<'_>,
    out: &Translated,
) -> BTreeMap<ObjectName, GatewayNeeds> {
    let mut routes: BTreeMap<&ObjectName, Vec<(&ResourceName, &Route)>> = BTreeMap::new();
    for (name, resource) in &out.resources {
        if let Resource::Route(route) = resource
            && let Some(attachment) = route.listeners.first()
        {
            routes.entry(&attachment.gateway).or_default().push((name, route));
        }
    }
    let obeyed = Obeyed::of(out);
    let of = |(name, facts): (&ObjectName, &Facts<'_>)| {
        let routes = routes.get(name).map(Vec::as_slice).unwrap_or_default();
        // What these choose in turn is final: no further routes are needed for it.
        let routes = [routes, &obeyed.by(facts, routes)].concat();
        (name.clone(), of(inputs, facts, &routes, out))
    };
    gateways.by_name.iter().map(of).collect()
}

fn of(
    inputs: &Inputs,
    facts: &Facts<'_>,
    routes: &[(&ResourceName, &Route)],
    out: &Translated,
) -> GatewayNeeds {
    let name = facts.name();
    let service_account: Text = names::object(&name.name, facts.class).into();
    let identity = Identity {
        trust_domain: inputs.mesh.trust_domain.clone(),
        namespace: name.namespace.clone(),
        service_account: service_account.clone(),
    };
    let mut needed = BTreeSet::from([Resource::MeshConfig(inputs.mesh.clone()).name()]);
    let key = ResourceName(format!("Gateway/{name}").into());
    if let Some(Resource::Gateway(gateway)) = out.resources.get(&key) {
        needed.extend(
            certificates(gateway).iter().map(|name| ResourceName(format!("Certificate/{name}").into())),
        );
        let servers = gateway.listeners.iter().flat_map(|listener| &listener.filters);
        add_backends(services(servers.map(|auth| &auth.server)), out, &mut needed);
    }
    needed.insert(key);
    for (name, route) in routes {
        needed.insert((*name).clone());
        add_backends(targets(route), out, &mut needed);
    }
    GatewayNeeds { service_account, identity, names: needed }
}

/// The certificates that a Gateway names.
pub(crate) fn certificates(gateway: &Gateway) -> BTreeSet<&ObjectName> {
    let listeners = gateway.listeners.iter().filter_map(|listener| match &listener.tls {
        Some(ListenerTls::Terminate { certificates, .. }) => Some(certificates),
        _ => None,
    });
    listeners.flatten().chain(&gateway.client_certificate).collect()
}

fn add_backends(
    targets: BTreeSet<(&ObjectName, u16)>,
    out: &Translated,
    needed: &mut BTreeSet<ResourceName>,
) {
    for (service, port) in targets {
        let names = [
            format!("Service/{service}"),
            format!("Endpoints/{service}"),
            format!("BackendTls/{service}/{port}"),
        ];
        for name in names.map(|name| ResourceName(name.into())) {
            let Some(resource) = out.resources.get(&name) else { continue };
            if let Resource::Endpoints(endpoints) = resource {
                let all = endpoints.ports.values().flatten();
                let workloads = all.filter_map(|endpoint| endpoint.workload.as_ref());
                needed.extend(workloads.map(|uid| ResourceName(format!("Workload/{uid}").into())));
            }
            if let Resource::Service(Service { host: Some(_), .. }) = resource {
                needed.extend(nodes(out).cloned());
            }
            if let Resource::BackendTls(tls) = resource
                && let ShownCertificate::Own(certificate) = &tls.shown
            {
                needed.insert(ResourceName(format!("Certificate/{certificate}").into()));
            }
            needed.insert(name);
        }
    }
}

/// All nodes: a host that is found at the address of one is not called.
fn nodes(out: &Translated) -> impl Iterator<Item = &ResourceName> {
    out.resources.iter().filter(|(_, one)| matches!(one, Resource::Node(_))).map(|(name, _)| name)
}

/// The Service ports that a route's rules choose between.
pub(crate) fn backends(route: &Route) -> BTreeSet<(&ObjectName, u16)> {
    services(every_backend(route).iter().map(|backend| &backend.target))
}

fn every_backend(route: &Route) -> Vec<&Backend> {
    match &route.rules {
        Rules::Http(rules) => rules.iter().flat_map(|rule| &rule.backends).collect(),
        Rules::Tls(rules) => rules.iter().flat_map(|rule| &rule.backends).collect(),
        Rules::Tcp(rules) | Rules::Udp(rules) => rules.iter().flat_map(|rule| &rule.backends).collect(),
    }
}

/// The Service ports that a route may send to.
pub(crate) fn targets(route: &Route) -> BTreeSet<(&ObjectName, u16)> {
    let backends = every_backend(route);
    let own = match &route.rules {
        Rules::Http(rules) => rules.iter().flat_map(|rule| &rule.filters).collect(),
        _ => Vec::new(),
    };
    let filters = own.into_iter().chain(backends.iter().flat_map(|backend| &backend.filters));
    let beside = filters.filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(&mirror.target),
        Filter::ExternalAuth(auth) => Some(&auth.server),
        _ => None,
    });
    services(backends.iter().map(|backend| &backend.target).chain(beside))
}

fn services<'t>(targets: impl Iterator<Item = &'t BackendTarget>) -> BTreeSet<(&'t ObjectName, u16)> {
    let services = targets.filter_map(|target| match target {
        BackendTarget::Service { service, port, .. } => Some((service, *port)),
        BackendTarget::Invalid { .. } => None,
    });
    services.collect()
}
