//! `spec.tls.frontend`: what clients' certificates are held against, by port.

use weft_gateway_api::gateways::{
    GatewaySpec, GatewayTlsFrontendDefaultValidation as Validation,
    GatewayTlsFrontendDefaultValidationMode as Mode,
};
use weft_model::gateway::ClientValidation;

use super::Problem;
use super::reference::{Referrer, To};
use crate::translate::filter;

/// What holds at a port: that of the port itself, or the default. `None`: clients are asked for nothing. An error says
/// why nobody can be verified: once for the listener, once for its references.
pub(crate) fn validation(
    spec: &GatewaySpec,
    by: &Referrer<'_>,
    port: u16,
) -> Option<Result<ClientValidation, [Problem; 2]>> {
    let validation = at(spec, port)?;
    let reasons = ("InvalidCACertificateKind", "InvalidCACertificateRef");
    let (mut roots_pem, mut problems) = (Vec::new(), Vec::new());
    for of in &validation.ca_certificate_refs {
        let to = To { group: &of.group, kind: &of.kind, namespace: of.namespace.as_deref(), name: &of.name };
        match by.roots(&to, reasons) {
            Ok(pem) => roots_pem.push(pem),
            Err(problem) => problems.push(problem),
        }
    }
    // Of several roots, those that can be used are: fewer clients are let in than was meant, never more.
    if roots_pem.is_empty() {
        let none = || Problem::new(reasons.1, "caCertificateRefs names no roots");
        let unresolved = problems.into_iter().next().unwrap_or_else(none);
        let message = format!("no client could be verified: {}", unresolved.message);
        return Some(Err([Problem::new("NoValidCACertificate", message), unresolved]));
    }
    let allow_insecure_fallback = validation.mode == Some(Mode::AllowInsecureFallback);
    Some(Ok(ClientValidation { roots_pem, allow_insecure_fallback }))
}

/// Whether clients that cannot be verified are let in at any port.
pub(crate) fn is_insecure(spec: &GatewaySpec) -> bool {
    let ports = spec.listeners.iter().filter_map(|listener| u16::try_from(listener.port).ok());
    let listed = spec.tls.iter().filter_map(|tls| tls.frontend.as_ref());
    let listed = listed.flat_map(|frontend| frontend.per_port.iter().flatten());
    let listed = listed.filter_map(|of| u16::try_from(of.port).ok());
    ports.chain(listed).chain([0]).any(|port| {
        at(spec, port).is_some_and(|validation| validation.mode == Some(Mode::AllowInsecureFallback))
    })
}

fn at(spec: &GatewaySpec, port: u16) -> Option<Validation> {
    let frontend = spec.tls.as_ref()?.frontend.as_ref()?;
    let own = frontend.per_port.iter().flatten().find(|of| of.port == i32::from(port));
    match own {
        // The generated types of both have one shape.
        Some(own) => {
            let own = own.tls.validation.as_ref()?;
            filter::read::<_, Validation>(std::slice::from_ref(own)).ok()?.pop()
        }
        None => frontend.default.validation.clone(),
    }
}
