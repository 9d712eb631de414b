//! HTTPRoutes or GRPCRoutes of one Service port as one table: the rules of all routes, merged by the API's precedence.
//!
//! Order: exact path; regular expression (more characters first; the API leaves its place open, and after the
//! prefixes a rule for `/` would hide every expression); longest prefix; then method, number of headers, number of
//! query parameters, oldest route, namespace/name, rule order. GRPCRoutes: exact before expressions before rules for
//! every method, then characters in the service, in the method, number of headers, oldest, name, rule order.

mod conditions;
mod expression;
mod index;
mod rank;

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use weft_model::route::{Match, Route, RouteKind};

use crate::rule::{CompiledRule, RouteRules, rules_of};

pub(crate) use conditions::{Conditions, Failed, Request, header_value};
pub(crate) use expression::full_match;
use index::Index;
pub use rank::Criterion;
pub(crate) use rank::Rank;

/// The rules of one set of HTTPRoutes or GRPCRoutes on one Service port.
#[derive(Debug, Default)]
pub struct HttpTable {
    /// One per match, those that win first.
    pub(crate) entries: Vec<Entry>,
    index: Index,
    /// GRPCRoutes: only gRPC requests can match.
    grpc: bool,
}

/// One match of one rule.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) rule: Arc<CompiledRule>,
    pub(crate) matched: Match,
    pub(crate) conditions: Conditions,
    pub(crate) rank: Rank,
}

/// The rule that decides about a request.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'t> {
    /// The rule, with its route and its place in it.
    pub rule: &'t Arc<CompiledRule>,
    /// Which of the rule's matches selected it (`ReplacePrefixMatch` replaces its prefix).
    pub matched: &'t Match,
}

impl<'t> Selection<'t> {
    /// The route that the rule is from.
    pub fn route(&self) -> &'t Arc<Route> {
        &self.rule.route
    }
}

impl HttpTable {
    /// The table of these routes, all HTTPRoutes or all GRPCRoutes; routes of other kinds are left out.
    ///
    /// A rule that cannot be carried out (see [`crate::validate::validate`]) stays and refuses what it matches; a condition
    /// that cannot be understood then counts as fulfilled.
    pub fn compile(routes: &[Arc<Route>]) -> Self {
        Self::of(&routes.iter().filter_map(rules_of).collect::<Vec<_>>())
    }

    /// As [`Self::compile`], of rules that other tables may have as well.
    pub(crate) fn of(routes: &[RouteRules]) -> Self {
        let mut entries = Vec::new();
        for RouteRules { route, rules } in routes {
            for rule in rules {
                // Never empty by the model; if it is, the rule refuses everything rather than nothing.
                let all = [Match::default()];
                let matches = if rule.spec.matches.is_empty() { all.as_slice() } else { &rule.spec.matches };
                entries.extend(matches.iter().enumerate().map(|(place, matched)| {
                    let conditions = Conditions::compile(matched);
                    let rank = Rank::of(matched, &conditions, route, (rule.index, place));
                    Entry { rule: Arc::clone(rule), matched: matched.clone(), conditions, rank }
                }));
            }
        }
        entries.sort_by(|a, b| a.rank.cmp(&b.rank));
        let index = Index::build(entries.iter().map(|entry| &entry.conditions.path));
        Self { entries, index, grpc: routes.iter().any(|of| of.route.id.kind == RouteKind::Grpc) }
    }

    /// The rule for a request; `None`: refuse (`no_route_match`, 404 or UNIMPLEMENTED).
    pub fn select(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Selection<'_>> {
        let request = Request::new(method, uri, headers);
        if !self.admits_protocol(&request) {
            return None;
        }
        let entry = self.index.first(request.path, |place, path_holds| {
            let entry = self.entries.get(place)?;
            let path = path_holds || entry.conditions.path.holds(request.path);
            (path && entry.conditions.check_rest(&request).is_ok()).then_some(entry)
        })?;
        Some(Selection { rule: &entry.rule, matched: &entry.matched })
    }

    /// How many matches are looked at for a path, if none of them holds.
    #[cfg(test)]
    pub(crate) fn looks(&self, path: &str) -> usize {
        let mut looks = 0;
        let _ = self.index.first(path, |_, _| -> Option<()> {
            looks += 1;
            None
        });
        looks
    }

    /// GRPCRoutes see only gRPC requests.
    pub(crate) fn admits_protocol(&self, request: &Request<'_>) -> bool {
        !self.grpc || is_grpc(request.headers)
    }
}

/// Whether a request is gRPC by its content type: `application/grpc`, also with `+codec` or parameters (not gRPC-Web).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(http::header::CONTENT_TYPE) else { return false };
    let bytes = content_type.as_bytes();
    let (Some(kind), rest) = (bytes.get(..16), bytes.get(16)) else { return false };
    kind.eq_ignore_ascii_case(b"application/grpc") && matches!(rest, None | Some(b'+' | b';' | b' '))
}
