//! What a client is told and what it may do with it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use proptest::prelude::*;
use weft_api::delta::Change;
use weft_model::Resource;
use weft_model::route::Backend;
use weft_model::service::{AppProtocol, Endpoints, Service};
use weft_model::traffic::BackendTraffic;

use super::*;
use crate::config::SameNode;
use crate::pod::LocalPods;

const START: u64 = 1_800_000_000_000;

fn cookie(permanent: bool, timeout: Option<Duration>) -> SessionPersistence {
    let carrier = SessionCarrier::Cookie { name: "id".into(), path: "/".into(), permanent };
    SessionPersistence { carrier, absolute_timeout: timeout }
}

fn header() -> SessionPersistence {
    SessionPersistence {
        carrier: SessionCarrier::Header { name: "x-session".into() },
        absolute_timeout: None,
    }
}

fn service(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

/// A pod with an address.
fn pod(uid: &str, last: u8) -> Endpoint {
    Endpoint { workload: Some(uid.into()), ..Endpoint::at(([10, 9, 0, last], 80).into()) }
}

/// A proxy that knows these endpoints of port 80 of Services.
fn proxy(services: &[(&str, &[Endpoint])]) -> Snapshot {
    let empty = Snapshot::empty(Arc::new(ArcSwap::from_pointee(LocalPods::default())), SameNode::Direct);
    let set = |(name, endpoints): &(&str, &[Endpoint])| {
        let resource = Resource::Endpoints(Endpoints {
            service: service(name),
            ports: [(80, endpoints.to_vec())].into(),
            udp_ports: Default::default(),
        });
        Change::Set(resource.name(), resource.into())
    };
    empty.apply(1, services.iter().map(set))
}

fn target<'s>(proxy: &'s Snapshot, name: &str) -> Target<'s> {
    Target::service(proxy, &service(name), 80, AppProtocol::Http)
}

/// The request of a client that sends these fields.
fn request<'r>(spec: &'r SessionPersistence, fields: &[(&'static str, &str)], now: u64) -> Session<'r> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    Session::read(spec, &headers, false, now)
}

/// Where it goes back to.
fn back(session: &Session<'_>, proxy: &Snapshot, name: &str) -> Option<String> {
    let target = target(proxy, name);
    let found = session.endpoint(&target, proxy, &[], true)?;
    found.workload.as_deref().map(str::to_owned)
}

/// What it is told when `endpoint` of a Service has answered.
fn told(session: &Session<'_>, proxy: &Snapshot, name: &str, endpoint: &Endpoint) -> HeaderMap {
    session.settle(&target(proxy, name), endpoint);
    let mut headers = HeaderMap::new();
    session.tell(&mut headers);
    headers
}

/// The cookie as a client sends it back.
fn repeated(headers: &HeaderMap) -> String {
    headers[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[test]
fn a_client_comes_back_to_its_endpoint_whichever_proxy_it_asks() {
    let (a, b) = (pod("uid-a", 1), pod("uid-b", 2));
    let (one, other) =
        (proxy(&[("cart", &[a.clone(), b.clone()])]), proxy(&[("cart", &[b.clone(), a.clone()])]));
    for (spec, cookies) in [(cookie(false, None), true), (header(), false)] {
        let first = request(&spec, &[], START);
        assert_eq!(back(&first, &one, "cart"), None);
        let fields = told(&first, &one, "cart", &b);
        let field = if cookies {
            ("cookie", format!("theme=dark; {}; x=y", repeated(&fields)))
        } else {
            ("x-session", fields["x-session"].to_str().unwrap().to_owned())
        };
        let again = request(&spec, &[("cookie", "before=1"), (field.0, &field.1)], START + 9_000);
        assert_eq!(back(&again, &other, "cart").as_deref(), Some("uid-b"));
        assert!(told(&again, &other, "cart", &b).is_empty(), "it holds one already");
    }
}

#[test]
fn a_client_comes_back_to_an_address_of_a_host_while_the_host_has_it() {
    let api = Service { host: Some("api.example".into()), ..Service::new(service("api")) };
    let mesh = weft_model::MeshConfig {
        trust_domain: weft_model::TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    };
    let changes = [Resource::MeshConfig(mesh), Resource::Service(api)];
    let known = proxy(&[]).apply(2, changes.map(|it| Change::Set(it.name(), it.into())));
    let found = |addresses: &[[u8; 4]]| {
        let addresses = addresses.iter().map(|address| (*address).into()).collect();
        let found = crate::state::hosts::Found { addresses, trouble: None };
        known.hosts().store(Arc::new([("api.example".into(), found)].into_iter().collect()));
    };
    found(&[[203, 0, 113, 1], [203, 0, 113, 2]]);
    let (spec, second) = (cookie(false, None), Endpoint::at(([203, 0, 113, 2], 80).into()));
    let value = repeated(&told(&request(&spec, &[], START), &known, "api", &second));
    let again = request(&spec, &[("cookie", &value)], START);
    let at = || Some(again.endpoint(&target(&known, "api"), &known, &[], true)?.address);
    assert_eq!(at(), Some(second.address));
    found(&[[203, 0, 113, 1]]);
    assert_eq!(at(), None);
}

#[test]
fn a_session_leads_to_nothing_that_is_not_to_be_called() {
    let (spec, a) = (cookie(false, None), pod("uid-a", 1));
    let known = proxy(&[("cart", std::slice::from_ref(&a))]);
    let value = repeated(&told(&request(&spec, &[], START), &known, "cart", &a));
    let again = request(&spec, &[("cookie", &value)], START);
    assert!(back(&again, &known, "cart").is_some());
    let by_tls = Resource::Service(Service { tls_only: true, ..Service::new(service("cart")) });
    let unknown = known.apply(2, [Change::Set(by_tls.name(), by_tls.into())]);
    assert_eq!(back(&again, &unknown, "cart"), None, "nothing is known of its TLS");
}

#[test]
fn nothing_of_the_endpoint_can_be_read_or_made_up() {
    let (spec, a, b) = (cookie(false, None), pod("uid-a", 1), pod("uid-b", 2));
    let known = proxy(&[("cart", &[a.clone(), b.clone()])]);
    let value = repeated(&told(&request(&spec, &[], START), &known, "cart", &a));
    assert!(!value.contains("10.9.0.1") && !value.contains("uid-a"), "{value}");
    // A later pod with the same address.
    let later = proxy(&[("cart", &[pod("uid-new", 1), b])]);
    assert_eq!(back(&request(&spec, &[("cookie", &value)], START), &later, "cart"), None);
    // Not of the chosen backend, although known.
    let elsewhere = proxy(&[("cart", &[pod("uid-c", 3)]), ("secret", &[a])]);
    assert_eq!(back(&request(&spec, &[("cookie", &value)], START), &elsewhere, "cart"), None);
    assert_eq!(back(&request(&spec, &[("cookie", &value)], START), &elsewhere, "secret"), None);
}

#[test]
fn each_backend_of_a_rule_keeps_its_own_session() {
    let spec = cookie(false, None);
    let (v1, v2) = ([pod("uid-a", 1), pod("uid-b", 2)], [pod("uid-c", 3), pod("uid-d", 4)]);
    let known = proxy(&[("v1", &v1), ("v2", &v2)]);
    let first = repeated(&told(&request(&spec, &[], START), &known, "v1", &v1[1]));
    let second = request(&spec, &[("cookie", &first)], START + 1);
    assert_eq!(back(&second, &known, "v2"), None, "a session never changes the backend");
    let both = repeated(&told(&second, &known, "v2", &v2[0]));
    let third = request(&spec, &[("cookie", &both)], START + 2);
    assert_eq!(back(&third, &known, "v1").as_deref(), Some("uid-b"));
    assert_eq!(back(&third, &known, "v2").as_deref(), Some("uid-c"));
}

#[test]
fn an_endpoint_that_is_gone_is_replaced_and_one_that_ends_is_kept() {
    let (spec, a, b) = (cookie(false, None), pod("uid-a", 1), pod("uid-b", 2));
    let known = proxy(&[("cart", &[a.clone(), b.clone()])]);
    let value = repeated(&told(&request(&spec, &[], START), &known, "cart", &a));
    let again = || request(&spec, &[("cookie", &value)], START + 1);
    let ends = Endpoint { ready: false, terminating: true, ..a.clone() };
    assert_eq!(back(&again(), &proxy(&[("cart", &[ends, b.clone()])]), "cart").as_deref(), Some("uid-a"));
    for gone in [
        Endpoint { ready: false, ..a.clone() },
        Endpoint { conflict: Some("two".into()), ready: false, ..a.clone() },
    ] {
        assert_eq!(back(&again(), &proxy(&[("cart", &[gone, b.clone()])]), "cart"), None);
    }
    let tried = [a.address];
    assert!(
        again().endpoint(&target(&known, "cart"), &known, &tried, true).is_none(),
        "it could not be reached"
    );
    let moved = repeated(&told(&again(), &known, "cart", &b));
    let after = request(&spec, &[("cookie", &moved)], START + 2);
    assert_eq!(back(&after, &known, "cart").as_deref(), Some("uid-b"));
}

#[test]
fn a_session_ends_after_its_absolute_timeout_however_often_it_is_used() {
    let spec = cookie(false, Some(Duration::from_secs(60)));
    let a = pod("uid-a", 1);
    let known = proxy(&[("cart", std::slice::from_ref(&a))]);
    let value = repeated(&told(&request(&spec, &[], START), &known, "cart", &a));
    for (after, held) in [(0, true), (30_000, true), (59_999, true), (60_000, false), (90_000, false)] {
        let session = request(&spec, &[("cookie", &value)], START + after);
        assert_eq!(back(&session, &known, "cart").is_some(), held, "{after}");
        assert_eq!(told(&session, &known, "cart", &a).is_empty(), held, "{after}");
    }
    // The clock of the proxy that made it was ahead.
    assert!(back(&request(&spec, &[("cookie", &value)], START - 5_000), &known, "cart").is_some());
}

#[test]
fn cookies_say_what_the_route_says() {
    let a = pod("uid-a", 1);
    let known = proxy(&[("cart", std::slice::from_ref(&a))]);
    let timeout = Some(Duration::from_millis(300_500));
    for (spec, secure, rest) in [
        (cookie(false, timeout), false, "Path=/; HttpOnly; SameSite=Strict"),
        (cookie(false, None), true, "Path=/; HttpOnly; SameSite=Strict; Secure"),
        (cookie(true, timeout), true, "Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=301"),
    ] {
        let session = Session::read(&spec, &HeaderMap::new(), secure, START);
        let headers = told(&session, &known, "cart", &a);
        let (_, said) = headers[SET_COOKIE].to_str().unwrap().split_once("; ").unwrap();
        assert_eq!(said, rest);
    }
}

#[test]
fn what_the_application_says_under_the_same_name_stands() {
    let a = pod("uid-a", 1);
    let known = proxy(&[("cart", std::slice::from_ref(&a))]);
    for (spec, name, own, added) in [
        (cookie(false, None), "set-cookie", "id=app; Path=/x", 0),
        (cookie(false, None), "set-cookie", "ids=app", 1),
        (header(), "x-session", "app", 0),
    ] {
        let session = request(&spec, &[], START);
        session.settle(&target(&known, "cart"), &a);
        let mut headers: HeaderMap =
            [(HeaderName::from_static(name), HeaderValue::from_static(own))].into_iter().collect();
        session.tell(&mut headers);
        assert_eq!(headers.get(name).unwrap(), own);
        assert_eq!(headers.len(), 1 + added, "{headers:?}");
    }
}

#[test]
fn a_rules_own_session_comes_before_those_of_policies() {
    let (a, b) = (pod("uid-a", 1), pod("uid-b", 2));
    let policy = |name: &str, session: SessionPersistence| {
        let traffic = BackendTraffic { policy: service(name), retry: None, session: Some(session) };
        let resource = Resource::Service(Service { traffic: Some(traffic), ..Service::new(service(name)) });
        Change::Set(resource.name(), resource.into())
    };
    let known = proxy(&[("v1", std::slice::from_ref(&a)), ("v2", std::slice::from_ref(&b))]);
    let known = known.apply(2, [policy("v1", header()), policy("v2", cookie(false, None))]);
    let backend = |name: &str| {
        let target = BackendTarget::Service { service: service(name), port: 80, protocol: AppProtocol::Http };
        Backend { weight: 1, target, filters: Vec::new() }
    };
    let names = |rule: &HttpRule, name: &str, endpoint: &Endpoint| {
        let read = |spec| Session::read(spec, &HeaderMap::new(), false, START);
        let (sessions, target) = (Sessions::of_rule(rule, &known, read), target(&known, name));
        if let Some(session) = sessions.at(&target) {
            session.settle(&target, endpoint);
        }
        let mut headers = HeaderMap::new();
        sessions.tell(&mut headers);
        headers.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    let plain = HttpRule { backends: vec![backend("v1"), backend("v2")], ..HttpRule::default() };
    assert_eq!(names(&plain, "v1", &a), ["x-session"]);
    assert_eq!(names(&plain, "v2", &b), ["set-cookie"]);
    let own = HttpRule { session: Some(cookie(false, None)), ..plain };
    assert_eq!(names(&own, "v1", &a), ["set-cookie"]);
}

#[test]
fn a_client_holds_no_more_than_so_many() {
    let spec = header();
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let endpoints = [pod("uid-a", 1)];
    let services: Vec<(&str, &[Endpoint])> =
        names.iter().map(|name| (name.as_str(), &endpoints[..])).collect();
    let known = proxy(&services);
    let mut value = String::new();
    for (at, name) in (0..).zip(&names) {
        let session = request(&spec, &[("x-session", &value)], START + at);
        let headers = told(&session, &known, name, &endpoints[0]);
        value = headers["x-session"].to_str().unwrap().to_owned();
    }
    assert_eq!(value.split('.').count(), MOST);
    let last = request(&spec, &[("x-session", &value)], START);
    assert!(back(&last, &known, "s39").is_some() && back(&last, &known, "s24").is_some());
    assert!(back(&last, &known, "s23").is_none());
}

proptest! {
    /// Whatever a client changes of a token, it comes back to no endpoint by it, and never to another one.
    #[test]
    fn a_changed_token_is_none(place in 8..24_usize, change in 1..=255_u8) {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let (name, key) = (service("cart"), "uid-a");
        let mut bytes = engine.decode(Token::new((&name, 80), key, START).to_string()).unwrap();
        bytes[place] ^= change;
        let changed: Token = engine.encode(bytes).parse().unwrap();
        prop_assert!(!changed.is_genuine((&name, 80), key));
    }

    #[test]
    fn tokens_are_read_back_and_hold_for_what_they_were_made_for_alone(
        uid in "[a-f0-9-]{36}", other in "[a-f0-9-]{36}", port in 1..u16::MAX, at in 0..(1_u64 << 48),
    ) {
        let name = service("cart");
        let token = Token::new((&name, port), &uid, at);
        let read: Token = token.to_string().parse().unwrap();
        prop_assert_eq!(&read, &token);
        prop_assert_eq!(read.began(), at);
        prop_assert!(read.is_genuine((&name, port), &uid));
        prop_assert!(!read.is_genuine((&name, port + 1), &uid));
        prop_assert!(!read.is_genuine((&service("car"), port), &uid));
        prop_assert!(uid == other || !read.is_genuine((&name, port), &other));
    }

    #[test]
    fn any_text_is_read_without_harm(fields in proptest::collection::vec("[ -~]{0,200}", 0..4)) {
        let a = pod("uid-a", 1);
        let known = proxy(&[("cart", std::slice::from_ref(&a))]);
        for (spec, name) in [(cookie(false, None), "cookie"), (header(), "x-session")] {
            let fields: Vec<_> = fields.iter().map(|value| (name, value.as_str())).collect();
            let session = request(&spec, &fields, START);
            prop_assert_eq!(back(&session, &known, "cart"), None);
            prop_assert_eq!(told(&session, &known, "cart", &a).len(), 1);
        }
    }
}
