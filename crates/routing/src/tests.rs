//! One row per sentence of the specification.

mod cors;
mod filters;
mod listener;
mod oracle;
mod schedule;
mod selection;
mod sets;
mod validation;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use weft_model::ObjectName;
use weft_model::route::{
    Backend, BackendTarget, HttpRule, Match, Parent, PathMatch, Route, RouteId, RouteKind, Rules, ValueMatch,
};
use weft_model::service::AppProtocol;

use crate::HttpTable;

pub(crate) fn service() -> ObjectName {
    ObjectName::new("shop", "cart")
}

pub(crate) fn route(kind: RouteKind, name: &str, created: i64, rules: Rules) -> Arc<Route> {
    let id = RouteId { kind, name: name.parse().unwrap() };
    let parents = vec![Parent { service: service(), port: 80, explicit_port: true }];
    Arc::new(Route { id, generation: 1, created, parents, listeners: Vec::new(), for_gateways: false, rules })
}

/// An HTTPRoute of the Service's namespace whose rules are named by their single matches.
pub(crate) fn http(name: &str, created: i64, rules: Vec<HttpRule>) -> Arc<Route> {
    route(RouteKind::Http, name, created, Rules::Http(rules))
}

pub(crate) fn rule(name: &str, matches: Vec<Match>) -> HttpRule {
    HttpRule { name: Some(name.into()), matches, ..HttpRule::default() }
}

pub(crate) fn exact(value: &str) -> Match {
    Match { path: PathMatch::Exact { value: value.into() }, ..Match::default() }
}

pub(crate) fn prefix(value: &str) -> Match {
    Match { path: PathMatch::Prefix { value: value.into() }, ..Match::default() }
}

pub(crate) fn regex(value: &str) -> Match {
    Match { path: PathMatch::Regex { value: value.into() }, ..Match::default() }
}

pub(crate) fn grpc(service: Option<&str>, method: Option<&str>, regex: bool) -> Match {
    let path = PathMatch::Grpc { service: service.map(Into::into), method: method.map(Into::into), regex };
    Match { path, ..Match::default() }
}

pub(crate) fn value(name: &str, value: &str, regex: bool) -> ValueMatch {
    ValueMatch { name: name.into(), value: value.into(), regex }
}

pub(crate) trait With {
    fn header(self, name: &str, value: &str) -> Self;
    fn query(self, name: &str, value: &str) -> Self;
    fn method(self, method: &str) -> Self;
}

impl With for Match {
    fn header(mut self, name: &str, text: &str) -> Self {
        self.headers.push(value(name, text, false));
        self
    }

    fn query(mut self, name: &str, text: &str) -> Self {
        self.query.push(value(name, text, false));
        self
    }

    fn method(mut self, method: &str) -> Self {
        self.method = Some(method.into());
        self
    }
}

pub(crate) fn backend(weight: u32) -> Backend {
    let target =
        BackendTarget::Service { service: service(), port: 8080, protocol: AppProtocol::Unspecified };
    Backend { weight, target, filters: Vec::new() }
}

pub(crate) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

/// The name of the rule selected for `METHOD path`, with its route: `ns/route rule`.
pub(crate) fn selected(table: &HttpTable, request: &str, lines: &[(&str, &str)]) -> Option<String> {
    let (method, uri) = request.split_once(' ').unwrap();
    let (method, uri): (Method, Uri) = (method.parse().unwrap(), uri.parse().unwrap());
    let selection = table.select(&method, &uri, &headers(lines))?;
    Some(selection.rule.spec.name.as_deref().unwrap_or("?").to_owned())
}
