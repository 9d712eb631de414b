//! What is wrong with a rule: said by the controller in the route's status, and the reason why the rule refuses.

use std::fmt;

use http::{HeaderName, HeaderValue};
use weft_model::route::{
    AuthProtocol, ExternalAuth, Filter, HeaderModifier, HttpRule, Match, PathMatch, PathModifier, Refusal,
    Route, Rules, ValueMatch,
};
use weft_model::session::{SessionCarrier, SessionPersistence};

use crate::table::full_match;

/// A field that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The rule's place in the route, from 0.
    pub rule: usize,
    /// The field below the rule, for example `matches[0].path.value`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rules[{}].{}: {}", self.rule, self.field, self.message)
    }
}

/// Everything in a route's rules that cannot be carried out. The rules concerned refuse what they match.
pub fn validate(route: &Route) -> Vec<Problem> {
    let Rules::Http(rules) = &route.rules else { return Vec::new() };
    rules
        .iter()
        .enumerate()
        .flat_map(|(place, rule)| {
            problems_of(rule).into_iter().map(move |(field, message)| Problem { rule: place, field, message })
        })
        .collect()
}

/// What of an `ExternalAuth` filter cannot be carried out: the field and what is wrong with it.
pub fn auth_problem(auth: &ExternalAuth) -> Option<(String, String)> {
    let mut problems = Vec::new();
    of_auth(auth, "externalAuth", &mut problems);
    problems.into_iter().next()
}

/// The refusal of a rule that cannot be carried out.
pub(crate) fn fault_of(rule: &HttpRule) -> Option<Refusal> {
    let (field, message) = problems_of(rule).into_iter().next()?;
    Some(Refusal { message: format!("{field}: {message}").into() })
}

/// What is wrong with `sessionPersistence`, wherever it stands.
pub fn session(session: &SessionPersistence) -> Option<String> {
    let mut problems = Vec::new();
    of_session(session, "sessionPersistence", &mut problems);
    problems.into_iter().next().map(|(field, message)| format!("{field}: {message}"))
}

fn problems_of(rule: &HttpRule) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    if rule.matches.is_empty() {
        problems.push(("matches".to_owned(), "a rule needs at least one match".to_owned()));
    }
    for (place, matched) in rule.matches.iter().enumerate() {
        of_match(matched, &format!("matches[{place}]"), &mut problems);
    }
    let only_prefixes = rule.matches.iter().all(|matched| matches!(matched.path, PathMatch::Prefix { .. }));
    of_filters(&rule.filters, "filters", only_prefixes, &mut problems);
    for (place, backend) in rule.backends.iter().enumerate() {
        of_filters(&backend.filters, &format!("backendRefs[{place}].filters"), only_prefixes, &mut problems);
    }
    if let Some(session) = &rule.session {
        of_session(session, "sessionPersistence", &mut problems);
    }
    problems
}

/// Header fields that mean something else to proxies, callers or applications.
const NOT_FOR_SESSIONS: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "host",
    "keep-alive",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

fn of_session(session: &SessionPersistence, field: &str, problems: &mut Vec<(String, String)>) {
    match &session.carrier {
        SessionCarrier::Cookie { name: cookie, path, .. } => {
            // A cookie's name is a token, as a header's is (RFC 6265, section 4.1.1).
            name(cookie, format!("{field}.cookie.name"), problems);
            let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
            if !path.starts_with('/') || !path.bytes().all(plain) {
                let message = format!("{path:?} is no path of a cookie: begin it with / and leave ; out");
                problems.push((format!("{field}.cookie.path"), message));
            }
        }
        SessionCarrier::Header { name: header } => {
            name(header, format!("{field}.header.name"), problems);
            if NOT_FOR_SESSIONS.contains(&header.to_ascii_lowercase().as_str()) {
                let message = format!("{header} has a meaning of its own: name another header");
                problems.push((format!("{field}.header.name"), message));
            }
        }
    }
}

fn of_match(matched: &Match, field: &str, problems: &mut Vec<(String, String)>) {
    match &matched.path {
        PathMatch::Regex { value } => expression(value, format!("{field}.path.value"), problems),
        PathMatch::Grpc { service, method, regex: true } => {
            for (name, part) in [("service", service), ("method", method)] {
                if let Some(part) = part {
                    expression(part, format!("{field}.method.{name}"), problems);
                }
            }
        }
        _ => {}
    }
    let of_value = |value: &ValueMatch, field: String, problems: &mut Vec<_>| {
        if value.regex {
            expression(&value.value, field, problems);
        }
    };
    for (place, header) in matched.headers.iter().enumerate() {
        name(&header.name, format!("{field}.headers[{place}].name"), problems);
        of_value(header, format!("{field}.headers[{place}].value"), problems);
    }
    for (place, parameter) in matched.query.iter().enumerate() {
        of_value(parameter, format!("{field}.queryParams[{place}].value"), problems);
    }
}

fn of_filters(filters: &[Filter], field: &str, only_prefixes: bool, problems: &mut Vec<(String, String)>) {
    for (place, filter) in filters.iter().enumerate() {
        let field = format!("{field}[{place}]");
        let path = match filter {
            Filter::RequestHeaders(modifier) | Filter::ResponseHeaders(modifier) => {
                of_modifier(modifier, &field, problems);
                None
            }
            Filter::Redirect(redirect) => redirect.path.as_ref(),
            Filter::UrlRewrite(rewrite) => rewrite.path.as_ref(),
            Filter::ExternalAuth(auth) => {
                of_auth(auth, &field, problems);
                None
            }
            Filter::Mirror(_) | Filter::Cors(_) => None,
        };
        if matches!(path, Some(PathModifier::Prefix(_))) && !only_prefixes {
            let message =
                "ReplacePrefixMatch needs PathPrefix matches only: change the matches or use ReplaceFullPath";
            problems.push((format!("{field}.path"), message.to_owned()));
        }
    }
}

fn of_modifier(modifier: &HeaderModifier, field: &str, problems: &mut Vec<(String, String)>) {
    for (verb, headers) in [("set", &modifier.set), ("add", &modifier.add)] {
        for (place, (key, value)) in headers.iter().enumerate() {
            name(key, format!("{field}.{verb}[{place}].name"), problems);
            if HeaderValue::from_str(value).is_err() {
                let message =
                    format!("{value:?} cannot stand in a header: remove control and non-ASCII characters");
                problems.push((format!("{field}.{verb}[{place}].value"), message));
            }
        }
    }
    for (place, key) in modifier.remove.iter().enumerate() {
        name(key, format!("{field}.remove[{place}]"), problems);
    }
}

fn of_auth(auth: &ExternalAuth, field: &str, problems: &mut Vec<(String, String)>) {
    let mut names = |list: &[weft_model::Text], field: String| {
        for (place, header) in list.iter().enumerate() {
            name(header, format!("{field}[{place}]"), problems);
        }
    };
    match &auth.protocol {
        AuthProtocol::Grpc { allowed_headers } => {
            names(allowed_headers, format!("{field}.grpc.allowedHeaders"))
        }
        AuthProtocol::Http { prefix, allowed_headers, allowed_response_headers } => {
            names(allowed_headers, format!("{field}.http.allowedHeaders"));
            names(allowed_response_headers, format!("{field}.http.allowedResponseHeaders"));
            if let Some(message) = prefix_problem(prefix) {
                problems.push((format!("{field}.http.path"), message.to_owned()));
            }
        }
    }
}

/// As the API restricts the paths of matches: what stands before a request's path is not to lead out of itself.
fn prefix_problem(prefix: &str) -> Option<&'static str> {
    let lower = prefix.to_ascii_lowercase();
    let dotted = |segment: &str| matches!(segment.replace("%2e", ".").as_str(), "." | "..");
    if prefix.is_empty() {
        return None;
    }
    if !prefix.starts_with('/') {
        return Some("it must begin with a slash");
    }
    if prefix.contains("//") || lower.contains("%2f") || lower.split('/').any(dotted) {
        return Some("it must not have empty segments, `.` or `..` as segments, or encoded slashes");
    }
    let fits = http::uri::PathAndQuery::try_from(prefix).is_ok_and(|parsed| parsed.query().is_none());
    (!fits || prefix.contains('#')).then_some("it is no path of a URI")
}

fn name(name: &str, field: String, problems: &mut Vec<(String, String)>) {
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        problems.push((field, format!("{name:?} is no header name")));
    }
}

fn expression(text: &str, field: String, problems: &mut Vec<(String, String)>) {
    if let Err(error) = full_match(text) {
        // The library's message spans lines and draws an arrow; the last line says what is wrong.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
        problems.push((field, format!("{text:?} is no valid regular expression: {reason}")));
    }
}
