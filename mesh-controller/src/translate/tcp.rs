//! TCPRoute rules: one rule, connections shared out by weight. And UDPRoute, whose references are judged for its status.

use weft_gateway_api::tcproutes::TcpRouteSpec;
use weft_gateway_api::udproutes::UdpRouteSpec;
use weft_model::Text;
use weft_model::route::{Rules, TcpRule};

use super::backend::{Backends, reference};
use super::fault::{Fault, Findings};

/// Converts the rules of a TCPRoute.
pub(crate) fn convert(spec: &TcpRouteSpec, backends: &Backends<'_>, findings: &mut Findings) -> Rules {
    let rules = spec.rules.iter().map(|rule| {
        let unresolved = &mut findings.unresolved;
        let refs = rule.backend_refs.iter();
        let converted = refs.map(|of| backends.backend(reference!(of), of.weight, Vec::new(), unresolved));
        let converted = converted.collect();
        TcpRule {
            name: rule.name.as_deref().map(Text::from),
            backends: converted,
            refusal: findings.rule(rule.name.as_deref(), None),
        }
    });
    Rules::Tcp(rules.collect())
}

/// Judges a UDPRoute: its references, and that it is not carried.
pub(crate) fn judge_udp(spec: &UdpRouteSpec, backends: &Backends<'_>, findings: &mut Findings) {
    for rule in &spec.rules {
        for of in &rule.backend_refs {
            backends.target(reference!(of), &mut findings.unresolved);
        }
        let fault = Fault::unsupported("UDPRoute on a Service is not carried yet");
        findings.rule(rule.name.as_deref(), Some(fault));
    }
}
