//! CORS, sentence by sentence of HTTPCORSFilter.

use http::{HeaderMap, Method};
use weft_model::route::Cors;

use super::headers;
use crate::cors::{preflight, response_headers};

fn cors(origins: &[&str], credentials: bool) -> Cors {
    Cors {
        allow_origins: origins.iter().map(|origin| (*origin).into()).collect(),
        allow_credentials: credentials,
        max_age: 5,
        ..Cors::default()
    }
}

fn asks(origin: &str) -> HeaderMap {
    headers(&[
        ("origin", origin),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-one, x-two"),
    ])
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn origins_match_by_scheme_host_and_port_with_default_ports_and_greedy_wildcards() {
    for (allowed, origin, expected) in [
        ("https://foo.example", "https://foo.example", true),
        ("https://foo.example", "https://FOO.example", true),
        ("https://foo.example", "http://foo.example", false),
        ("https://foo.example", "https://foo.example:443", true),
        ("http://foo.example:80", "http://foo.example", true),
        ("https://foo.example", "https://foo.example:8443", false),
        ("https://foo.example", "https://foo.example.evil", false),
        ("https://*.example", "https://a.example", true),
        ("https://*.example", "https://a.b.example", true),
        ("https://*.example", "https://example", false),
        ("https://*.example", "https://evilexample", false),
        ("https://*", "https://anything", true),
        ("https://*", "https://anything:8443", false),
        ("https://*:8443", "https://anything:8443", true),
        ("*", "null", true),
        ("https://*", "null", false),
    ] {
        let answer = preflight(&cors(&[allowed], true), &Method::OPTIONS, &asks(origin)).unwrap();
        assert_eq!(text(&answer, "access-control-allow-origin").is_some(), expected, "{allowed} {origin}");
    }
}

#[test]
fn only_options_with_origin_and_requested_method_is_a_preflight() {
    let filter = cors(&["*"], false);
    assert!(preflight(&filter, &Method::OPTIONS, &asks("https://a")).is_some());
    assert!(preflight(&filter, &Method::GET, &asks("https://a")).is_none());
    assert!(preflight(&filter, &Method::OPTIONS, &headers(&[("origin", "https://a")])).is_none());
    assert!(
        preflight(&filter, &Method::OPTIONS, &headers(&[("access-control-request-method", "GET")])).is_none()
    );
}

#[test]
fn an_origin_that_is_not_allowed_gets_no_cross_origin_header() {
    let filter = cors(&["https://a.example"], true);
    let answer = preflight(&filter, &Method::OPTIONS, &asks("https://b.example")).unwrap();
    assert!(answer.keys().all(|name| name == "vary"), "{answer:?}");
    let added = response_headers(&filter, &asks("https://b.example"), &HeaderMap::new());
    assert!(added.keys().all(|name| name == "vary"), "{added:?}");
}

#[test]
fn a_wildcard_stays_one_without_credentials_and_is_reflected_with_them() {
    for (credentials, origin, methods, names) in
        [(false, "*", "*", "*"), (true, "https://a", "PUT", "x-one, x-two")]
    {
        let mut filter = cors(&["*"], credentials);
        filter.allow_methods = vec!["*".into()];
        filter.allow_headers = vec!["*".into()];
        let answer = preflight(&filter, &Method::OPTIONS, &asks("https://a")).unwrap();
        assert_eq!(text(&answer, "access-control-allow-origin"), Some(origin));
        assert_eq!(text(&answer, "access-control-allow-methods"), Some(methods));
        assert_eq!(text(&answer, "access-control-allow-headers"), Some(names));
        assert_eq!(text(&answer, "access-control-allow-credentials"), credentials.then_some("true"));
        assert_eq!(text(&answer, "access-control-max-age"), Some("5"));
    }
}

#[test]
fn with_credentials_and_nothing_asked_the_wildcard_list_is_left_out() {
    let mut filter = cors(&["*"], true);
    filter.allow_headers = vec!["*".into()];
    let asks = headers(&[("origin", "https://a"), ("access-control-request-method", "GET")]);
    let answer = preflight(&filter, &Method::OPTIONS, &asks).unwrap();
    assert_eq!(text(&answer, "access-control-allow-headers"), None);
}

#[test]
fn lists_are_returned_as_configured() {
    let mut filter = cors(&["https://a"], false);
    filter.allow_methods = vec!["GET".into(), "PUT".into()];
    filter.allow_headers = vec!["X-One".into(), "X-Two".into()];
    filter.expose_headers = vec!["X-Three".into()];
    let answer = preflight(&filter, &Method::OPTIONS, &asks("https://a")).unwrap();
    assert_eq!(text(&answer, "access-control-allow-origin"), Some("https://a"));
    assert_eq!(text(&answer, "access-control-allow-methods"), Some("GET, PUT"));
    assert_eq!(text(&answer, "access-control-allow-headers"), Some("X-One, X-Two"));
    assert_eq!(text(&answer, "access-control-expose-headers"), Some("X-Three"));
}

#[test]
fn exposed_headers_never_are_a_wildcard_with_credentials() {
    let response = headers(&[("x-a", "1"), ("x-b", "2"), ("access-control-allow-origin", "https://evil")]);
    let exposed = |credentials, expose: &str| {
        let mut filter = cors(&["https://a"], credentials);
        filter.expose_headers = vec![expose.into()];
        let added = response_headers(&filter, &headers(&[("origin", "https://a")]), &response);
        text(&added, "access-control-expose-headers").map(str::to_owned)
    };
    assert_eq!(exposed(false, "*").as_deref(), Some("*"));
    assert_eq!(exposed(true, "*").as_deref(), Some("x-a, x-b"));
    assert_eq!(exposed(true, "x-c").as_deref(), Some("x-c"));
}
