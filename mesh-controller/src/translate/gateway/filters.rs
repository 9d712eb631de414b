//! Filters of listeners (GEP-5224): whom a Gateway's proxies ask about every request, before its route is chosen.

use weft_gateway_api::gateways::{
    GatewayListenersFiltersRequests as Written, GatewayListenersFiltersRequestsType as FilterType,
};
use weft_model::route::ExternalAuth;

use super::listener::Listener;
use super::policy::Policies;
use super::{Gateways, Problem};
use crate::inputs::{Inputs, Kind, RouteKind};
use crate::translate::backend::{AtGateways, Backends};
use crate::translate::fault::{Unresolved, UnresolvedReason};
use crate::translate::grant::Grants;
use crate::translate::service::Services;
use crate::translate::{auth, filter};

/// Resolves those of all listeners. A listener with one that cannot be carried out refuses all of its requests; where a
/// server cannot be used, its filter does.
pub(crate) fn resolve(
    inputs: &Inputs,
    services: &Services,
    policies: &Policies<'_>,
    gateways: &mut Gateways<'_>,
) {
    let gateways = gateways.by_name.values_mut();
    for listener in
        gateways.flat_map(|facts| &mut facts.listeners).filter(|it| !it.written_filters.is_empty())
    {
        let namespace = listener.namespace.clone();
        let backends = Backends {
            services,
            kind: RouteKind::Http,
            from: if listener.id.listener_set.is_some() { Kind::ListenerSet } else { Kind::Gateway },
            namespace: &namespace,
            route: "",
            gateways: Some(AtGateways { grants: Grants(inputs), policies }),
        };
        resolve_at(listener, &backends);
    }
}

fn resolve_at(listener: &mut Listener, backends: &Backends<'_>) {
    for (place, written) in std::mem::take(&mut listener.written_filters).iter().enumerate() {
        let mut unresolved = Vec::new();
        match convert(written, backends, &mut unresolved) {
            Ok(auth) => listener.filters.push(auth),
            Err(problem) => drop(listener.unaccepted.get_or_insert_with(|| problem.at(place))),
        }
        for Unresolved { reason, message } in unresolved {
            let reason = match reason {
                UnresolvedReason::RefNotPermitted => "RefNotPermitted",
                _ => "InvalidListenerFilterRef",
            };
            let problem = Problem::new(reason, format!("externalAuth.backendRef: {message}"));
            listener.unresolved.get_or_insert_with(|| problem.at(place));
        }
    }
}

impl Problem {
    fn at(self, place: usize) -> Self {
        Self { message: format!("filters.requests[{place}]: {}", self.message), ..self }
    }
}

fn convert(
    written: &Written,
    backends: &Backends<'_>,
    unresolved: &mut Vec<Unresolved>,
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
    let auth = auth::convert(auth, backends, unresolved).map_err(|fault| unsupported(fault.message))?;
    match weft_routing::validate::auth_problem(&auth) {
        Some((field, message)) => Err(Problem::new("InvalidListenerFilter", format!("{field}: {message}"))),
        None => Ok(auth),
    }
}
