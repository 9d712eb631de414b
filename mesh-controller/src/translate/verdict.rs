//! What a route's status says about its Service parents: the conditions `Accepted`, `ResolvedRefs` and, where it
//! holds, `PartiallyInvalid`, in the Gateway API's own reasons.

use super::Translated;
use super::fault::{FaultReason, Findings, RefusingRule};
use super::parent::{Attachment, Holders};
use super::status::{CONTROLLER_NAME, Condition, ParentStatus, StatusParentRef};
use crate::inputs::{ParentRef, Route};

/// Messages name at most this many rules or references; the API allows 32,768 characters.
const LISTED: usize = 8;

/// What a status is judged by.
pub(crate) struct Judged<'a> {
    pub(crate) route: &'a Route,
    pub(crate) attachments: &'a [Attachment<'a>],
    pub(crate) holders: &'a Holders,
    pub(crate) findings: &'a Findings,
}

/// Judges a route.
pub(crate) fn judge(judged: &Judged<'_>, translated: &Translated) -> Vec<ParentStatus> {
    let entry = |attachment: &Attachment<'_>| ParentStatus {
        parent_ref: parent_ref(attachment),
        controller_name: CONTROLLER_NAME,
        conditions: judged.conditions(attachment, translated),
    };
    judged.attachments.iter().map(entry).collect()
}

fn parent_ref(attachment: &Attachment<'_>) -> StatusParentRef {
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

impl Judged<'_> {
    fn conditions(&self, attachment: &Attachment<'_>, translated: &Translated) -> Vec<Condition> {
        let (accepted, reason, message) = self.accepted(attachment, translated);
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
        translated: &Translated,
    ) -> (&'static str, &'static str, String) {
        let ports = match &attachment.ports {
            Ok(ports) => ports,
            Err(message) => return ("False", "NoMatchingParent", message.clone()),
        };
        let lost = self.holders.lost(self.route, attachment);
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
        if let Some(nobody) = self.nobody(attachment, translated) {
            message = nobody;
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
        let unresolved = &self.findings.unresolved;
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
fn list(texts: impl Iterator<Item = String>) -> String {
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
