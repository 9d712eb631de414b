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
use weft_model::Text;
use weft_model::route::{BackendTarget, HttpRule};
use weft_model::session::{SessionCarrier, SessionPersistence};

use super::backend::Backends;
use super::duration;
use super::fault::Fault;

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

/// A Service that keeps endpoints for addresses cannot have sessions too: GEP-1619 has such a route rejected.
pub(crate) fn check_backends(rule: &HttpRule, backends: &Backends<'_>) -> Result<(), Fault> {
    let with_session = rule.session.is_some();
    for backend in rule.backends.iter().filter(|_| with_session) {
        let BackendTarget::Service { service, .. } = &backend.target else { continue };
        if backends.services.get(service).is_some_and(|facts| facts.client_ip_affinity) {
            return Err(Fault::unsupported(format!(
                "backend Service {service} has sessionAffinity ClientIP, which excludes sessionPersistence; remove the \
                 one or the other"
            )));
        }
    }
    Ok(())
}
