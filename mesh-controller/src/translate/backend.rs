//! References from routes to Services and XBackends: what they lead to, or why they cannot be used.

use weft_model::route::{Backend, BackendTarget, Filter};
use weft_model::service::{self, AppProtocol};
use weft_model::{ObjectName, Text};

use super::fault::{References, Unresolved, UnresolvedReason};
use super::gateway::policy::Policies;
use super::grant::Grants;
use super::service::{Form, Port, Services};
use super::xbackend::XBackends;
use crate::inputs::{EXPERIMENTAL, Kind, RouteKind};

/// The fields that every generated backend reference has, whatever its position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference<'a> {
    pub(crate) group: Option<&'a str>,
    pub(crate) kind: Option<&'a str>,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: &'a str,
    pub(crate) port: Option<i32>,
}

/// Reads a generated backend reference.
macro_rules! reference {
    ($reference:expr) => {
        $crate::translate::backend::Reference {
            group: $reference.group.as_deref(),
            kind: $reference.kind.as_deref(),
            namespace: $reference.namespace.as_deref(),
            name: &$reference.name,
            port: $reference.port,
        }
    };
}
pub(crate) use reference;

/// Resolves references of one route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backends<'a> {
    pub(crate) services: &'a Services,
    pub(crate) xbackends: &'a XBackends<'a>,
    /// What backends are spoken to as.
    pub(crate) kind: RouteKind,
    /// The kind of the object that refers.
    pub(crate) from: Kind,
    /// That object's namespace, for references that name none.
    pub(crate) namespace: &'a str,
    /// The route's name.
    pub(crate) route: &'a str,
    /// What counts at Gateways; `None`: the route is judged as one of Services.
    pub(crate) gateways: Option<AtGateways<'a>>,
}

/// What a backend at a Gateway is judged by beyond that: whether it may be referred to, and whether it is reached by
/// TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtGateways<'a> {
    pub(crate) grants: Grants<'a>,
    pub(crate) policies: &'a Policies<'a>,
}

impl Backends<'_> {
    /// A backendRef with its weight (1 when absent) and its converted filters.
    pub(crate) fn backend(
        &self,
        reference: Reference<'_>,
        weight: Option<i32>,
        filters: Vec<Filter>,
        references: &mut References,
    ) -> Backend {
        let weight = u32::try_from(weight.unwrap_or(1)).unwrap_or(0);
        Backend { weight, target: self.target(reference, references), filters }
    }

    /// Where a reference leads. What cannot be used is noted and becomes a target that is answered with an error.
    pub(crate) fn target(&self, reference: Reference<'_>, references: &mut References) -> BackendTarget {
        self.target_speaking(self.kind, reference, references)
    }

    /// As [`Self::target`], where it is spoken to as backends of `spoken` are, whatever the route's own kind.
    pub(crate) fn target_speaking(
        &self,
        spoken: RouteKind,
        reference: Reference<'_>,
        references: &mut References,
    ) -> BackendTarget {
        self.resolve(spoken, reference, references).unwrap_or_else(|fault| {
            let message = Text::from(fault.message.as_str());
            references.unresolved.push(fault);
            BackendTarget::Invalid { message }
        })
    }

    fn resolve(
        &self,
        spoken: RouteKind,
        reference: Reference<'_>,
        references: &mut References,
    ) -> Result<BackendTarget, Unresolved> {
        let name = ObjectName::new(reference.namespace.unwrap_or(self.namespace).to_owned(), reference.name);
        match (reference.group.unwrap_or_default(), reference.kind.unwrap_or("Service")) {
            ("" | "core", "Service") => self.service(spoken, name, reference.port),
            (EXPERIMENTAL, "XBackend") if self.xbackends.installed => {
                self.xbackend(spoken, &name, reference.port, references)
            }
            (group, kind) => {
                let message = format!(
                    "backend {kind}.{group} {name} is of a kind that is not supported; name a Service"
                );
                Err(Unresolved { reason: UnresolvedReason::InvalidKind, message })
            }
        }
    }

    /// It has to be in the same namespace, and no grant changes that (GEP-4894).
    fn xbackend(
        &self,
        spoken: RouteKind,
        name: &ObjectName,
        port: Option<i32>,
        references: &mut References,
    ) -> Result<BackendTarget, Unresolved> {
        let unresolved = |reason, message| Unresolved { reason, message };
        if *name.namespace != *self.namespace {
            let message = format!(
                "backend XBackend {name} is in another namespace; name one in namespace {}",
                self.namespace
            );
            return Err(unresolved(UnresolvedReason::RefNotPermitted, message));
        }
        let in_mesh = self.gateways.is_none();
        let Some(known) = self.xbackends.port(name, spoken.port_protocol(), in_mesh) else {
            let message = format!("backend XBackend {name} does not exist");
            return Err(unresolved(UnresolvedReason::BackendNotFound, message));
        };
        references.xbackends.insert(name.clone());
        if let Some(port) = port {
            let message =
                format!("backend XBackend {name} is named with port {port}, but has its own; leave it out");
            return Err(unresolved(UnresolvedReason::BackendNotFound, message));
        }
        let port = known.map_err(|(reason, message)| unresolved(reason, message))?;
        let protocol = protocol(spoken, port, false).ok_or_else(|| {
            let message = format!(
                "backend XBackend {name} says protocol {}, to which a {} cannot send; correct the one or the other",
                port.declared.as_deref().unwrap_or_default(),
                self.from
            );
            unresolved(UnresolvedReason::UnsupportedProtocol, message)
        })?;
        Ok(BackendTarget::Service { service: service::name_of_xbackend(name), port: port.number, protocol })
    }

    /// Across namespaces a mesh route needs no ReferenceGrant: its clients could call that Service anyway (GEP-1294).
    /// Whoever can reach a Gateway could not.
    fn service(
        &self,
        spoken: RouteKind,
        service: ObjectName,
        port: Option<i32>,
    ) -> Result<BackendTarget, Unresolved> {
        if let Some(at) = &self.gateways
            && !at.grants.permit(self.from, self.namespace, Kind::Service, &service)
        {
            let message = format!(
                "backend Service {service} is in another namespace, where no ReferenceGrant permits references from \
                 {}s of namespace {}",
                self.from, self.namespace
            );
            return Err(Unresolved { reason: UnresolvedReason::RefNotPermitted, message });
        }
        let not_found = |message| Unresolved { reason: UnresolvedReason::BackendNotFound, message };
        let facts = self
            .services
            .get(&service)
            .ok_or_else(|| not_found(format!("backend Service {service} does not exist")))?;
        if facts.form == Form::ExternalName {
            return Err(not_found(format!(
                "backend Service {service} is of type ExternalName, which has no endpoints; name a Service with endpoints"
            )));
        }
        let number =
            port.ok_or_else(|| not_found(format!("backend Service {service} is named without a port")))?;
        let transport = spoken.port_protocol();
        let port = facts.port(i64::from(number), transport).ok_or_else(|| {
            not_found(format!("backend Service {service} has no {} port {number}", transport.as_str()))
        })?;
        let by_tls = self.gateways.is_some_and(|at| at.policies.holds(&service, port.number));
        let protocol = protocol(spoken, port, by_tls).ok_or_else(|| Unresolved {
            reason: UnresolvedReason::UnsupportedProtocol,
            message: format!(
                "port {number} of backend Service {service} says appProtocol {}, to which a {} cannot send; correct the \
                 one or the other",
                port.declared.as_deref().unwrap_or_default(),
                self.from
            ),
        })?;
        Ok(BackendTarget::Service { service, port: port.number, protocol })
    }
}

/// What the application is spoken to in. `None`: the port declares something that a route of this kind cannot
/// send (GEP-1911). A port's name alone never makes a backend unusable.
fn protocol(kind: RouteKind, port: &Port, by_tls: bool) -> Option<AppProtocol> {
    use AppProtocol::{H2c, Http, Tcp, Tls, Unspecified, WebSocket};
    let declared = port.declared.is_some();
    match (kind, port.protocol) {
        // A BackendTLSPolicy says how TLS is spoken there: what is inside is as the request came.
        (RouteKind::Http, Tls) if by_tls => Some(Unspecified),
        (RouteKind::Grpc, Tls) if by_tls => Some(H2c),
        // gRPC is HTTP/2: known from the route, whether or not the port says so.
        (RouteKind::Grpc, H2c | Unspecified) => Some(H2c),
        (RouteKind::Grpc, _) => (!declared).then_some(H2c),
        (RouteKind::Http, Http | H2c | WebSocket | Unspecified) => Some(port.protocol),
        (RouteKind::Http, Tls | Tcp) => (!declared).then_some(Unspecified),
        (RouteKind::Tls, Tls | Tcp | Unspecified) => Some(Tcp),
        (RouteKind::Tls, Http | H2c | WebSocket) => (!declared).then_some(Tcp),
        (RouteKind::Tcp, _) => Some(Tcp),
        (RouteKind::Udp, _) => Some(Unspecified),
    }
}
