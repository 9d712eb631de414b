//! The order of precedence between matches.

use std::cmp::{Ordering, Reverse};

use weft_model::route::{Match, PathMatch, Route};

use super::conditions::Conditions;

/// Where a match stands: the smaller wins. Fields in order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    path: PathRank,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    /// `namespace/name`: compared as one text, as the API says.
    route: String,
    rule: usize,
    matched: usize,
}

/// Class of the path match, then characters in it (of a GRPCRoute: in service and method).
type PathRank = (Class, Reverse<usize>, Reverse<usize>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Exact,
    Regex,
    Prefix,
}

/// Why one match that holds stands before another that holds too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// Exact path, then regular expression, then prefix.
    PathType,
    /// More characters in the path (GRPCRoute: service, then method).
    PathLength,
    /// It names a method.
    Method,
    /// More header matches.
    Headers,
    /// More query parameter matches.
    QueryParams,
    /// The older route.
    Age,
    /// The route's namespace and name come first in the alphabet.
    Name,
    /// The rule, or the match within it, comes first in the route.
    RuleOrder,
}

impl Rank {
    pub(super) fn of(matched: &Match, conditions: &Conditions, route: &Route, place: (usize, usize)) -> Self {
        Self {
            path: path_rank(&matched.path),
            method: Reverse(matched.method.is_some()),
            headers: Reverse(conditions.headers.len()),
            query: Reverse(conditions.query.len()),
            created: route.created,
            route: route.id.name.to_string(),
            rule: place.0,
            matched: place.1,
        }
    }

    /// The match's place in its rule.
    pub(crate) fn place(&self) -> usize {
        self.matched
    }

    /// The first criterion by which the two differ.
    pub(crate) fn criterion(&self, other: &Self) -> Criterion {
        let order = [
            (self.path.0.cmp(&other.path.0), Criterion::PathType),
            (self.path.cmp(&other.path), Criterion::PathLength),
            (self.method.cmp(&other.method), Criterion::Method),
            (self.headers.cmp(&other.headers), Criterion::Headers),
            (self.query.cmp(&other.query), Criterion::QueryParams),
            (self.created.cmp(&other.created), Criterion::Age),
            (self.route.cmp(&other.route), Criterion::Name),
        ];
        let first = order.into_iter().find(|(ordering, _)| *ordering != Ordering::Equal);
        first.map_or(Criterion::RuleOrder, |(_, criterion)| criterion)
    }
}

fn path_rank(path: &PathMatch) -> PathRank {
    let characters = |text: &str| Reverse(text.chars().count());
    match path {
        PathMatch::Exact { value } => (Class::Exact, characters(value), Reverse(0)),
        PathMatch::Regex { value } => (Class::Regex, characters(value), Reverse(0)),
        PathMatch::Prefix { value } => (Class::Prefix, characters(value.trim_end_matches('/')), Reverse(0)),
        PathMatch::Grpc { service, method, regex } => {
            let (service, method) = (service.as_deref().unwrap_or(""), method.as_deref().unwrap_or(""));
            let class = match (service, method) {
                ("", "") => Class::Prefix,
                _ if *regex => Class::Regex,
                _ => Class::Exact,
            };
            (class, characters(service), characters(method))
        }
    }
}
