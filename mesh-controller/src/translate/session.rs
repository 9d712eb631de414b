//! `sessionPersistence` (GEP-1619). It stands on rules of HTTPRoutes and of GRPCRoutes in one form, so that all are read as
//! that of an HTTPRoute and there is one conversion.

use std::fmt::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};
use weft_gateway_api::httproutes::{
    HttpRouteRulesSessionPersistence as Persistence,
    HttpRouteRulesSessionPersistenceCookieLifetimeType as Lifetime,
    HttpRouteRulesSessionPersistenceType as Type,
};
use weft_model::route::{BackendTarget, HttpRule};
use weft_model::session::{SessionCarrier, SessionPersistence};
use weft_model::{ObjectName, Text};

use super::backend::Backends;
use super::duration;
use super::fault::Fault;
use super::service::ServiceFacts;

/// Hexadecimal digits that make a cookie's name unique.
const HASH: usize = 10;

/// Converts what stands in one place, which `place` names for a cookie that has no name of its own.
pub(crate) fn convert<T: Serialize>(written: &T, place: &str) -> Result<SessionPersistence, Fault> {
    let read = serde_json::to_value(written).and_then(serde_json::from_value);
    let spec: Persistence =
        read.map_err(|error| Fault::unsupported(format!("sessionPersistence could not be read: {error}")))?;
    let carrier = match (&spec.r#type, &spec.header) {
        (Some(Type::Header), Some(header)) => {
            SessionCarrier::Header { name: header.name.to_ascii_lowercase().into() }
        }
        (Some(Type::Header), None) => {
            return Err(Fault::unsupported("sessionPersistence.header: name the header that clients repeat"));
        }
        (None | Some(Type::Cookie), _) => cookie(&spec, place),
    };
    let timeout = spec.absolute_timeout.as_deref();
    let absolute_timeout =
        timeout.map(|text| duration::parse("sessionPersistence.absoluteTimeout", text)).transpose()?;
    if absolute_timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(Fault::unsupported(
            "sessionPersistence.absoluteTimeout: 0s ends a session as it begins; write a longer one or leave it out",
        ));
    }
    let permanent = matches!(carrier, SessionCarrier::Cookie { permanent: true, .. });
    if permanent && absolute_timeout.is_none() {
        return Err(Fault::unsupported(
            "sessionPersistence.absoluteTimeout: a cookie with lifetimeType Permanent needs one",
        ));
    }
    Ok(SessionPersistence { carrier, absolute_timeout })
}

fn cookie(spec: &Persistence, place: &str) -> SessionCarrier {
    let cookie = spec.cookie.as_ref();
    let name = cookie.and_then(|cookie| cookie.name.as_deref());
    SessionCarrier::Cookie {
        name: name.map_or_else(|| unique(place), Text::from),
        path: cookie.and_then(|cookie| cookie.path.as_deref()).unwrap_or("/").into(),
        permanent: cookie.and_then(|cookie| cookie.lifetime_type.as_ref()) == Some(&Lifetime::Permanent),
    }
}

/// The name of the cookie of one place: the same whoever makes it, and of no other place.
fn unique(place: &str) -> Text {
    let mut name = "weft-session-".to_owned();
    for byte in Sha256::digest(place).iter().take(HASH / 2) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name.into()
}

/// GEP-1619 has such a route, or policy, rejected: a Service that keeps endpoints for addresses cannot have sessions too.
pub(crate) fn excluded(service: &ObjectName, facts: &ServiceFacts) -> Option<String> {
    facts.client_ip_affinity.then(|| {
        format!(
            "Service {service} has sessionAffinity ClientIP, which excludes sessionPersistence; remove the one or the \
             other"
        )
    })
}

/// Whether a rule's backends may have its session.
pub(crate) fn check_backends(rule: &HttpRule, backends: &Backends<'_>) -> Result<(), Fault> {
    let with_session = rule.session.is_some();
    for backend in rule.backends.iter().filter(|_| with_session) {
        let BackendTarget::Service { service, .. } = &backend.target else { continue };
        let facts = backends.services.get(service);
        if let Some(problem) = facts.and_then(|facts| excluded(service, facts)) {
            return Err(Fault::unsupported(format!("backend {problem}")));
        }
    }
    Ok(())
}
