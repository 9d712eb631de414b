//! What decides about a flow, and whether one that goes on still follows it.

use std::sync::Arc;

use weft_model::route::{Backend, BackendTarget};
use weft_model::service::PortProtocol;
use weft_model::{ObjectName, Reason};
use weft_routing::StreamRule;

use crate::outbound::http::refusal::Refused;
use crate::outbound::route::{Target, backend_on};
use crate::state::Snapshot;
use crate::telemetry::{Labels, Named, RuleName};

/// What decides about a flow.
pub(crate) enum FlowRoute<'s> {
    /// A UDPRoute's rule.
    Rule(&'s Arc<StreamRule>),
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
        let rule = match self {
            Self::Rule(rule) => rule,
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
        Ok(target)
    }

    /// Whether a new flow could go to this Service port.
    pub(super) fn leads_to(&self, (service, port): &(ObjectName, u16)) -> bool {
        let is_it = |backend: &Backend| match &backend.target {
            BackendTarget::Service { service: of, port: at, .. } => {
                backend.weight > 0 && (of, at) == (service, port)
            }
            BackendTarget::Invalid { .. } => false,
        };
        match self {
            Self::Rule(rule) => rule.refusal.is_none() && rule.backends().iter().any(is_it),
            Self::Plain(of, at) => (of, at) == (service, port),
        }
    }
}
