//! Which Service ports a route is in force on: parentRefs resolved, and one kind of route left on each port.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::route::Parent;
use weft_model::service::PortProtocol;
use weft_model::{ObjectName, Text};

use super::service::{Form, Port, ServiceFacts, Services};
use crate::inputs::{ParentRef, Route, RouteKind};

/// A parentRef that names a Service, with the ports it leads to.
#[derive(Debug)]
pub(crate) struct Attachment<'a> {
    pub(crate) parent_ref: &'a ParentRef,
    pub(crate) service: ObjectName,
    /// The ports, or why there are none (`Accepted` false, reason `NoMatchingParent`).
    pub(crate) ports: Result<Vec<u16>, String>,
}

impl Attachment<'_> {
    fn is_explicit(&self) -> bool {
        self.parent_ref.port.is_some() || self.parent_ref.section_name.is_some()
    }

    /// Whose traffic the route is for on this Service: all callers', or those of its own namespace.
    pub(crate) fn audience(&self, route: &Route) -> Option<Text> {
        let own = &route.name.name.namespace;
        (*own != self.service.namespace).then(|| own.clone())
    }
}

/// Resolves the parentRefs of a route that name Services.
pub(crate) fn resolve<'a>(route: &'a Route, services: &Services) -> Vec<Attachment<'a>> {
    let mut seen = BTreeSet::new();
    let parents = route.parent_refs.iter().filter(|parent| parent.is_service());
    parents
        .filter(|parent| seen.insert(*parent))
        .map(|parent_ref| {
            let own = &*route.name.name.namespace;
            let namespace = parent_ref.namespace.as_deref().unwrap_or(own);
            let service = ObjectName::new(namespace, parent_ref.name.as_str());
            let ports = ports(parent_ref, &service, services, route.name.kind.port_protocol());
            Attachment { parent_ref, service, ports }
        })
        .collect()
}

/// `port` is a Service port's number, `sectionName` its name, both must agree, neither means every port.
fn ports(
    parent_ref: &ParentRef,
    service: &ObjectName,
    services: &Services,
    protocol: PortProtocol,
) -> Result<Vec<u16>, String> {
    let facts = services.get(service).ok_or_else(|| format!("Service {service} does not exist"))?;
    let unfit = match facts.form {
        Form::Addressed => None,
        Form::Headless => Some("is headless: it has no address that callers could be routed by"),
        Form::ExternalName => {
            Some("is of type ExternalName: it has no address that callers could be routed by")
        }
    };
    if let Some(unfit) = unfit {
        return Err(format!("Service {service} {unfit}; attach the route to a Service with a ClusterIP"));
    }
    let transport = protocol.as_str();
    let named = |port: &&Port| {
        parent_ref.port.is_none_or(|number| i64::from(port.number) == number)
            && parent_ref.section_name.as_deref().is_none_or(|name| port.name.as_deref() == Some(name))
    };
    let ports: Vec<u16> = facts.of(protocol).filter(named).map(|port| port.number).collect();
    if !ports.is_empty() {
        return Ok(ports);
    }
    Err(match (parent_ref.port, parent_ref.section_name.as_deref()) {
        (None, None) => format!("Service {service} has no {transport} port"),
        (Some(port), None) => {
            format!("Service {service} has no {transport} port {port}{}", those_of(facts, protocol))
        }
        (None, Some(name)) => {
            format!("Service {service} has no {transport} port named {name:?}{}", those_of(facts, protocol))
        }
        (Some(port), Some(name)) => format!(
            "Service {service} has no {transport} port {port} that is named {name:?}{}",
            those_of(facts, protocol)
        ),
    })
}

fn those_of(facts: &ServiceFacts, protocol: PortProtocol) -> String {
    let ports = facts.of(protocol).map(|port| match &port.name {
        Some(name) => format!("{} ({name})", port.number),
        None => port.number.to_string(),
    });
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { String::new() } else { format!("; it has {}", ports.join(", ")) }
}

/// The kind that holds each Service port, for all callers or for those of one namespace. GRPCRoute wins over
/// HTTPRoute, HTTPRoute over TLSRoute, TLSRoute over TCPRoute (GEP-1294). The two sets are never merged, so kinds
/// conflict only inside one.
#[derive(Debug, Default)]
pub(crate) struct Holders(BTreeMap<(ObjectName, u16, Option<Text>), RouteKind>);

impl Holders {
    /// Lets a route compete for the ports it is attached to. UDP is apart.
    pub(crate) fn compete(&mut self, route: &Route, attachments: &[Attachment<'_>]) {
        if route.name.kind == RouteKind::Udp {
            return;
        }
        for attachment in attachments {
            for port in attachment.ports.iter().flatten() {
                let key = (attachment.service.clone(), *port, attachment.audience(route));
                let holder = self.0.entry(key).or_insert(route.name.kind);
                *holder = route.name.kind.min(*holder);
            }
        }
    }

    /// The ports of an attachment that are held by another kind.
    pub(crate) fn lost(&self, route: &Route, attachment: &Attachment<'_>) -> Vec<(u16, RouteKind)> {
        let ports = attachment.ports.iter().flatten();
        ports.filter_map(|port| self.winner(route, attachment, *port).map(|winner| (*port, winner))).collect()
    }

    fn winner(&self, route: &Route, attachment: &Attachment<'_>, port: u16) -> Option<RouteKind> {
        let key = (attachment.service.clone(), port, attachment.audience(route));
        self.0
            .get(&key)
            .copied()
            .filter(|holder| *holder != route.name.kind && route.name.kind != RouteKind::Udp)
    }

    /// The Service ports the route is in force on.
    pub(crate) fn won(&self, route: &Route, attachments: &[Attachment<'_>]) -> Vec<Parent> {
        let mut won: BTreeMap<(ObjectName, u16), bool> = BTreeMap::new();
        for attachment in attachments {
            for port in attachment.ports.iter().flatten() {
                if self.winner(route, attachment, *port).is_none() {
                    let explicit = won.entry((attachment.service.clone(), *port)).or_default();
                    *explicit |= attachment.is_explicit();
                }
            }
        }
        won.into_iter()
            .map(|((service, port), explicit_port)| Parent { service, port, explicit_port })
            .collect()
    }
}
