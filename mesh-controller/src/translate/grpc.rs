//! GRPCRoute rules: the same rules as HTTPRoute's, with a service and method instead of a path.

use weft_gateway_api::grpcroutes::{
    GrpcRouteRules as RouteRule, GrpcRouteRulesMatches as RouteMatch,
    GrpcRouteRulesMatchesHeadersType as HeaderType, GrpcRouteRulesMatchesMethodType as MethodType,
    GrpcRouteSpec,
};
use weft_model::Text;
use weft_model::route::{HttpRule, Match, PathMatch, Rules, ValueMatch};

use super::backend::Backends;
use super::fault::{Fault, Findings};
use super::filter::{self, Level};
use super::http::{check_regex, convert_backends, convert_session, rule_of};
use super::session;

/// Converts the rules of a GRPCRoute. Without any it matches nothing.
pub(crate) fn convert(spec: &GrpcRouteSpec, backends: &Backends<'_>, findings: &mut Findings) -> Rules {
    let rules = spec.rules.as_deref().unwrap_or_default();
    Rules::Http(rules.iter().map(|rule| convert_rule(rule, backends, findings)).collect())
}

fn convert_rule(rule: &RouteRule, backends: &Backends<'_>, findings: &mut Findings) -> HttpRule {
    let mut fault = None;
    let matches = convert_matches(rule.matches.as_deref().unwrap_or_default(), &mut fault);
    let actions = |findings: &mut _, to: &mut _| convert_actions(rule, backends, findings, to);
    rule_of(rule.name.as_deref(), matches, fault, actions, findings)
}

fn convert_actions(
    rule: &RouteRule,
    backends: &Backends<'_>,
    findings: &mut Findings,
    to: &mut HttpRule,
) -> Result<(), Fault> {
    let refs = filter::read(rule.backend_refs.as_deref().unwrap_or_default())?;
    let (converted, fault) = convert_backends(&refs, backends, findings);
    to.backends = converted;
    let filters = filter::read(rule.filters.as_deref().unwrap_or_default())?;
    to.filters = filter::convert(&filters, Level::Rule, backends, &mut findings.references)?;
    fault.map_or(Ok(()), Err)?;
    to.session =
        convert_session(rule.session_persistence.as_ref(), rule.name.as_deref(), backends, findings)?;
    session::check_backends(to, backends)
}

fn convert_matches(matches: &[RouteMatch], fault: &mut Option<Fault>) -> Vec<Match> {
    let every = PathMatch::Grpc { service: None, method: None, regex: false };
    if matches.is_empty() {
        return vec![Match { path: every, ..Match::default() }];
    }
    matches.iter().map(|m| convert_match(m, &every, fault)).collect()
}

/// As for HTTPRoute, a part that cannot be evaluated admits everything, and the rule refuses.
fn convert_match(of: &RouteMatch, every: &PathMatch, fault: &mut Option<Fault>) -> Match {
    let mut checked = |value: &str| match check_regex(value) {
        Ok(()) => true,
        Err(error) => {
            fault.get_or_insert(error);
            false
        }
    };
    let path = of.method.as_ref().map_or_else(
        || every.clone(),
        |method| {
            let regex = method.r#type == Some(MethodType::RegularExpression);
            let part =
                |part: Option<&String>| part.filter(|part| !part.is_empty()).map(|part| part.as_str().into());
            let (service, name): (Option<Text>, Option<Text>) =
                (part(method.service.as_ref()), part(method.method.as_ref()));
            let valid = !regex || service.iter().chain(&name).all(|part| checked(part));
            if valid { PathMatch::Grpc { service, method: name, regex } } else { every.clone() }
        },
    );
    let headers = of.headers.iter().flatten().map(|header| ValueMatch {
        name: header.name.to_ascii_lowercase().into(),
        value: header.value.as_str().into(),
        regex: header.r#type == Some(HeaderType::RegularExpression),
    });
    let headers = headers.filter(|m| !m.regex || checked(&m.value)).collect();
    Match { path, method: None, headers, query: Vec::new() }
}
