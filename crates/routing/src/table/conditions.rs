//! What one match asks of a request, prepared.

use std::borrow::Cow;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method, Uri};
use regex::bytes::Regex;
use weft_model::Text;
use weft_model::route::{Match, PathMatch, ValueMatch};

use super::expression::full_match;
use crate::path::is_under;
use crate::query::first_value;

/// The parts of a request that matches look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'r> {
    pub(crate) method: &'r Method,
    pub(crate) path: &'r str,
    pub(crate) query: &'r str,
    pub(crate) headers: &'r HeaderMap,
}

impl<'r> Request<'r> {
    pub(crate) fn new(method: &'r Method, uri: &'r Uri, headers: &'r HeaderMap) -> Self {
        Self { method, path: uri.path(), query: uri.query().unwrap_or(""), headers }
    }
}

/// All that must hold.
#[derive(Debug)]
pub(crate) struct Conditions {
    pub(crate) path: PathCondition,
    pub(crate) method: Option<Text>,
    pub(crate) headers: Vec<(HeaderName, Expected)>,
    pub(crate) query: Vec<(Text, Expected)>,
}

/// What a path must be.
#[derive(Debug)]
pub(crate) enum PathCondition {
    Exact(Text),
    /// Without trailing `/`; empty for all.
    Prefix(Text),
    Regex(Expression),
    Grpc(Expected, Expected),
}

/// What a value must be.
#[derive(Debug)]
pub(crate) enum Expected {
    Anything,
    Exact(Text),
    Regex(Expression),
}

/// An expression with its text. One that does not compile admits everything: its rule refuses.
#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) text: Text,
    pub(crate) compiled: Option<Regex>,
}

/// The first condition that a request did not fulfil.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed<'c> {
    Path,
    Method(&'c Text),
    Header(&'c HeaderName),
    Query(&'c Text),
}

impl Conditions {
    pub(crate) fn compile(matched: &Match) -> Self {
        let mut headers: Vec<(HeaderName, Expected)> = Vec::new();
        for header in &matched.headers {
            // A name that cannot be a header's is a fault of the rule, which then refuses.
            let Ok(name) = HeaderName::from_bytes(header.name.as_bytes()) else { continue };
            if !headers.iter().any(|(known, _)| *known == name) {
                headers.push((name, Expected::of(header)));
            }
        }
        let mut query: Vec<(Text, Expected)> = Vec::new();
        for parameter in &matched.query {
            if !query.iter().any(|(known, _)| *known == parameter.name) {
                query.push((parameter.name.clone(), Expected::of(parameter)));
            }
        }
        Self { path: PathCondition::compile(&matched.path), method: matched.method.clone(), headers, query }
    }

    /// Checks all but the path.
    pub(crate) fn check_rest(&self, request: &Request<'_>) -> Result<(), Failed<'_>> {
        if let Some(method) = self.method.as_ref().filter(|method| ***method != *request.method.as_str()) {
            return Err(Failed::Method(method));
        }
        for (name, expected) in &self.headers {
            let value = header_value(request.headers, name);
            if !value.is_some_and(|value| expected.holds(&value)) {
                return Err(Failed::Header(name));
            }
        }
        for (name, expected) in &self.query {
            if !first_value(request.query, name).is_some_and(|value| expected.holds(&value)) {
                return Err(Failed::Query(name));
            }
        }
        Ok(())
    }

    /// Checks everything.
    pub(crate) fn check(&self, request: &Request<'_>) -> Result<(), Failed<'_>> {
        if self.path.holds(request.path) { self.check_rest(request) } else { Err(Failed::Path) }
    }
}

impl PathCondition {
    fn compile(path: &PathMatch) -> Self {
        match path {
            PathMatch::Exact { value } => Self::Exact(value.clone()),
            PathMatch::Prefix { value } => Self::Prefix(value.trim_end_matches('/').into()),
            PathMatch::Regex { value } => Self::Regex(Expression::new(value)),
            PathMatch::Grpc { service, method, regex } => {
                let expected = |part: &Option<Text>| match part {
                    Some(text) if !text.is_empty() && *regex => Expected::Regex(Expression::new(text)),
                    Some(text) if !text.is_empty() => Expected::Exact(text.clone()),
                    _ => Expected::Anything,
                };
                Self::Grpc(expected(service), expected(method))
            }
        }
    }

    pub(crate) fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(value) => **value == *path,
            Self::Prefix(prefix) => is_under(path, prefix),
            Self::Regex(expression) => expression.holds(path.as_bytes()),
            Self::Grpc(service, method) => grpc_parts(path)
                .is_some_and(|(s, m)| service.holds(s.as_bytes()) && method.holds(m.as_bytes())),
        }
    }
}

/// Service and method of a gRPC request's path, `/service/method`.
pub(super) fn grpc_parts(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

impl Expected {
    fn of(value: &ValueMatch) -> Self {
        if value.regex {
            Self::Regex(Expression::new(&value.value))
        } else {
            Self::Exact(value.value.clone())
        }
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Anything => true,
            Self::Exact(expected) => expected.as_bytes() == value,
            Self::Regex(expression) => expression.holds(value),
        }
    }
}

impl Expression {
    fn new(text: &Text) -> Self {
        Self { text: text.clone(), compiled: full_match(text).ok() }
    }

    fn holds(&self, value: &[u8]) -> bool {
        self.compiled.as_ref().is_none_or(|regex| regex.is_match(value))
    }
}

/// A header's value; several lines count as one, joined by a comma (RFC 9110 §5.3; cookies by `; `, RFC 9113 §8.2.3).
pub(crate) fn header_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    let mut value = Cow::Borrowed(first);
    let separator: &[u8] = if name == COOKIE { b"; " } else { b"," };
    for line in lines {
        let joined = value.to_mut();
        joined.extend_from_slice(separator);
        joined.extend_from_slice(line.as_bytes());
    }
    Some(value)
}
