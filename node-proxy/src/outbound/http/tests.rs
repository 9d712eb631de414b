//! Whole requests from a captured connection to applications on loopback addresses outside the mesh. The proxy's
//! sockets carry a mark, so this needs root (or an owned user and network namespace), and fails without.

mod auth;
pub(crate) mod world;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_model::Resource;
use weft_model::route::*;
use weft_model::service::AppProtocol;
use weft_model::session::{SessionCarrier, SessionPersistence};

use self::world::{App, Client, World, backend, invalid, rule, run};

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "web").body(Full::default()).unwrap()
}

fn grpc(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://web{path}");
    let request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
    request.version(http::Version::HTTP_2).body(Full::from("message")).unwrap()
}

#[test]
fn without_routes_requests_are_passed_on_without_mesh_headers() {
    run(async |world: &World| {
        let app = App::echo("web").await;
        world.endpoints("web", &[&app]);
        let mut client = Client::http1(world, "shop").await;
        let mut request = get("/a?b=c");
        for name in ["weft-meta", "x-forwarded-client-cert", "connection", "x-hop"] {
            request.headers_mut().append(http::HeaderName::from_static(name), "x-hop".parse().unwrap());
        }
        let answer = client.send(request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.line("request"), "GET /a?b=c");
        assert_eq!(answer.line("host"), "web");
        for name in ["weft-meta", "x-forwarded-client-cert", "x-hop"] {
            assert!(!answer.has(name), "{name} in {}", answer.body);
        }
    });
}

#[test]
fn routes_that_do_not_match_are_never_plain_forwarding() {
    run(async |world: &World| {
        let app = App::echo("web").await;
        world.endpoints("web", &[&app]);
        let only = Match { path: PathMatch::Exact { value: "/only".into() }, ..Match::default() };
        world.route("r", "shop", vec![HttpRule { matches: vec![only], ..rule(vec![backend("web", 1)]) }]);
        let mut client = Client::http1(world, "shop").await;
        assert_eq!(client.send(get("/only")).await.status, StatusCode::OK);
        let answer = client.send(get("/other")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(answer.body.starts_with("weft: no_route_match: "), "{}", answer.body);
        let mut client = Client::http2(world, "shop").await;
        let answer = client.send(grpc("/shop.Cart/Get")).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (StatusCode::OK, "12"));
        assert_eq!((answer.header("content-type"), answer.body.as_str()), ("application/grpc", ""));
        world.told("no_route_match", "grpc_code=\"12\"").await;
    });
}

#[test]
fn weights_are_exact_and_each_request_of_a_connection_is_decided_anew() {
    run(async |world: &World| {
        let (v1, v2) = (App::echo("v1").await, App::echo("v2").await);
        world.endpoints("v1", &[&v1]);
        world.endpoints("v2", &[&v2]);
        world.route("r", "shop", vec![rule(vec![backend("v1", 9), backend("v2", 1)])]);
        for mut client in [Client::http1(world, "shop").await, Client::http2(world, "shop").await] {
            let mut to_v2 = 0;
            for _ in 0..50 {
                to_v2 += u32::from(client.send(client.get("/")).await.line("app") == "v2");
            }
            assert_eq!(to_v2, 5);
        }
        let mut client = Client::http1(world, "shop").await;
        world.route("r", "shop", vec![rule(vec![backend("v2", 1)])]);
        assert_eq!(client.send(get("/")).await.line("app"), "v2");
        world.route("r", "shop", vec![rule(vec![backend("v1", 1)])]);
        assert_eq!(client.send(get("/")).await.line("app"), "v1");
    });
}

#[test]
fn a_backend_that_cannot_be_used_answers_its_share_with_500() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("v1", &[&app]);
        world.route("r", "shop", vec![rule(vec![backend("v1", 1), invalid(1)])]);
        let mut client = Client::http1(world, "shop").await;
        let mut failed = 0;
        for _ in 0..10 {
            failed += u32::from(client.send(get("/")).await.status == StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(failed, 5);
        for backends in [vec![], vec![backend("v1", 0)], vec![invalid(1)]] {
            world.route("r", "shop", vec![rule(backends)]);
            assert_eq!(client.send(get("/")).await.status, StatusCode::INTERNAL_SERVER_ERROR);
            let mut client = Client::http2(world, "shop").await;
            assert_eq!(client.send(grpc("/a/b")).await.header("grpc-status"), "14");
        }
        world.told("invalid_backend", "code=\"500\"").await;
    });
}

#[test]
fn a_proxy_with_too_little_memory_left_takes_no_request_until_there_is_more() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("v1", &[&app]);
        world.route("r", "shop", vec![rule(vec![backend("v1", 1)])]);
        let mut client = Client::http1(world, "shop").await;
        let memory = &world.worker.shared.memory;
        memory.note(900);
        let answer = client.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.body.starts_with("weft: overloaded: "), "{}", answer.body);
        world.told("overloaded", "code=\"503\"").await;
        memory.note(100);
        assert_eq!(client.send(get("/")).await.line("app"), "v1");
    });
}

#[test]
fn a_backend_without_ready_endpoint_returns_503() {
    run(async |world: &World| {
        world.endpoints("v1", &[]);
        world.route("r", "shop", vec![rule(vec![backend("v1", 1)])]);
        let mut client = Client::http1(world, "shop").await;
        assert_eq!(client.send(get("/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
        world.told("no_endpoints", "code=\"503\"").await;
    });
}

#[test]
fn consumer_routes_hold_for_their_own_namespace_alone() {
    run(async |world: &World| {
        let (v1, v2) = (App::echo("v1").await, App::echo("v2").await);
        world.endpoints("v1", &[&v1]);
        world.endpoints("v2", &[&v2]);
        world.route("producer", "shop", vec![rule(vec![backend("v1", 1)])]);
        world.route("consumer", "guest", vec![rule(vec![backend("v2", 1)])]);
        for (namespace, app) in [("shop", "v1"), ("guest", "v2"), ("other", "v1")] {
            assert_eq!(
                Client::http1(world, namespace).await.send(get("/")).await.line("app"),
                app,
                "{namespace}"
            );
        }
    });
}

fn set(name: &str, value: &str) -> HeaderModifier {
    HeaderModifier { set: vec![(name.into(), value.into())], ..HeaderModifier::default() }
}

#[test]
fn filters_of_rule_and_backend_change_request_and_response() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("v1", &[&app]);
        let rewrite = UrlRewrite {
            hostname: Some("inner.example".into()),
            path: Some(PathModifier::Prefix("/new".into())),
        };
        let of_backend = Backend {
            filters: vec![
                Filter::RequestHeaders(set("x-backend", "1")),
                Filter::UrlRewrite(rewrite),
                Filter::ResponseHeaders(set("x-seen", "backend")),
            ],
            ..backend("v1", 1)
        };
        let add = HeaderModifier { add: vec![("x-seen".into(), "rule".into())], ..HeaderModifier::default() };
        let old = Match { path: PathMatch::Prefix { value: "/old".into() }, ..Match::default() };
        world.route(
            "r",
            "shop",
            vec![HttpRule {
                matches: vec![old],
                filters: vec![Filter::RequestHeaders(set("x-rule", "1")), Filter::ResponseHeaders(add)],
                ..rule(vec![of_backend])
            }],
        );
        let answer = Client::http1(world, "shop").await.send(get("/old/a?q")).await;
        assert_eq!(answer.line("request"), "GET /new/a?q");
        assert_eq!(answer.line("host"), "inner.example");
        assert_eq!((answer.line("x-rule"), answer.line("x-backend")), ("1", "1"));
        assert_eq!(answer.header("x-seen"), "backend,rule");
    });
}

#[test]
fn a_redirect_shows_the_services_port_and_reaches_no_application() {
    run(async |world: &World| {
        let redirect = Redirect { hostname: Some("new.example".into()), status: 302, ..Redirect::default() };
        world.route(
            "r",
            "shop",
            vec![HttpRule { filters: vec![Filter::Redirect(redirect)], ..rule(vec![]) }],
        );
        let answer = Client::http1(world, "shop").await.send(get("/a?b")).await;
        assert_eq!(answer.status, StatusCode::FOUND);
        assert_eq!(answer.header("location"), "http://new.example/a?b");
        world.told("answered_by_filter", "code=\"302\"").await;
    });
}

#[test]
fn cors_answers_preflights_and_marks_refusals_too() {
    run(async |world: &World| {
        let cors = Cors { allow_origins: vec!["https://a.example".into()], ..Cors::default() };
        world.route("r", "shop", vec![HttpRule { filters: vec![Filter::Cors(cors)], ..rule(vec![]) }]);
        let mut client = Client::http1(world, "shop").await;
        let request = |method: &str| {
            let request = Request::builder().method(method).uri("/").header("host", "web");
            request.header("origin", "https://a.example").header("access-control-request-method", "PUT")
        };
        let answer = client.send(request("OPTIONS").body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        assert_eq!(answer.header("access-control-allow-origin"), "https://a.example");
        let answer = client.send(request("GET").body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.header("access-control-allow-origin"), "https://a.example");
    });
}

#[test]
fn an_endpoint_that_refuses_the_connection_costs_no_request() {
    run(async |world: &World| {
        let (app, gone) = (App::echo("v1").await, App::refusing().await);
        world.endpoints("v1", &[&gone, &app]);
        world.route("r", "shop", vec![rule(vec![backend("v1", 1)])]);
        let mut client = Client::http1(world, "shop").await;
        for _ in 0..10 {
            let request = Request::post("/").header("host", "web").body(Full::from("hello")).unwrap();
            let answer = client.send(request).await;
            assert_eq!((answer.status, answer.line("body")), (StatusCode::OK, "hello"));
        }
    });
}

#[test]
fn a_mirror_gets_the_same_request_and_changes_nothing() {
    run(async |world: &World| {
        let (app, mut mirror) = (App::echo("v1").await, App::echo("mirror").await);
        world.endpoints("v1", &[&app]);
        world.endpoints("copy", &[&mirror]);
        let target = backend("copy", 1).target;
        let filter = Filter::Mirror(Mirror { target, numerator: 1, denominator: 1 });
        world.route("r", "shop", vec![HttpRule { filters: vec![filter], ..rule(vec![backend("v1", 1)]) }]);
        let mut client = Client::http1(world, "shop").await;
        let request = Request::post("/a?b").header("host", "web").body(Full::from("hello")).unwrap();
        let answer = client.send(request).await;
        assert_eq!((answer.line("app"), answer.line("body")), ("v1", "hello"));
        let copy = mirror.next().await;
        for (name, value) in [("request", "POST /a?b"), ("host", "web"), ("body", "hello")] {
            assert_eq!(copy.line(name), value);
        }
    });
}

#[test]
fn a_client_that_repeats_its_cookie_comes_back_to_its_endpoint() {
    run(async |world: &World| {
        let apps = [App::echo("1").await, App::echo("2").await, App::echo("3").await];
        world.endpoints("v1", &apps.each_ref());
        let carrier = SessionCarrier::Cookie { name: "id".into(), path: "/".into(), permanent: false };
        let session = Some(SessionPersistence { carrier, absolute_timeout: None });
        // A filter that takes cookies away from the application, or from the answer, ends no session.
        let remove = |name: &str| HeaderModifier { remove: vec![name.into()], ..HeaderModifier::default() };
        let filters =
            vec![Filter::RequestHeaders(remove("cookie")), Filter::ResponseHeaders(remove("set-cookie"))];
        world.route("r", "shop", vec![HttpRule { session, filters, ..rule(vec![backend("v1", 1)]) }]);
        let mut client = Client::http1(world, "shop").await;
        let first = client.send(get("/")).await;
        let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
        for _ in 0..50 {
            let again = Request::get("/").header("host", "web").header("cookie", &cookie);
            let answer = client.send(again.body(Full::default()).unwrap()).await;
            assert_eq!(answer.line("app"), first.line("app"));
            assert!(!answer.fields().iter().any(|field| field.starts_with("set-cookie")), "{answer:?}");
        }
        let mut others = std::collections::BTreeSet::new();
        while others.len() < 3 {
            others.insert(client.send(get("/")).await.line("app").to_owned());
        }
    });
}

#[test]
fn a_hanging_application_is_answered_for_with_504() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("v1", &[&app]);
        let limit = Some(Duration::from_millis(100));
        world.route("r", "shop", vec![HttpRule { request_timeout: limit, ..rule(vec![backend("v1", 1)]) }]);
        let mut client = Client::http1(world, "shop").await;
        let answer = client.send(get("/hang")).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
        assert!(answer.body.starts_with("weft: request_timeout: "), "{}", answer.body);
        world.told("request_timeout", "code=\"504\"").await;
    });
}

#[test]
fn a_mirror_that_cannot_be_reached_is_counted_and_changes_nothing() {
    run(async |world: &World| {
        let (app, gone) = (App::echo("v1").await, App::refusing().await);
        world.endpoints("v1", &[&app]);
        world.endpoints("copy", &[&gone]);
        let mirror = |target| Filter::Mirror(Mirror { target, numerator: 1, denominator: 1 });
        let filters = vec![mirror(backend("copy", 1).target), mirror(invalid(1).target)];
        world.route("r", "shop", vec![HttpRule { filters, ..rule(vec![backend("v1", 1)]) }]);
        let mut client = Client::http1(world, "shop").await;
        assert_eq!(client.send(get("/")).await.line("app"), "v1");
        world.told("ok", "code=\"200\"").await;
        world.shows("weft_mirrored_requests_lost_total 2").await;
    });
}

#[test]
fn a_caller_that_leaves_is_told_as_such() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("web", &[&app]);
        let mut stream = world.connect("shop").await;
        stream.write_all(b"GET /hang HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(stream);
        world.told("downstream_reset", "destination_service=\"shop/web\"").await;
    });
}

#[test]
fn a_response_that_outlasts_the_request_timeout_is_cut_off() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("v1", &[&app]);
        let limit = Some(Duration::from_millis(200));
        world.route("r", "shop", vec![HttpRule { request_timeout: limit, ..rule(vec![backend("v1", 1)]) }]);
        let mut client = Client::http1(world, "shop").await;
        assert!(client.try_send(get("/endless")).await.is_err());
        world.told("request_timeout", "code=\"200\"").await;
    });
}

#[test]
fn a_status_named_in_codes_is_tried_again_with_the_whole_body() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("v1", &[&app]);
        let retry = Some(Retry { attempts: 2, codes: vec![503], backoff: None });
        world.route("r", "shop", vec![HttpRule { retry, ..rule(vec![backend("v1", 1)]) }]);
        for mut client in [Client::http1(world, "shop").await, Client::http2(world, "shop").await] {
            let uri = client.get("/twice-503").uri().clone();
            let request = Request::post(uri).header("host", "web").body(Full::from("hello")).unwrap();
            let answer = client.send(request).await;
            assert_eq!((answer.status, answer.line("body")), (StatusCode::OK, "hello"));
        }
    });
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    run(async |world: &World| {
        let app = App::upgrading().await;
        world.endpoints("v1", &[&app]);
        world.route("r", "shop", vec![rule(vec![backend("v1", 1)])]);
        let mut stream = world.connect("shop").await;
        let head = "GET /upgrade HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        stream.write_all(b"ping").await.unwrap();
        let mut echoed = [0; 4];
        stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"ping");
    });
}

#[test]
fn trailers_and_their_grpc_status_pass_and_are_counted() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("v1", &[&app]);
        world.route("r", "shop", vec![rule(vec![backend("v1", 1)])]);
        let answer = Client::http2(world, "shop").await.send(grpc("/trailers")).await;
        assert_eq!(answer.trailer("grpc-status"), "5");
        world.told("ok", "grpc_code=\"5\"").await;
    });
}

#[test]
fn an_unconfigured_proxy_refuses() {
    run(async |world: &World| {
        world.forget();
        let answer = Client::http1(world, "shop").await.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.body.starts_with("weft: no_configuration: "), "{}", answer.body);
    });
}

#[test]
fn a_rule_that_cannot_be_carried_out_refuses_what_it_matches() {
    run(async |world: &World| {
        let refusal = Some(Refusal { message: "spell the filter right".into() });
        world.route("r", "shop", vec![HttpRule { refusal, ..rule(vec![backend("v1", 1)]) }]);
        let answer = Client::http1(world, "shop").await.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.body, "weft: invalid_route: spell the filter right\n");
    });
}

#[test]
fn a_service_that_is_gone_refuses_the_next_request() {
    run(async |world: &World| {
        let app = App::echo("web").await;
        world.endpoints("web", &[&app]);
        let mut client = Client::http1(world, "shop").await;
        assert_eq!(client.send(get("/")).await.status, StatusCode::OK);
        world.remove(&Resource::Service(world::service("web", AppProtocol::Http)));
        let answer = client.send(get("/")).await;
        assert!(answer.body.starts_with("weft: unknown_destination: "), "{}", answer.body);
    });
}

#[test]
fn a_tcp_route_that_comes_later_holds_for_open_http_connections() {
    run(async |world: &World| {
        let (web, v1) = (App::echo("web").await, App::echo("v1").await);
        world.endpoints("web", &[&web]);
        world.endpoints("v1", &[&v1]);
        let mut client = Client::http1(world, "shop").await;
        assert_eq!(client.send(get("/")).await.line("app"), "web");
        let rule = TcpRule { name: None, backends: vec![backend("v1", 1)], refusal: None };
        world.tcp_route(rule.clone());
        assert_eq!(client.send(get("/")).await.line("app"), "v1");
        let refusal = Some(Refusal { message: "one rule only".into() });
        world.tcp_route(TcpRule { refusal, ..rule });
        let answer = client.send(get("/")).await;
        assert_eq!(answer.body, "weft: invalid_route: one rule only\n");
    });
}

#[test]
fn a_response_that_breaks_off_is_told_as_upstream_reset() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        world.endpoints("web", &[&app]);
        let mut client = Client::http1(world, "shop").await;
        assert!(client.try_send(get("/broken")).await.is_err());
        world.told("upstream_reset", "code=\"200\"").await;
    });
}

#[test]
fn answers_without_body_are_told_as_they_ended() {
    run(async |world: &World| {
        world.endpoints("web", &[]);
        let mut client = Client::http1(world, "shop").await;
        let request = || Request::head("/").header("host", "web").body(Full::default()).unwrap();
        assert_eq!(client.send(request()).await.status, StatusCode::SERVICE_UNAVAILABLE);
        world.told("no_endpoints", "code=\"503\"").await;
        let app = App::echo("web").await;
        world.endpoints("web", &[&app]);
        assert_eq!(client.send(request()).await.status, StatusCode::OK);
        world.told("ok", "code=\"200\"").await;
    });
}

/// Futures are moved while they are built and live as long as their request.
#[test]
fn a_request_in_flight_takes_little_memory() {
    run(async |world: &World| {
        let size = world.size_of_a_request();
        assert!(size <= 12 * 1024, "{size} bytes: is a future moved instead of pinned?");
    });
}
