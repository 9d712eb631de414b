//! One row per sentence of the specification.

use http::header::{HOST, LOCATION};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use weft_model::route::{BackendTarget, Cors, HeaderModifier, PathMatch, PathModifier, Redirect, UrlRewrite};

use super::*;

fn prefix(value: &str) -> Match {
    Match { path: PathMatch::Prefix { value: value.into() }, ..Match::default() }
}

fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> http::request::Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn apply<'a>(
    filters: &'a [Filter],
    matched: &Match,
    head: &mut http::request::Parts,
) -> Result<Pending<'a>, Answer> {
    let turns = mirror::Turns::default();
    let mut pending = Pending::default();
    let context = Context { turns: &turns, matched, port: 8080, scheme: "http" };
    apply_to_request(filters, context, head, &mut pending).map(|_| pending)
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(weft_model::Text, weft_model::Text)> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn header_modifier_sets_adds_and_removes_without_regard_to_case() {
    let modifier = HeaderModifier {
        set: pairs(&[("X-Set", "new"), ("x-fresh", "1")]),
        add: pairs(&[("X-Add", "second"), ("x-only", "1")]),
        remove: vec!["X-REMOVE".into()],
    };
    let mut head = head(
        "GET",
        "/",
        &[("x-set", "old"), ("x-set", "older"), ("x-add", "first"), ("x-remove", "a"), ("x-remove", "b")],
    );
    apply(&[Filter::RequestHeaders(modifier)], &prefix("/"), &mut head).unwrap();
    assert_eq!(values(&head.headers, "x-set"), ["new"]);
    assert_eq!(values(&head.headers, "x-fresh"), ["1"]);
    assert_eq!(values(&head.headers, "x-add"), ["first,second"]);
    assert_eq!(values(&head.headers, "x-only"), ["1"]);
    assert!(values(&head.headers, "x-remove").is_empty());
}

#[test]
fn added_cookies_stay_lines_of_their_own() {
    let modifier = HeaderModifier { add: pairs(&[("set-cookie", "b=2")]), ..HeaderModifier::default() };
    let mut headers = HeaderMap::new();
    headers.insert("set-cookie", HeaderValue::from_static("a=1"));
    apply_to_response(&[Filter::ResponseHeaders(modifier)], &Pending::default(), &mut headers).unwrap();
    assert_eq!(values(&headers, "set-cookie"), ["a=1", "b=2"]);
}

#[test]
fn a_header_that_http_forbids_refuses_the_request() {
    let modifier = HeaderModifier { set: pairs(&[("bad name", "x")]), ..HeaderModifier::default() };
    let filters = [Filter::RequestHeaders(modifier)];
    let answer = apply(&filters, &prefix("/"), &mut head("GET", "/", &[]));
    assert!(matches!(answer, Err(Answer::Refused(refused)) if refused.reason == Reason::InvalidRoute));
}

#[test]
fn rewrite_replaces_host_and_prefix_and_keeps_the_query() {
    let rewrite = UrlRewrite {
        hostname: Some("other.example".into()),
        path: Some(PathModifier::Prefix("/new".into())),
    };
    let filters = [Filter::UrlRewrite(rewrite)];
    let mut http1 = head("GET", "/old/a?b=c", &[("host", "shop")]);
    apply(&filters, &prefix("/old"), &mut http1).unwrap();
    assert_eq!(http1.uri, "/new/a?b=c");
    assert_eq!(values(&http1.headers, "host"), ["other.example"]);
    let mut http2 = head("GET", "http://shop/old/a", &[]);
    apply(&filters, &prefix("/old"), &mut http2).unwrap();
    assert_eq!(http2.uri, "http://other.example/new/a");
    assert!(!http2.headers.contains_key(HOST));
}

#[test]
fn filters_apply_in_their_order_and_an_answer_ends_them() {
    let rewrite = UrlRewrite { hostname: None, path: Some(PathModifier::Full("/b".into())) };
    let redirect = Redirect { status: 302, port: Some(80), ..Redirect::default() };
    let after = HeaderModifier { set: pairs(&[("x", "1")]), ..HeaderModifier::default() };
    let filters = [Filter::UrlRewrite(rewrite), Filter::Redirect(redirect), Filter::RequestHeaders(after)];
    let mut head = head("GET", "/a", &[("host", "shop")]);
    let Err(Answer::Filter(response)) = apply(&filters, &prefix("/"), &mut head) else { panic!() };
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(values(response.headers(), "location"), ["http://shop/b"]);
    assert!(head.headers.get("x").is_none());
}

#[test]
fn redirect_shows_the_port_called_unless_told_otherwise() {
    let of = |redirect: Redirect| {
        let filters = [Filter::Redirect(redirect)];
        let Err(Answer::Filter(response)) =
            apply(&filters, &prefix("/"), &mut head("GET", "/a?q", &[("host", "shop")]))
        else {
            panic!()
        };
        response.headers()[LOCATION].to_str().unwrap().to_owned()
    };
    let base = Redirect { status: 301, ..Redirect::default() };
    assert_eq!(of(base.clone()), "http://shop:8080/a?q");
    assert_eq!(of(Redirect { scheme: Some("https".into()), ..base.clone() }), "https://shop/a?q");
    assert_eq!(
        of(Redirect { hostname: Some("b.example".into()), port: Some(80), ..base }),
        "http://b.example/a?q"
    );
}

fn cors() -> Cors {
    Cors {
        allow_origins: vec!["https://shop.example".into()],
        allow_methods: vec!["GET".into(), "PUT".into()],
        allow_headers: vec!["x-one".into()],
        expose_headers: vec!["x-two".into()],
        max_age: 60,
        ..Cors::default()
    }
}

#[test]
fn a_preflight_is_answered_and_never_sent_on() {
    let mut head =
        head("OPTIONS", "/", &[("origin", "https://shop.example"), ("access-control-request-method", "PUT")]);
    let filters = [Filter::Cors(cors())];
    let Err(Answer::Filter(response)) = apply(&filters, &prefix("/"), &mut head) else { panic!() };
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(values(response.headers(), "access-control-allow-origin"), ["https://shop.example"]);
    assert_eq!(values(response.headers(), "access-control-max-age"), ["60"]);
}

#[test]
fn cors_fields_replace_those_of_the_application() {
    let filters = [Filter::Cors(cors())];
    let mut request = head("GET", "/", &[("origin", "https://shop.example")]);
    let pending = apply(&filters, &prefix("/"), &mut request).unwrap();
    let mut response = HeaderMap::new();
    let of_application = [("access-control-allow-origin", "*"), ("vary", "accept"), ("x-two", "2")];
    for (name, value) in of_application {
        response.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    apply_to_response(&filters, &pending, &mut response).unwrap();
    assert_eq!(values(&response, "access-control-allow-origin"), ["https://shop.example"]);
    assert_eq!(values(&response, "access-control-expose-headers"), ["x-two"]);
    assert_eq!(values(&response, "vary"), ["accept", "origin"]);
}

#[test]
fn a_response_to_a_foreign_origin_shows_nothing() {
    let filters = [Filter::Cors(cors())];
    let mut request = head("GET", "/", &[("origin", "https://evil.example")]);
    let pending = apply(&filters, &prefix("/"), &mut request).unwrap();
    let mut response = HeaderMap::new();
    response.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    apply_to_response(&filters, &pending, &mut response).unwrap();
    assert!(!response.contains_key("access-control-allow-origin"));
}

fn mirror_of(numerator: u32, denominator: u32) -> Mirror {
    Mirror { target: BackendTarget::Invalid { message: "".into() }, numerator, denominator }
}

#[test]
fn a_copy_is_the_request_as_it_was_where_the_filter_stands() {
    let rewrite = |path: &str| {
        Filter::UrlRewrite(UrlRewrite { hostname: None, path: Some(PathModifier::Full(path.into())) })
    };
    let filters = [rewrite("/one"), Filter::Mirror(mirror_of(1, 1)), rewrite("/two")];
    let mut head = head("GET", "/zero", &[("host", "shop")]);
    let pending = apply(&filters, &prefix("/"), &mut head).unwrap();
    assert_eq!((pending.copies[0].head.uri.path(), head.uri.path()), ("/one", "/two"));
    assert_eq!(values(&pending.copies[0].head.headers, "host"), ["shop"]);
}

#[test]
fn mirrors_take_exactly_their_share() {
    let turns = mirror::Turns::default();
    for (numerator, denominator) in [(0, 100), (1, 3), (35, 100), (99, 100), (100, 100), (1, 1000)] {
        let mirror = mirror_of(numerator, denominator);
        let copied = (0..denominator * 5).filter(|_| turns.is_due(&mirror)).count();
        assert_eq!(copied, numerator as usize * 5, "{numerator}/{denominator}");
    }
}

#[tokio::test]
async fn copies_follow_the_body_with_its_trailers() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("9"));
    let inner = http_body_util::Full::new(bytes::Bytes::from_static(b"hello"))
        .map_err(|never| match never {})
        .with_trailers(std::future::ready(Some(Ok(trailers))));
    let (original, copies) = mirror::split(Body::boxed(inner), 2);
    for body in std::iter::once(original).chain(copies) {
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-sum"], "9");
        assert_eq!(collected.to_bytes(), "hello");
    }
}

#[tokio::test]
async fn a_slow_mirror_loses_its_copy_and_the_original_goes_on() {
    let piece = bytes::Bytes::from(vec![0; mirror::PENDING / 2]);
    let frames: Vec<Result<_, crate::body::BodyError>> =
        (0..8).map(|_| Ok(http_body::Frame::data(piece.clone()))).collect();
    let body = Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)));
    let (original, mut copies) = mirror::split(body, 1);
    assert_eq!(original.collect().await.unwrap().to_bytes().len(), 4 * mirror::PENDING);
    assert!(copies.remove(0).collect().await.is_err());
}

#[tokio::test]
async fn a_body_that_is_cut_off_cuts_its_copies_off() {
    let body = Body::boxed(http_body_util::StreamBody::new(futures_util::stream::pending()));
    let (original, mut copies) = mirror::split(body, 1);
    assert!(!original.is_end_stream());
    drop(original);
    assert!(copies.remove(0).collect().await.is_err());
}
