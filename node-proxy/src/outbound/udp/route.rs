//! What decides about a flow, and whether one that goes on still follows it.

use std::sync::Arc;

use weft_model::route::{Backend, BackendTarget};
use weft_model::service::PortProtocol;
use weft_model::{ObjectName, Reason, Text};
use weft_routing::StreamRule;

use crate::outbound::http::refusal::Refused;
use crate::outbound::obey::Obeying;
use crate::outbound::route::{Target, backend_on};
use crate::state::Snapshot;
use crate::telemetry::{Labels, Named, RuleName};

/// What decides about a flow.
pub(crate) enum FlowRoute<'s> {
    /// A UDPRoute's rule.
    Rule(&'s Arc<StreamRule>),
    /// As well; the routes of the Service that it chooses come after it, as this namespace sees them.
    Obeying(&'s Arc<StreamRule>, Text),
    /// No route: the Service port that was called.
    Plain(ObjectName, u16),
}

impl FlowRoute<'_> {
    /// Where a new flow goes.
    ///
    /// # Errors
    /// The rule is refused, or has no backend that can be used.
    pub(super) fn target<'s>(
        &self,
        snapshot: &'s Snapshot,
        labels: &mut Labels,
    ) -> Result<Target<'s>, Refused> {
        let (rule, namespace) = match self {
            Self::Rule(rule) => (rule, None),
            Self::Obeying(rule, namespace) => (rule, Some(namespace)),
            Self::Plain(service, port) => {
                return Ok(Target::service_port(snapshot, service, PortProtocol::Udp, *port));
            }
        };
        labels.route = Some(Named::Known(rule.route.id.clone()));
        labels.rule = Some(rule.name.clone().map_or(RuleName::Index(rule.index), RuleName::Name));
        if let Some(refusal) = &rule.refusal {
            return Err(Refused::new(Reason::InvalidRoute, &*refusal.message));
        }
        let target = backend_on(snapshot, PortProtocol::Udp, rule.next_backend())?;
        labels.backend = target.service.clone();
        let Some(namespace) = namespace else { return Ok(target) };
        let obeying = Obeying { snapshot, namespace, after: &rule.route.id };
        match obeying.flow(&target) {
            Some(decides) => {
                labels.service = target.service.map(Named::Known);
                obeying.follow(PortProtocol::Udp, decides, labels)
            }
            None => Ok(target),
        }
    }

    /// Whether a new flow could go to this Service port.
    pub(super) fn leads_to(&self, snapshot: &Snapshot, (service, port): &(ObjectName, u16)) -> bool {
        let is_it = |backend: &Backend| match &backend.target {
            BackendTarget::Service { service: of, port: at, .. } => {
                backend.weight > 0 && (of, at) == (service, port)
            }
            BackendTarget::Invalid { .. } => false,
        };
        let leads = |rule: &StreamRule| rule.refusal.is_none() && rule.backends().iter().any(is_it);
        match self {
            Self::Rule(rule) => leads(rule),
            Self::Obeying(rule, namespace) => {
                let obeying = Obeying { snapshot, namespace, after: &rule.route.id };
                let through = |backend: &Backend| {
                    let target = backend_on(snapshot, PortProtocol::Udp, Some(backend));
                    let decides = target.as_ref().ok().and_then(|target| obeying.flow(target));
                    backend.weight > 0 && decides.map_or_else(|| is_it(backend), |rule| leads(rule))
                };
                rule.refusal.is_none() && rule.backends().iter().any(through)
            }
            Self::Plain(of, at) => (of, at) == (service, port),
        }
    }
}
