//! TCPRoute and UDPRoute rules: one rule, connections or flows shared out by weight.

use weft_gateway_api::tcproutes::TcpRouteSpec;
use weft_gateway_api::udproutes::UdpRouteSpec;
use weft_model::Text;
use weft_model::route::{Rules, TcpRule};

use super::backend::{Backends, reference};
use super::fault::Findings;

/// Converts generated rules, which are alike for both kinds and not of one type.
macro_rules! rules {
    ($spec:expr, $backends:expr, $findings:expr) => {{
        let convert = $spec.rules.iter().map(|rule| {
            let backends = rule.backend_refs.iter().map(|of| {
                $backends.backend(reference!(of), of.weight, Vec::new(), &mut $findings.references)
            });
            TcpRule {
                name: rule.name.as_deref().map(Text::from),
                backends: backends.collect(),
                refusal: $findings.rule(rule.name.as_deref(), None),
            }
        });
        convert.collect()
    }};
}

/// Converts the rules of a TCPRoute.
pub(crate) fn convert(spec: &TcpRouteSpec, backends: &Backends<'_>, findings: &mut Findings) -> Rules {
    Rules::Tcp(rules!(spec, backends, findings))
}

/// Converts the rules of a UDPRoute.
pub(crate) fn convert_udp(spec: &UdpRouteSpec, backends: &Backends<'_>, findings: &mut Findings) -> Rules {
    Rules::Udp(rules!(spec, backends, findings))
}
