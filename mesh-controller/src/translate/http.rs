//! HTTPRoute rules. Hostnames do not count on a Service: its address chose the route (GEP-1294).

use serde::Serialize;
use weft_gateway_api::httproutes::{
    HttpRouteRules as RouteRule, HttpRouteRulesBackendRefs as RouteBackendRef,
    HttpRouteRulesFilters as RouteFilter, HttpRouteRulesMatches as RouteMatch,
    HttpRouteRulesMatchesHeadersType as HeaderType, HttpRouteRulesMatchesPathType as PathType,
    HttpRouteRulesMatchesQueryParamsType as QueryType, HttpRouteRulesRetry as RouteRetry,
    HttpRouteRulesTimeouts as RouteTimeouts, HttpRouteSpec,
};
use weft_model::Text;
use weft_model::route::{Backend, HttpRule, Match, PathMatch, Retry, Rules, ValueMatch};
use weft_model::session::SessionPersistence;

use super::backend::{Backends, reference};
use super::duration;
use super::fault::{Fault, Findings};
use super::filter::{self, Level};
use super::session;

/// Converts the rules of an HTTPRoute. Without any it has the CRD's default: one that matches all.
pub(crate) fn convert(spec: &HttpRouteSpec, backends: &Backends<'_>, findings: &mut Findings) -> Rules {
    let default = [RouteRule::default()];
    let rules = spec.rules.as_deref().unwrap_or(&default);
    Rules::Http(rules.iter().map(|rule| convert_rule(rule, backends, findings)).collect())
}

fn convert_rule(rule: &RouteRule, backends: &Backends<'_>, findings: &mut Findings) -> HttpRule {
    let mut fault = None;
    let matches = convert_matches(rule.matches.as_deref().unwrap_or_default(), &mut fault);
    let actions = |findings: &mut _, to: &mut _| convert_actions(rule, backends, findings, to);
    rule_of(rule.name.as_deref(), matches, fault, actions, findings)
}

/// A rule with these matches, in which there was a `fault` already, and these actions. One of which any part cannot be
/// carried out keeps its matches and refuses what they admit.
pub(crate) fn rule_of(
    name: Option<&str>,
    matches: Vec<Match>,
    fault: Option<Fault>,
    actions: impl FnOnce(&mut Findings, &mut HttpRule) -> Result<(), Fault>,
    findings: &mut Findings,
) -> HttpRule {
    let mut rule = HttpRule { name: name.map(Text::from), matches, ..HttpRule::default() };
    let failed = actions(findings, &mut rule).err();
    rule.refusal = findings.rule(name, fault.or(failed));
    rule
}

/// What is done with a request that matched. References are resolved also in a rule that refuses, for its status.
fn convert_actions(
    rule: &RouteRule,
    backends: &Backends<'_>,
    findings: &mut Findings,
    to: &mut HttpRule,
) -> Result<(), Fault> {
    let (converted, fault) =
        convert_backends(rule.backend_refs.as_deref().unwrap_or_default(), backends, findings);
    to.backends = converted;
    let filters = rule.filters.as_deref().unwrap_or_default();
    to.filters = filter::convert(filters, Level::Rule, backends, &mut findings.references)?;
    fault.map_or(Ok(()), Err)?;
    (to.request_timeout, to.backend_request_timeout) = convert_timeouts(rule.timeouts.as_ref())?;
    to.retry = rule.retry.as_ref().map(convert_retry).transpose()?;
    to.session =
        convert_session(rule.session_persistence.as_ref(), rule.name.as_deref(), backends, findings)?;
    session::check_backends(to, backends)
}

/// The `sessionPersistence` of the rule that is being converted. A cookie without a name is called after the route and the
/// rule's name or place.
pub(crate) fn convert_session<T: Serialize>(
    written: Option<&T>,
    name: Option<&str>,
    backends: &Backends<'_>,
    findings: &Findings,
) -> Result<Option<SessionPersistence>, Fault> {
    let Some(written) = written else { return Ok(None) };
    let Backends { kind, namespace, route, .. } = backends;
    let rule = name.map_or_else(|| findings.rules.to_string(), str::to_owned);
    session::convert(written, &format!("{kind}/{namespace}/{route}/{rule}")).map(Some)
}

/// Converts backendRefs with their filters. The first fault of a filter is given back: the rule refuses for it.
pub(crate) fn convert_backends(
    refs: &[RouteBackendRef],
    backends: &Backends<'_>,
    findings: &mut Findings,
) -> (Vec<Backend>, Option<Fault>) {
    let mut fault = None;
    let mut converted = Vec::new();
    for of in refs {
        let filters = of.filters.as_deref().unwrap_or_default();
        let filters = filter::read(filters).and_then(|filters: Vec<RouteFilter>| {
            filter::convert(&filters, Level::Backend, backends, &mut findings.references)
        });
        let filters = filters.unwrap_or_else(|error| {
            fault.get_or_insert(error);
            Vec::new()
        });
        let references = &mut findings.references;
        converted.push(backends.backend(reference!(of), of.weight, filters, references));
    }
    (converted, fault)
}

fn convert_matches(matches: &[RouteMatch], fault: &mut Option<Fault>) -> Vec<Match> {
    if matches.is_empty() {
        return vec![Match::default()];
    }
    matches.iter().map(|m| convert_match(m, fault)).collect()
}

/// A part that cannot be evaluated admits everything: the rule refuses, and must refuse all that the part might have
/// admitted.
fn convert_match(of: &RouteMatch, fault: &mut Option<Fault>) -> Match {
    let mut checked = |value: &str| match check_regex(value) {
        Ok(()) => true,
        Err(error) => {
            fault.get_or_insert(error);
            false
        }
    };
    let path = of.path.as_ref().map_or_else(PathMatch::default, |path| {
        let value = Text::from(path.value.as_deref().unwrap_or("/"));
        match path.r#type {
            Some(PathType::Exact) => PathMatch::Exact { value },
            None | Some(PathType::PathPrefix) => PathMatch::Prefix { value },
            Some(PathType::RegularExpression) if checked(&value) => PathMatch::Regex { value },
            Some(PathType::RegularExpression) => PathMatch::default(),
        }
    });
    let headers = of.headers.iter().flatten().map(|header| ValueMatch {
        name: header.name.to_ascii_lowercase().into(),
        value: header.value.as_str().into(),
        regex: header.r#type == Some(HeaderType::RegularExpression),
    });
    let headers: Vec<ValueMatch> = headers.filter(|m| !m.regex || checked(&m.value)).collect();
    let query = of.query_params.iter().flatten().map(|param| ValueMatch {
        name: param.name.as_str().into(),
        value: param.value.as_str().into(),
        regex: param.r#type == Some(QueryType::RegularExpression),
    });
    let query = query.filter(|m| !m.regex || checked(&m.value)).collect();
    Match { path, method: of.method.as_ref().and_then(word), headers, query }
}

/// The word of a generated enum without fields, as it is written in YAML.
fn word<T: Serialize>(value: &T) -> Option<Text> {
    serde_json::to_value(value).ok()?.as_str().map(Text::from)
}

/// What a compiled expression may take, as in the proxy (`weft-routing`).
const EXPRESSION_LIMIT: usize = 1 << 20;

/// Whether an expression compiles by itself and as the proxy uses it, anchored at both ends.
pub(crate) fn check_regex(expression: &str) -> Result<(), Fault> {
    let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(EXPRESSION_LIMIT).build();
    compile(expression).and_then(|_| compile(&format!(r"\A(?:{expression})\z"))).map(|_| ()).map_err(
        |error| {
            // The error draws a picture over several lines; its last line says what is wrong.
            let error = error.to_string();
            let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Fault::unsupported(format!(
                "the regular expression {expression:?} is not valid: {what}; correct it"
            ))
        },
    )
}

type Limits = (Option<std::time::Duration>, Option<std::time::Duration>);

fn convert_timeouts(timeouts: Option<&RouteTimeouts>) -> Result<Limits, Fault> {
    let Some(timeouts) = timeouts else { return Ok((None, None)) };
    let request = duration::parse_limit("timeouts.request", timeouts.request.as_deref())?;
    let backend = duration::parse_limit("timeouts.backendRequest", timeouts.backend_request.as_deref())?;
    match (request, backend) {
        (Some(request), Some(backend)) if backend > request => Err(Fault::unsupported(
            "timeouts.backendRequest is longer than timeouts.request; it must be at most as long",
        )),
        limits => Ok(limits),
    }
}

fn convert_retry(retry: &RouteRetry) -> Result<Retry, Fault> {
    let attempts = retry.attempts.unwrap_or(1);
    let code = |code: &i64| {
        u16::try_from(*code)
            .ok()
            .filter(|code| (400..600).contains(code))
            .ok_or_else(|| Fault::unsupported(format!("retry.codes: {code} is no status from 400 to 599")))
    };
    Ok(Retry {
        attempts: u32::try_from(attempts).map_err(|_| {
            Fault::unsupported(format!("retry.attempts: {attempts} is not a number of tries"))
        })?,
        codes: retry.codes.iter().flatten().map(code).collect::<Result<_, _>>()?,
        backoff: retry.backoff.as_deref().map(|text| duration::parse("retry.backoff", text)).transpose()?,
    })
}
