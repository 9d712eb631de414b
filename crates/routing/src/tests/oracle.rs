//! The compiled table against a naive reading of the specification, on random routes and requests.

use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use proptest::prelude::*;
use proptest::sample::select;
use weft_model::route::{HttpRule, Match, PathMatch, Route, RouteKind, Rules, ValueMatch};

use super::{headers, route};
use crate::HttpTable;
use crate::explain::Verdict;

/// What the specification asks a comparison to look at, larger first; then age, name, place.
type Naive = (u8, usize, usize, bool, usize, usize);

fn distinct(values: &[ValueMatch]) -> Vec<&ValueMatch> {
    let first = |(place, value): (usize, &ValueMatch)| {
        values.iter().position(|v| v.name == value.name) == Some(place)
    };
    values
        .iter()
        .enumerate()
        .filter(|(place, value)| first((*place, value)))
        .map(|(_, value)| value)
        .collect()
}

fn full(expression: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{expression})$")).unwrap().is_match(text)
}

fn holds(matched: &Match, method: &str, path: &str, query: &[(&str, &str)], lines: &[(&str, &str)]) -> bool {
    let path_holds = match &matched.path {
        PathMatch::Exact { value } => **value == *path,
        PathMatch::Prefix { value } => {
            let wanted: Vec<&str> = value.split('/').filter(|segment| !segment.is_empty()).collect();
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            segments.len() >= wanted.len() && segments[..wanted.len()] == wanted[..]
        }
        PathMatch::Regex { value } => full(value, path),
        PathMatch::Grpc { service, method, regex } => {
            // As gRPC's own servers do: the method is what follows the last slash.
            let Some((s, m)) = path[1..].rsplit_once('/') else { return false };
            let part = |wanted: &Option<_>, text: &str| {
                wanted.as_ref().is_none_or(
                    |wanted: &weft_model::Text| {
                        if *regex { full(wanted, text) } else { **wanted == *text }
                    },
                )
            };
            !s.is_empty() && !m.is_empty() && part(service, s) && part(method, m)
        }
    };
    let header = |wanted: &&ValueMatch| {
        let values: Vec<&str> =
            lines.iter().filter(|(name, _)| *name == &*wanted.name).map(|(_, value)| *value).collect();
        let joined = values.join(",");
        !values.is_empty()
            && if wanted.regex { full(&wanted.value, &joined) } else { joined == *wanted.value }
    };
    let parameter = |wanted: &&ValueMatch| {
        let first = query.iter().find(|(name, _)| *name == &*wanted.name);
        first.is_some_and(
            |(_, value)| if wanted.regex { full(&wanted.value, value) } else { *value == &*wanted.value },
        )
    };
    path_holds
        && matched.method.as_ref().is_none_or(|wanted| **wanted == *method)
        && distinct(&matched.headers).iter().all(header)
        && distinct(&matched.query).iter().all(parameter)
}

fn weight(matched: &Match) -> Naive {
    let (class, first, second) = match &matched.path {
        PathMatch::Exact { value } => (2, value.len(), 0),
        PathMatch::Regex { value } => (1, value.len(), 0),
        PathMatch::Prefix { value } => (0, value.trim_end_matches('/').len(), 0),
        PathMatch::Grpc { service: None, method: None, .. } => (0, 0, 0),
        PathMatch::Grpc { service, method, regex } => {
            let length = |text: &Option<weft_model::Text>| text.as_ref().map_or(0, |text| text.len());
            (if *regex { 1 } else { 2 }, length(service), length(method))
        }
    };
    let counts = (distinct(&matched.headers).len(), distinct(&matched.query).len());
    (class, first, second, matched.method.is_some(), counts.0, counts.1)
}

/// Route name, rule and match of the winner: all that hold, the heaviest, the oldest, the first.
fn naive(
    routes: &[Arc<Route>],
    method: &str,
    path: &str,
    query: &[(&str, &str)],
    lines: &[(&str, &str)],
) -> Option<(String, usize, usize)> {
    let mut best: Option<(Naive, i64, String, usize, usize)> = None;
    for route in routes {
        let Rules::Http(rules) = &route.rules else { panic!() };
        for (r, rule) in rules.iter().enumerate() {
            for (m, matched) in rule.matches.iter().enumerate() {
                if !holds(matched, method, path, query, lines) {
                    continue;
                }
                let this = (weight(matched), route.created, route.id.name.to_string(), r, m);
                let better = best.as_ref().is_none_or(|best| {
                    this.0 > best.0
                        || (this.0 == best.0
                            && (this.1, &this.2, this.3, this.4) < (best.1, &best.2, best.3, best.4))
                });
                if better {
                    best = Some(this);
                }
            }
        }
    }
    best.map(|(_, _, name, rule, matched)| (name, rule, matched))
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(select(vec!["a", "b", "ab", "c"]), 0..4).prop_map(|s| format!("/{}", s.join("/")))
}

fn requested_path() -> impl Strategy<Value = String> {
    (path(), select(vec!["", "", "/"])).prop_map(|(path, tail)| format!("{path}{tail}"))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        path().prop_map(|value| PathMatch::Exact { value: value.into() }),
        (path(), any::<bool>()).prop_map(|(value, slash)| {
            let tail = if slash && value != "/" { "/" } else { "" };
            PathMatch::Prefix { value: format!("{value}{tail}").into() }
        }),
        select(vec!["/a.*", "/(a|b)/[ab]+", ".*", "/c?", "/ab?/?"])
            .prop_map(|value| PathMatch::Regex { value: value.into() }),
    ]
}

fn grpc_match() -> impl Strategy<Value = PathMatch> {
    let part = || prop::option::of(select(vec!["a", "b", "ab"]));
    (part(), part(), any::<bool>()).prop_map(|(service, method, regex)| PathMatch::Grpc {
        service: service.map(Into::into),
        method: method.map(Into::into),
        regex,
    })
}

fn values(names: Vec<&'static str>) -> impl Strategy<Value = Vec<ValueMatch>> {
    let value = (select(names), select(vec!["1", "2", "1,2"]), any::<bool>());
    let one =
        value.prop_map(|(name, value, regex)| ValueMatch { name: name.into(), value: value.into(), regex });
    prop::collection::vec(one, 0..3)
}

fn matched(path: BoxedStrategy<PathMatch>) -> impl Strategy<Value = Match> {
    let method = prop::option::of(select(vec!["GET", "POST"]));
    (path, method, values(vec!["x", "y"]), values(vec!["p", "q"])).prop_map(
        |(path, method, headers, query)| Match { path, method: method.map(Into::into), headers, query },
    )
}

fn routes(kind: RouteKind) -> impl Strategy<Value = Vec<Arc<Route>>> {
    let path = if kind == RouteKind::Grpc { grpc_match().boxed() } else { path_match().boxed() };
    let rule = prop::collection::vec(matched(path), 1..4)
        .prop_map(|matches| HttpRule { matches, ..HttpRule::default() });
    let one = (prop::collection::vec(rule, 1..6), 0..2_i64);
    prop::collection::vec(one, 1..5).prop_map(move |routes| {
        let names = ["shop/b", "shop/a", "shop-x/a", "web/c", "shop/z"];
        let of = |((rules, created), name): ((Vec<HttpRule>, i64), &str)| {
            route(kind, name, created, Rules::Http(rules))
        };
        routes.into_iter().zip(names).map(of).collect()
    })
}

type Pairs = Vec<(&'static str, &'static str)>;

fn pairs(names: Vec<&'static str>) -> impl Strategy<Value = Pairs> {
    prop::collection::vec((select(names), select(vec!["1", "2", "3"])), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn the_table_decides_as_the_specification_says(
        (kind, routes) in prop_oneof![
            routes(RouteKind::Http).prop_map(|routes| (RouteKind::Http, routes)),
            routes(RouteKind::Grpc).prop_map(|routes| (RouteKind::Grpc, routes)),
        ],
        method in select(vec!["GET", "POST", "PUT"]),
        path in requested_path(),
        query in pairs(vec!["p", "q"]),
        mut lines in pairs(vec!["x", "y"]),
    ) {
        let expected = naive(&routes, method, &path, &query, &lines);
        if kind == RouteKind::Grpc {
            lines.push(("content-type", "application/grpc"));
        }
        let text: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let uri: Uri = format!("{path}?{}", text.join("&")).parse().unwrap();
        let (method, map): (Method, HeaderMap) = (method.parse().unwrap(), headers(&lines));
        let table = HttpTable::compile(&routes);
        let found = table.select(&method, &uri, &map).map(|selection| {
            let rule = selection.rule;
            let place = rule.spec.matches.iter().position(|m| m == selection.matched).unwrap();
            (rule.route.id.name.to_string(), rule.index, place)
        });
        let expected_equal = expected.as_ref().map(|(name, rule, matched)| {
            // Equal matches in one rule are the same match.
            let route = routes.iter().find(|route| route.id.name.to_string() == *name).unwrap();
            let Rules::Http(rules) = &route.rules else { panic!() };
            let first = rules[*rule].matches.iter().position(|m| *m == rules[*rule].matches[*matched]).unwrap();
            (name.clone(), *rule, first)
        });
        prop_assert_eq!(&found, &expected_equal);

        let explained = table.explain(&method, &uri, &map);
        let chosen = explained.iter().find(|candidate| candidate.verdict == Verdict::Selected);
        let chosen = chosen.map(|candidate| (candidate.rule.route.id.name.to_string(), candidate.rule.index));
        prop_assert_eq!(chosen, found.map(|(name, rule, _)| (name, rule)));
    }

    #[test]
    fn no_text_makes_the_table_panic(paths in prop::collection::vec(".{0,20}", 1..8), request in "/[!-~]{0,30}", header in ".{0,9}") {
        let matches = paths.iter().flat_map(|path| {
            let values = vec![ValueMatch { name: header.as_str().into(), value: path.as_str().into(), regex: true }];
            let part = Some(path.as_str().into());
            [
                Match { path: PathMatch::Regex { value: path.as_str().into() }, ..Match::default() },
                Match { path: PathMatch::Prefix { value: path.as_str().into() }, query: values.clone(), ..Match::default() },
                Match { path: PathMatch::Grpc { service: part.clone(), method: part, regex: true }, headers: values, ..Match::default() },
            ]
        });
        let rules = vec![HttpRule { matches: matches.collect(), ..HttpRule::default() }];
        let table = HttpTable::compile(&[route(RouteKind::Http, "shop/a", 1, Rules::Http(rules))]);
        if let Ok(uri) = request.parse::<Uri>() {
            let explained = table.explain(&Method::GET, &uri, &HeaderMap::new());
            let selected = explained.iter().any(|candidate| candidate.verdict == Verdict::Selected);
            prop_assert_eq!(table.select(&Method::GET, &uri, &HeaderMap::new()).is_some(), selected);
        }
    }
}
