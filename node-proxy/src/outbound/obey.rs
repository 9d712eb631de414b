//! Gateways that obey the routes of Services (`serviceRoutes: obey`): when a rule of the Gateway's has chosen a Service's
//! port, that Service's own routes decide, as for a pod of the Gateway's namespace. They are asked once: whatever they
//! choose gets it, and its own routes are not asked again.

use std::sync::Arc;

use weft_model::Reason;
use weft_model::route::RouteId;
use weft_model::service::PortProtocol;
use weft_routing::{PortRoutes, Selection, StreamRule, Table, TlsTable};

use super::detect;
use super::http::refusal::Refused;
use super::route::{Routed, Target, backend_on, no_match, select};
use crate::state::Snapshot;
use crate::telemetry::{Labels, Named, RuleName};

/// As whom, and after what, a Service's routes are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Obeying<'s, 'a> {
    /// The configuration.
    pub snapshot: &'s Snapshot,
    /// The Gateway's namespace: consumer routes of it hold.
    pub namespace: &'a str,
    /// The Gateway's route that chose the Service. If it is on the Service as well it has decided already.
    pub after: &'a RouteId,
}

/// What the routes of a Service's port make of a request or connection.
#[derive(Debug)]
pub enum Obeyed<'a> {
    /// There are none, or the one that decides has done so: to the port's endpoints.
    Nothing,
    /// A rule of HTTP.
    Rule(Selection<'a>),
    /// A rule for bytes.
    Stream(&'a Arc<StreamRule>),
}

/// What the routes of a Service's port make of a byte stream.
#[derive(Debug)]
pub enum Streamed<'a> {
    /// As [`Obeyed::Nothing`].
    Nothing,
    /// This rule decides.
    Rule(&'a Arc<StreamRule>),
    /// The server name of the client's TLS decides.
    ByServerName(&'a TlsTable),
}

impl<'s> Obeying<'s, '_> {
    /// What decides about a request whose rule has chosen `target`.
    ///
    /// # Errors
    /// As for a pod's call: `no_route_match` where routes cover the port and none matches.
    pub fn request(
        &self,
        target: &Target<'_>,
        head: &http::request::Parts,
        labels: &mut Labels,
    ) -> Result<Obeyed<'s>, Refused> {
        let Some((service, port)) = &target.service else { return Ok(Obeyed::Nothing) };
        let Some(routes) = self.routes(PortProtocol::Tcp, target) else { return Ok(Obeyed::Nothing) };
        labels.service = Some(Named::Known((service.clone(), *port)));
        match &routes.table {
            Table::Http(_) if self.leave_to_bytes(routes, target) => Ok(Obeyed::Nothing),
            Table::Http(table) => match select(table, service, *port, head)? {
                Routed::Rule(selection) if selection.route().id != *self.after => Ok(Obeyed::Rule(selection)),
                Routed::Rule(_) | Routed::Plain(_) => Ok(Obeyed::Nothing),
            },
            Table::Tcp(table) => Ok(Obeyed::Stream(table.rule())),
            Table::Tls(_) => Err(no_match(service, *port)),
        }
    }

    /// What decides about a byte stream whose rule has chosen `target`.
    ///
    /// # Errors
    /// `no_route_match` where the port has routes of HTTP, which bytes cannot be routed by.
    pub fn stream(&self, target: &Target<'_>, labels: &mut Labels) -> Result<Streamed<'s>, Refused> {
        let Some((service, port)) = &target.service else { return Ok(Streamed::Nothing) };
        let Some(routes) = self.routes(PortProtocol::Tcp, target) else { return Ok(Streamed::Nothing) };
        labels.service = Some(Named::Known((service.clone(), *port)));
        match &routes.table {
            Table::Http(_) if self.leave_to_bytes(routes, target) => Ok(Streamed::Nothing),
            Table::Http(_) => {
                let message = format!(
                    "routes of HTTP cover port {port} of Service {service}, and this listener takes bytes: use a listener \
                     of HTTP, or declare the port's appProtocol as tcp"
                );
                Err(Refused::new(Reason::NoRouteMatch, message))
            }
            Table::Tcp(table) => Ok(self.other(table.rule()).map_or(Streamed::Nothing, Streamed::Rule)),
            Table::Tls(table) => Ok(Streamed::ByServerName(table)),
        }
    }

    /// The rule that decides about a flow of datagrams whose rule has chosen `target`; `None`: that choice stands.
    pub fn flow(&self, target: &Target<'_>) -> Option<&'s Arc<StreamRule>> {
        match &self.routes(PortProtocol::Udp, target)?.table {
            Table::Tcp(table) => self.other(table.rule()),
            Table::Http(_) | Table::Tls(_) => None,
        }
    }

    /// Where a rule for bytes leads.
    ///
    /// # Errors
    /// It is refused, or has no backend that can be used.
    pub fn follow(
        &self,
        on: PortProtocol,
        rule: &StreamRule,
        labels: &mut Labels,
    ) -> Result<Target<'s>, Refused> {
        let name = rule.name.clone().map_or(RuleName::Index(rule.index), RuleName::Name);
        labels.service_route = Some((rule.route.id.clone(), name));
        if let Some(refusal) = &rule.refusal {
            return Err(Refused::new(Reason::InvalidRoute, &*refusal.message));
        }
        let target = backend_on(self.snapshot, on, rule.next_backend())?;
        labels.backend.clone_from(&target.service);
        Ok(target)
    }

    /// A rule, unless it is of the route that has decided.
    pub fn other(&self, rule: &'s Arc<StreamRule>) -> Option<&'s Arc<StreamRule>> {
        (rule.route.id != *self.after).then_some(rule)
    }

    fn routes(&self, on: PortProtocol, target: &Target<'_>) -> Option<&'s PortRoutes> {
        let (service, port) = target.service.as_ref()?;
        let routes = match on {
            PortProtocol::Tcp => self.snapshot.routes(service, *port),
            PortProtocol::Udp => self.snapshot.udp_routes(service, *port),
        };
        routes?.select_set(self.namespace)
    }

    fn leave_to_bytes(&self, routes: &PortRoutes, target: &Target<'_>) -> bool {
        let declared = target.service.as_ref().map(|(service, port)| self.snapshot.declared(service, *port));
        declared.is_none_or(|declared| detect::leave_to_bytes(routes, declared))
    }
}
