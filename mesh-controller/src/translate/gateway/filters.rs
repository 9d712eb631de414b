//! Filters of listeners (GEP-5224): whom a Gateway's proxies ask about every request, before its route is chosen.

use std::collections::BTreeSet;

use weft_gateway_api::gateways::{
    GatewayListenersFiltersRequests as Written, GatewayListenersFiltersRequestsType as FilterType,
};
use weft_model::ObjectName;
use weft_model::route::ExternalAuth;

use super::listener::Listener;
use super::{Gateways, Problem};
use crate::inputs::{Kind, RouteKind};
use crate::translate::backend::{AtGateways, Backends};
use crate::translate::fault::{References, Unresolved, UnresolvedReason};
use crate::translate::grant::Grants;
use crate::translate::route::Context;
use crate::translate::xbackend::{Ancestor, Referrers};
use crate::translate::{auth, filter};

/// Resolves those of all listeners. A listener with one that cannot be carried out refuses all of its requests; where a
/// server cannot be used, its filter does.
pub(crate) fn resolve(context: &Context<'_>, gateways: &mut Gateways<'_>, referrers: &mut Referrers) {
    let Context { inputs, services, xbackends, policies } = *context;
    for (name, facts) in &mut gateways.by_name {
        for listener in facts.listeners.iter_mut().filter(|it| !it.written_filters.is_empty()) {
            let namespace = listener.namespace.clone();
            let backends = Backends {
                services,
                xbackends,
                kind: RouteKind::Http,
                from: if listener.id.listener_set.is_some() { Kind::ListenerSet } else { Kind::Gateway },
                namespace: &namespace,
                route: "",
                gateways: Some(AtGateways { grants: Grants(inputs), policies }),
            };
            let named = resolve_at(listener, &backends);
            referrers.note(&named, &Ancestor::Gateway(name.clone()));
        }
    }
}

/// Returns the XBackends that are named.
fn resolve_at(listener: &mut Listener, backends: &Backends<'_>) -> BTreeSet<ObjectName> {
    let mut named = BTreeSet::new();
    for (place, written) in std::mem::take(&mut listener.written_filters).iter().enumerate() {
        let mut references = References::default();
        match convert(written, backends, &mut references) {
            Ok(auth) => listener.filters.push(auth),
            Err(problem) => drop(listener.unaccepted.get_or_insert_with(|| problem.at(place))),
        }
        named.append(&mut references.xbackends);
        for Unresolved { reason, message } in references.unresolved {
            let reason = match reason {
                UnresolvedReason::RefNotPermitted => "RefNotPermitted",
                _ => "InvalidListenerFilterRef",
            };
            let problem = Problem::new(reason, format!("externalAuth.backendRef: {message}"));
            listener.unresolved.get_or_insert_with(|| problem.at(place));
        }
    }
    named
}

impl Problem {
    fn at(self, place: usize) -> Self {
        Self { message: format!("filters.requests[{place}]: {}", self.message), ..self }
    }
}

fn convert(
    written: &Written,
    backends: &Backends<'_>,
    references: &mut References,
) -> Result<ExternalAuth, Problem> {
    let unsupported = |message: String| Problem::new("UnsupportedValue", message);
    if written.r#type == FilterType::ExtensionRef {
        let of = written.extension_ref.as_ref();
        let what = of.map_or_else(String::new, |of| format!(" {}.{} {}", of.kind, of.group, of.name));
        return Err(unsupported(format!("the filter ExtensionRef{what} is not supported; remove it")));
    }
    let of = written.external_auth.as_slice();
    let read = filter::read(of).map_err(|fault| unsupported(fault.message))?;
    let missing = || Problem::new("InvalidListenerFilter", "the field externalAuth is missing; fill it in");
    let auth = read.first().ok_or_else(missing)?;
    let auth = auth::convert(auth, backends, references).map_err(|fault| unsupported(fault.message))?;
    match weft_routing::validate::auth_problem(&auth) {
        Some((field, message)) => Err(Problem::new("InvalidListenerFilter", format!("{field}: {message}"))),
        None => Ok(auth),
    }
}
