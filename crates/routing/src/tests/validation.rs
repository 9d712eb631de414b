//! What cannot be carried out is said, and refuses.

use http::{HeaderMap, Method};
use weft_model::route::{Filter, HeaderModifier, PathModifier, Refusal, UrlRewrite};
use weft_model::session::{SessionCarrier, SessionPersistence};

use super::{With, exact, http, prefix, regex, rule, selected};
use crate::HttpTable;
use crate::explain::Verdict;
use crate::table::Criterion;
use crate::validate::validate;

#[test]
fn problems_name_rule_field_and_reason() {
    let mut rewrites = rule("rewrite", vec![exact("/a")]);
    rewrites.filters = vec![
        Filter::UrlRewrite(UrlRewrite { hostname: None, path: Some(PathModifier::Prefix("/x".into())) }),
        Filter::RequestHeaders(HeaderModifier {
            set: vec![("bad name".into(), "x".into()), ("x".into(), "a\nb".into())],
            ..HeaderModifier::default()
        }),
    ];
    let route =
        http("shop/a", 1, vec![rule("fine", vec![prefix("/")]), rule("bad", vec![regex("/(")]), rewrites]);
    let problems: Vec<String> = validate(&route).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            r#"rules[1].matches[0].path.value: "/(" is no valid regular expression: unclosed group"#,
            "rules[2].filters[0].path: ReplacePrefixMatch needs PathPrefix matches only: change the matches or use ReplaceFullPath",
            r#"rules[2].filters[1].set[0].name: "bad name" is no header name"#,
            r#"rules[2].filters[1].set[1].value: "a\nb" cannot stand in a header: remove control and non-ASCII characters"#,
        ]
    );
}

#[test]
fn a_rule_with_an_invalid_expression_refuses_and_is_not_dropped() {
    let rules = vec![rule("bad", vec![regex("/(").header("x", "1")]), rule("fallback", vec![prefix("/")])];
    let table = HttpTable::compile(&[http("shop/a", 1, rules)]);
    let select = |lines| {
        let selection = table.select(&Method::GET, &"/a".parse().unwrap(), &super::headers(lines)).unwrap();
        selection.rule.refusal.clone()
    };
    assert!(select(&[("x", "1")]).unwrap().message.contains("unclosed group"));
    // Its other conditions still hold.
    assert_eq!(select(&[]), None);
}

#[test]
fn sessions_are_named_by_what_can_name_them() {
    let cookie = |name: &str, path: &str| SessionCarrier::Cookie {
        name: name.into(),
        path: path.into(),
        permanent: false,
    };
    let header = |name: &str| SessionCarrier::Header { name: name.into() };
    for (carrier, field) in [
        (cookie("JSESSIONID", "/shop"), None),
        (cookie("a b", "/"), Some("rules[0].sessionPersistence.cookie.name")),
        (cookie("a", "shop"), Some("rules[0].sessionPersistence.cookie.path")),
        (cookie("a", "/; Domain=example.com"), Some("rules[0].sessionPersistence.cookie.path")),
        (header("x-session"), None),
        (header("x:y"), Some("rules[0].sessionPersistence.header.name")),
        (header("Cookie"), Some("rules[0].sessionPersistence.header.name")),
    ] {
        let mut kept = rule("r", vec![prefix("/")]);
        kept.session = Some(SessionPersistence { carrier, absolute_timeout: None });
        let problems = validate(&http("shop/a", 1, vec![kept]));
        let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), usize::from(field.is_some()), "{said:?}");
        assert!(said.iter().all(|text| text.starts_with(field.unwrap_or_default())), "{said:?}");
    }
}

#[test]
fn an_expression_cannot_step_out_of_its_anchors() {
    let route = http("shop/a", 1, vec![rule("r", vec![regex("a)|(?:.*")])]);
    assert_eq!(validate(&route).len(), 1);
}

#[test]
fn the_rules_own_refusal_is_kept() {
    let mut refused = rule("r", vec![prefix("/")]);
    refused.refusal = Some(Refusal { message: "use a newer Weft".into() });
    let table = HttpTable::compile(&[http("shop/a", 1, vec![refused])]);
    assert_eq!(selected(&table, "GET /", &[]).as_deref(), Some("r"));
    assert_eq!(&*table.entries[0].rule.refusal.as_ref().unwrap().message, "use a newer Weft");
}

#[test]
fn explain_lists_every_match_in_order_with_its_reason() {
    let rules = vec![
        rule("default", vec![prefix("/")]),
        rule("other", vec![exact("/b")]),
        rule("version", vec![prefix("/a").header("v", "2")]),
        rule("post", vec![prefix("/a").method("POST")]),
        rule("query", vec![prefix("/a").query("q", "1")]),
        rule("path", vec![prefix("/a")]),
    ];
    let table = HttpTable::compile(&[http("shop/a", 1, rules)]);
    let uri = "/a/x?q=2".parse().unwrap();
    let lines: Vec<String> = table
        .explain(&Method::GET, &uri, &HeaderMap::new())
        .iter()
        .map(|candidate| format!("{}: {}", candidate.rule.spec.name.as_deref().unwrap(), candidate.verdict))
        .collect();
    assert_eq!(
        lines,
        [
            "other: the path does not match",
            "post: the method is not POST",
            "version: header v is missing",
            "query: query parameter q is \"2\"",
            "path: selected",
            "default: matches, but stands after the selected one by path length",
        ]
    );
    let last = table.explain(&Method::GET, &uri, &HeaderMap::new()).pop().unwrap();
    assert_eq!(last.verdict, Verdict::Outranked(Criterion::PathLength));
}
