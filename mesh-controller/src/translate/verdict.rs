//! What a route's status says about its parents, Services and Gateways: the conditions `Accepted`, `ResolvedRefs` and, where it
//! holds, `PartiallyInvalid`, in the Gateway API's own reasons.

use super::Translated;
use super::fault::{FaultReason, Findings, RefusingRule};
use super::gateway::attach::GatewayParent;
use super::gateway::obeyed::Chosen;
use super::parent::{Attachment, Holders};
use super::status::{CONTROLLER_NAME, Condition, GATEWAY_CONTROLLER_NAME, ParentStatus, StatusParentRef};
use crate::inputs::{GATEWAY_API, ParentRef, Route, RouteKind};

/// Messages name at most this many rules or references; the API allows 32,768 characters.
const LISTED: usize = 8;

/// What a status is judged by.
pub(crate) struct Judged<'a> {
    pub(crate) route: &'a Route,
    pub(crate) findings: &'a Findings,
}

/// Where a route stands among others on Services.
pub(crate) struct OnServices<'a> {
    pub(crate) attachments: &'a [Attachment<'a>],
    pub(crate) holders: &'a Holders,
    /// The Service ports whose routes Gateways obey.
    pub(crate) chosen: &'a Chosen,
}

fn service_ref(attachment: &Attachment<'_>) -> StatusParentRef {
    let ParentRef { section_name, port, .. } = attachment.parent_ref;
    StatusParentRef {
        group: "",
        kind: "Service",
        namespace: attachment.service.namespace.to_string(),
        name: attachment.service.name.to_string(),
        section_name: section_name.clone(),
        port: *port,
    }
}

fn gateway_ref(parent: &GatewayParent<'_>) -> StatusParentRef {
    let ParentRef { section_name, port, .. } = parent.parent_ref;
    StatusParentRef {
        group: GATEWAY_API,
        kind: if parent.parent_ref.is_gateway() { "Gateway" } else { "ListenerSet" },
        namespace: parent.parent.namespace.to_string(),
        name: parent.parent.name.to_string(),
        section_name: section_name.clone(),
        port: *port,
    }
}

impl Judged<'_> {
    /// The entries of its Service parents.
    pub(crate) fn on_services(
        &self,
        on: &OnServices<'_>,
        translated: &Translated,
    ) -> Vec<(usize, ParentStatus)> {
        let entry = |attachment: &Attachment<'_>| {
            let accepted = self.accepted(attachment, on, translated);
            let status = ParentStatus {
                parent_ref: service_ref(attachment),
                controller_name: CONTROLLER_NAME,
                conditions: self.conditions(accepted),
            };
            (self.place(attachment.parent_ref), status)
        };
        on.attachments.iter().map(entry).collect()
    }

    /// The entries of its Gateways and ListenerSets.
    pub(crate) fn at_gateways(&self, parents: &[GatewayParent<'_>]) -> Vec<(usize, ParentStatus)> {
        let entry = |parent: &GatewayParent<'_>| {
            let accepted = match (&parent.attached, self.refused_altogether()) {
                (Err(problem), _) => ("False", problem.reason, problem.message.clone()),
                (Ok(_), Some((reason, message))) => ("False", reason.as_str(), message),
                (Ok(_), None) => ("True", "Accepted", "The route is attached.".to_owned()),
            };
            let status = ParentStatus {
                parent_ref: gateway_ref(parent),
                controller_name: GATEWAY_CONTROLLER_NAME,
                conditions: self.conditions(accepted),
            };
            (self.place(parent.parent_ref), status)
        };
        parents.iter().map(entry).collect()
    }

    /// The place of a parentRef in the spec.
    fn place(&self, parent_ref: &ParentRef) -> usize {
        self.route.parent_refs.iter().position(|of| of == parent_ref).unwrap_or_default()
    }

    fn conditions(
        &self,
        (accepted, reason, message): (&'static str, &'static str, String),
    ) -> Vec<Condition> {
        let mut conditions =
            vec![self.condition("Accepted", accepted, reason, message), self.resolved_refs()];
        if accepted == "True"
            && let Some(message) = self.partially_invalid()
        {
            conditions.push(self.condition("PartiallyInvalid", "True", "UnsupportedValue", message));
        }
        conditions
    }

    fn condition(
        &self,
        kind: &'static str,
        status: &'static str,
        reason: &'static str,
        message: String,
    ) -> Condition {
        Condition { kind, status, reason, message, observed_generation: self.route.head.generation }
    }

    fn accepted(
        &self,
        attachment: &Attachment<'_>,
        on: &OnServices<'_>,
        translated: &Translated,
    ) -> (&'static str, &'static str, String) {
        let ports = match &attachment.ports {
            Ok(ports) => ports,
            Err(message) => return ("False", "NoMatchingParent", message.clone()),
        };
        let lost = on.holders.lost(self.route, attachment);
        let list = |(port, winner): &(u16, _)| format!("port {port} has a {winner}");
        let lost_ports = lost.iter().map(list).collect::<Vec<_>>().join(", ");
        if lost.len() == ports.len() {
            let message = format!(
                "on Service {} {lost_ports}, and that kind wins over {}; attach this route to another port or remove \
                 the other one",
                attachment.service, self.route.name.kind
            );
            return ("False", "Conflicted", message);
        }
        if let Some((reason, message)) = self.refused_altogether() {
            return ("False", reason.as_str(), message);
        }
        let mut message = "The route is in force.".to_owned();
        if let Some(nobody) = self.nobody(attachment, translated)
            && !on.chosen.needs(self.route, attachment)
        {
            message = nobody;
        }
        if self.route.name.kind == RouteKind::Udp {
            message += " UDP is not encrypted, and callees are not told who calls.";
        }
        if !lost.is_empty() {
            message += &format!(" Not on all ports: {lost_ports}, which wins over {}.", self.route.name.kind);
        }
        ("True", "Accepted", message)
    }

    /// A route for nobody is valid, but worth a word.
    fn nobody(&self, attachment: &Attachment<'_>, translated: &Translated) -> Option<String> {
        let own = &*self.route.name.name.namespace;
        if own == &*attachment.service.namespace {
            return (!translated.has_clients(None)).then(|| {
                "Accepted, but no client is enrolled in the mesh yet, so no traffic follows this route: label a \
                 namespace weft-mesh.dev/mesh=enabled."
                    .to_owned()
            });
        }
        (!translated.has_clients(Some(own))).then(|| {
            format!(
                "Accepted, but a route outside the Service's namespace holds only for clients of its own namespace, \
                 and no pod of namespace {own} is enrolled in the mesh: label the namespace \
                 weft-mesh.dev/mesh=enabled."
            )
        })
    }

    fn refused_altogether(&self) -> Option<(FaultReason, String)> {
        let Findings { rules, refusing, .. } = self.findings;
        let first = refusing.first().filter(|_| refusing.len() == *rules)?;
        let message = match refusing.as_slice() {
            [only] => only.fault.message.clone(),
            several => list(several.iter().map(describe)),
        };
        Some((first.fault.reason, message))
    }

    /// "Dropped Rule" is the beginning that the API asks for. Dropped here means: what the rule matches is refused.
    fn partially_invalid(&self) -> Option<String> {
        let refusing = &self.findings.refusing;
        (!refusing.is_empty()).then(|| {
            format!(
                "Dropped Rule: {}. What such a rule matches is refused.",
                list(refusing.iter().map(describe))
            )
        })
    }

    fn resolved_refs(&self) -> Condition {
        let unresolved = &self.findings.references.unresolved;
        let (status, reason, message) = match (&self.route.spec, unresolved.first()) {
            (Err(_), _) => {
                ("Unknown", "Pending", "The route does not decode, so what it refers to is unknown.".into())
            }
            (Ok(_), None) => ("True", "ResolvedRefs", "All references are resolved.".to_owned()),
            (Ok(_), Some(first)) => {
                ("False", first.reason.as_str(), list(unresolved.iter().map(|of| of.message.clone())))
            }
        };
        self.condition("ResolvedRefs", status, reason, message)
    }
}

fn describe(rule: &RefusingRule) -> String {
    let name = rule.name.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    format!("rules[{}]{name}: {}", rule.index, rule.fault.message)
}

/// Joins, each text once, the first few.
pub(super) fn list(texts: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for text in texts {
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    let more = seen.len().saturating_sub(LISTED);
    seen.truncate(LISTED);
    let mut joined = seen.join("; ");
    if more > 0 {
        joined += &format!("; and {more} more");
    }
    joined
}
