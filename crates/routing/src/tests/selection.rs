//! HTTPRouteMatch, GRPCRouteMatch and the order of precedence, sentence by sentence.

use super::{With, exact, grpc, http, prefix, regex, route, rule, selected, value};
use crate::HttpTable;
use weft_model::route::{HttpRule, Match, RouteKind, Rules};

fn table(rules: Vec<HttpRule>) -> HttpTable {
    HttpTable::compile(&[http("shop/a", 1, rules)])
}

/// One match against requests that it must admit and requests it must not.
#[track_caller]
fn admits(matched: Match, yes: &[(&str, &[(&str, &str)])], no: &[(&str, &[(&str, &str)])]) {
    let table = table(vec![rule("r", vec![matched])]);
    for (request, lines) in yes {
        assert!(selected(&table, request, lines).is_some(), "must match: {request} {lines:?}");
    }
    for (request, lines) in no {
        assert_eq!(selected(&table, request, lines), None, "must not match: {request} {lines:?}");
    }
}

#[test]
fn exact_path_matches_only_itself_with_case() {
    admits(
        exact("/abc"),
        &[("GET /abc", &[]), ("GET /abc?x=1", &[])],
        &[("GET /abc/", &[]), ("GET /ABC", &[]), ("GET /abcd", &[]), ("GET /", &[])],
    );
}

#[test]
fn prefix_matches_whole_segments_and_its_trailing_slash_does_not_count() {
    for written in ["/abc", "/abc/"] {
        admits(
            prefix(written),
            &[("GET /abc", &[]), ("GET /abc/", &[]), ("GET /abc/def", &[])],
            &[("GET /abcd", &[]), ("GET /ab", &[]), ("GET /", &[]), ("GET /Abc", &[])],
        );
    }
}

#[test]
fn prefix_slash_matches_every_request() {
    admits(Match::default(), &[("GET /", &[]), ("GET /a/b", &[]), ("OPTIONS *", &[]), ("GET //", &[])], &[]);
}

#[test]
fn regular_expression_must_match_the_whole_path() {
    admits(regex("/v[0-9]+/.*"), &[("GET /v1/a", &[])], &[("GET /x/v1/a", &[]), ("GET /v1", &[])]);
    admits(regex("/a|/b"), &[("GET /a", &[]), ("GET /b", &[])], &[("GET /ax", &[]), ("GET /xb", &[])]);
}

#[test]
fn header_names_are_compared_without_case_and_values_exactly() {
    admits(
        Match::default().header("x-version", "two"),
        &[("GET /", &[("X-Version", "two")])],
        &[("GET /", &[("x-version", "Two")]), ("GET /", &[]), ("GET /", &[("x-version", "two ,")])],
    );
}

#[test]
fn several_lines_of_one_header_are_one_value_joined_by_commas() {
    admits(
        Match::default().header("x-v", "a,b"),
        &[("GET /", &[("x-v", "a"), ("x-v", "b")]), ("GET /", &[("x-v", "a,b")])],
        &[("GET /", &[("x-v", "a")]), ("GET /", &[("x-v", "b"), ("x-v", "a")])],
    );
}

#[test]
fn of_header_matches_with_one_name_only_the_first_counts() {
    admits(
        Match::default().header("x-v", "a").header("x-v", "b"),
        &[("GET /", &[("x-v", "a")])],
        &[("GET /", &[("x-v", "b")])],
    );
}

#[test]
fn all_headers_must_match() {
    admits(
        Match::default().header("a", "1").header("b", "2"),
        &[("GET /", &[("a", "1"), ("b", "2")])],
        &[("GET /", &[("a", "1")]), ("GET /", &[("b", "2")])],
    );
}

#[test]
fn header_expression_must_match_the_whole_value() {
    let matched = Match { headers: vec![value("x", "v[0-9]", true)], ..Match::default() };
    admits(matched, &[("GET /", &[("x", "v1")])], &[("GET /", &[("x", "v12")]), ("GET /", &[("x", "av1")])]);
}

#[test]
fn query_parameters_match_exactly_by_the_first_value() {
    admits(
        Match::default().query("animal", "whale"),
        &[
            ("GET /?animal=whale", &[]),
            ("GET /?a=b&animal=whale&animal=dolphin", &[]),
            ("GET /?anim%61l=wh%61le", &[]),
        ],
        &[
            ("GET /?animal=dolphin&animal=whale", &[]),
            ("GET /?Animal=whale", &[]),
            ("GET /?animal=whales", &[]),
            ("GET /", &[]),
        ],
    );
    admits(
        Match::default().query("q", "a b"),
        &[("GET /?q=a+b", &[]), ("GET /?q=a%20b", &[])],
        &[("GET /?q=a%2Bb", &[])],
    );
    admits(Match::default().query("q", ""), &[("GET /?q", &[]), ("GET /?q=", &[])], &[("GET /?r", &[])]);
    admits(Match::default().query("q", "%zz"), &[("GET /?q=%zz", &[])], &[]);
}

#[test]
fn of_query_matches_with_one_name_only_the_first_counts() {
    admits(Match::default().query("a", "1").query("a", "2"), &[("GET /?a=1", &[])], &[("GET /?a=2", &[])]);
}

#[test]
fn method_matches_with_case() {
    admits(Match::default().method("POST"), &[("POST /", &[])], &[("GET /", &[]), ("post /", &[])]);
}

#[test]
fn matches_of_a_rule_are_alternatives_and_parts_of_a_match_are_not() {
    let table = table(vec![rule("r", vec![prefix("/foo").header("version", "v2"), prefix("/v2/foo")])]);
    assert!(selected(&table, "GET /foo", &[("version", "v2")]).is_some());
    assert!(selected(&table, "GET /v2/foo", &[]).is_some());
    assert_eq!(selected(&table, "GET /foo", &[]), None);
}

/// Two matches that both hold for `request`: the first must win, whichever is written first.
#[track_caller]
fn outranks(winner: Match, loser: Match, request: &str, lines: &[(&str, &str)]) {
    for order in [[("winner", &winner), ("loser", &loser)], [("loser", &loser), ("winner", &winner)]] {
        let rules = order.into_iter().map(|(name, matched)| rule(name, vec![matched.clone()])).collect();
        assert_eq!(
            selected(&table(rules), request, lines).as_deref(),
            Some("winner"),
            "{winner:?} {loser:?}"
        );
    }
}

#[test]
fn precedence_within_a_route_follows_the_specification() {
    let lines = &[("a", "1"), ("b", "2")];
    outranks(exact("/a/b"), prefix("/a/b").method("GET").header("a", "1"), "GET /a/b", lines);
    outranks(exact("/a/b"), regex("/a/b").header("a", "1"), "GET /a/b", lines);
    outranks(regex("/.*"), prefix("/a/b").header("a", "1"), "GET /a/b", lines);
    outranks(regex("/a/.*"), regex("/.*").header("a", "1"), "GET /a/b", lines);
    outranks(prefix("/a/b"), prefix("/a").method("GET").header("a", "1"), "GET /a/b", lines);
    outranks(prefix("/a").method("GET"), prefix("/a").header("a", "1").header("b", "2"), "GET /a", lines);
    let two = prefix("/a").header("a", "1").header("b", "2");
    outranks(two, prefix("/a").header("a", "1").query("q", "1").query("r", "2"), "GET /a?q=1&r=2", lines);
    outranks(
        prefix("/a").query("q", "1").query("r", "2"),
        prefix("/a").query("q", "1"),
        "GET /a?q=1&r=2",
        lines,
    );
    // Entries that do not count do not raise the number.
    let doubled = prefix("/a").header("a", "1").header("a", "2").header("a", "3");
    outranks(prefix("/a").header("a", "1").header("b", "2"), doubled, "GET /a", lines);
}

#[test]
fn ties_go_to_the_oldest_route_then_to_the_first_name_then_to_the_first_rule() {
    let of = |name: &str, created, label: &str| http(name, created, vec![rule(label, vec![prefix("/")])]);
    let first = |routes: &[_]| selected(&HttpTable::compile(routes), "GET /", &[]).unwrap();
    assert_eq!(first(&[of("shop/a", 2, "young"), of("shop/b", 1, "old")]), "old");
    assert_eq!(first(&[of("shop/b", 1, "b"), of("shop/a", 1, "a")]), "a");
    // By "{namespace}/{name}" as one text: '-' stands before '/'.
    assert_eq!(first(&[of("shop/a", 1, "slash"), of("shop-x/a", 1, "dash")]), "dash");
    let rules = vec![rule("one", vec![prefix("/")]), rule("two", vec![prefix("/")])];
    assert_eq!(selected(&table(rules), "GET /", &[]).as_deref(), Some("one"));
}

#[test]
fn a_more_specific_match_of_a_younger_route_stands_before_the_older_route() {
    let old = http("shop/old", 1, vec![rule("old", vec![prefix("/")])]);
    let young = http("shop/young", 2, vec![rule("young", vec![prefix("/v2")])]);
    let table = HttpTable::compile(&[old, young]);
    assert_eq!(selected(&table, "GET /v2/x", &[]).as_deref(), Some("young"));
    assert_eq!(selected(&table, "GET /v3/x", &[]).as_deref(), Some("old"));
}

#[test]
fn a_longer_prefix_whose_headers_fail_falls_through_to_a_shorter_one() {
    let rules = vec![rule("long", vec![prefix("/a/b").header("x", "1")]), rule("short", vec![prefix("/a")])];
    assert_eq!(selected(&table(rules), "GET /a/b/c", &[]).as_deref(), Some("short"));
}

#[test]
fn the_selection_names_the_match_that_was_hit() {
    let table = table(vec![rule("r", vec![prefix("/a"), prefix("/b")])]);
    let selection =
        table.select(&http::Method::GET, &"/b/x".parse().unwrap(), &http::HeaderMap::new()).unwrap();
    assert_eq!(selection.matched, &prefix("/b"));
    assert_eq!(selection.rule.label(), "HTTPRoute/shop/a/r");
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc+proto"), ("v", "1")];

fn grpc_table(rules: Vec<HttpRule>) -> HttpTable {
    HttpTable::compile(&[route(RouteKind::Grpc, "shop/g", 1, Rules::Http(rules))])
}

#[test]
fn grpcroute_matches_only_grpc_requests() {
    let table = grpc_table(vec![rule("r", vec![grpc(None, None, false)])]);
    for kind in ["application/grpc", "application/grpc+json", "application/grpc;x=y", "Application/gRPC"] {
        assert!(selected(&table, "POST /s/m", &[("content-type", kind)]).is_some(), "{kind}");
    }
    for kind in ["application/grpc-web", "application/json", "application/grp"] {
        assert_eq!(selected(&table, "POST /s/m", &[("content-type", kind)]), None, "{kind}");
    }
    assert_eq!(selected(&table, "POST /s/m", &[]), None);
    assert_eq!(selected(&table, "POST /no-method", GRPC), None);
}

#[test]
fn grpcroute_matches_service_and_method() {
    for (matched, yes, no) in [
        (
            grpc(Some("foo.Bar"), Some("Get"), false),
            vec!["/foo.Bar/Get"],
            vec!["/foo.Bar/Set", "/foo.bar/Get"],
        ),
        (grpc(Some("foo.Bar"), None, false), vec!["/foo.Bar/Get", "/foo.Bar/X"], vec!["/foo.Bar2/Get"]),
        (grpc(None, Some("Get"), false), vec!["/a/Get", "/b/Get"], vec!["/a/get"]),
        (
            grpc(Some("foo\\..*"), Some("G.t"), true),
            vec!["/foo.Bar/Get"],
            vec!["/xfoo.Bar/Get", "/foo.Bar/Gett"],
        ),
        (grpc(Some("foo\\..*"), None, true), vec!["/foo.Bar/Get"], vec!["/fooBar/Get"]),
    ] {
        let table = grpc_table(vec![rule("r", vec![matched])]);
        for path in yes {
            assert!(selected(&table, &format!("POST {path}"), GRPC).is_some(), "{path}");
        }
        for path in no {
            assert_eq!(selected(&table, &format!("POST {path}"), GRPC), None, "{path}");
        }
    }
}

#[test]
fn grpcroute_precedence_follows_the_specification() {
    let ranked = [
        grpc(Some("a.B"), Some("Get"), false),
        grpc(Some("a.B"), None, false).header("v", "1"),
        grpc(Some("a.B"), None, false),
        grpc(None, Some("Get"), false),
        grpc(Some("a.*"), Some("G.*"), true),
        grpc(None, None, false).header("v", "1"),
        grpc(None, None, false),
    ];
    for place in 0..ranked.len() {
        let rules = ranked[place..].iter().rev().enumerate();
        let rules = rules.map(|(n, matched)| rule(&n.to_string(), vec![matched.clone()])).collect();
        let winner = (ranked.len() - place - 1).to_string();
        assert_eq!(selected(&grpc_table(rules), "POST /a.B/Get", GRPC), Some(winner), "{place}");
    }
}

#[test]
fn many_expressions_are_searched_together_with_the_same_result() {
    let mut rules: Vec<_> =
        (0..40).map(|n| rule(&format!("r{n}"), vec![regex(&format!("/item{n}/[a-z]+"))])).collect();
    rules.push(rule("with-header", vec![regex("/item7/[a-z]+").header("x", "1")]));
    let table = table(rules);
    assert_eq!(selected(&table, "GET /item39/abc", &[]).as_deref(), Some("r39"));
    assert_eq!(selected(&table, "GET /item7/abc", &[]).as_deref(), Some("r7"));
    assert_eq!(selected(&table, "GET /item7/abc", &[("x", "1")]).as_deref(), Some("with-header"));
    assert_eq!(selected(&table, "GET /item40/abc", &[]), None);
}

#[test]
fn the_looks_at_rules_do_not_grow_with_unrelated_rules() {
    let rules = (0..10_000)
        .map(|n| rule(&n.to_string(), vec![exact(&format!("/e/{n}")), prefix(&format!("/p/{n}"))]));
    let rules: Vec<_> = rules.collect();
    let table = table(rules);
    assert_eq!(table.looks("/p/9999/a/b"), 1);
    assert_eq!(table.looks("/e/5000"), 1);
    assert_eq!(table.looks("/nothing/here"), 0);
}
