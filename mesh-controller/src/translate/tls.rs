//! TLSRoute rules: server names to backends. Here hostnames do count: they are all a TLSRoute matches by.

use weft_gateway_api::tlsroutes::TlsRouteSpec;
use weft_model::Text;
use weft_model::route::{Rules, TlsRule};

use super::backend::{Backends, reference};
use super::fault::Findings;

/// Converts the rules of a TLSRoute.
pub(crate) fn convert(spec: &TlsRouteSpec, backends: &Backends<'_>, findings: &mut Findings) -> Rules {
    let hostnames: Vec<Text> = spec.hostnames.iter().map(|name| name.to_ascii_lowercase().into()).collect();
    let rules = spec.rules.iter().map(|rule| {
        let references = &mut findings.references;
        let refs = rule.backend_refs.iter();
        let converted = refs.map(|of| backends.backend(reference!(of), of.weight, Vec::new(), references));
        let converted = converted.collect();
        TlsRule {
            name: rule.name.as_deref().map(Text::from),
            hostnames: hostnames.clone(),
            backends: converted,
            refusal: findings.rule(rule.name.as_deref(), None),
        }
    });
    Rules::Tls(rules.collect())
}
