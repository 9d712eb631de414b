//! Listeners that obey the routes of the Services that they send to: once, each filter once, and as the mesh would.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_model::gateway::{Listener, ListenerProtocol};
use weft_model::route::*;
use weft_model::service::AppProtocol;
use weft_model::session::{SessionCarrier, SessionPersistence};
use weft_model::{ObjectName, Resource};
use weft_tls::testing::TestCa;
use weft_tls::{Carries, Clients, FrontendTls, KeyPem, Offer};

use super::get;
use super::rig::{Rig, exact, listener, passing};
use crate::outbound::http::tests::world::{App, Client, World, backend, invalid, rule, run, service};

fn obeying() -> Listener {
    Listener { service_routes: true, ..listener("http", None) }
}

fn marking(name: &str) -> Filter {
    Filter::RequestHeaders(HeaderModifier {
        add: vec![(name.into(), "1".into())],
        ..HeaderModifier::default()
    })
}

fn answering(name: &str) -> Filter {
    Filter::ResponseHeaders(HeaderModifier {
        add: vec![(name.into(), "1".into())],
        ..HeaderModifier::default()
    })
}

fn copying(to: &str) -> Filter {
    Filter::Mirror(Mirror { target: backend(to, 1).target, numerator: 1, denominator: 1 })
}

/// A rule for requests with the header `x-version: 2`.
fn for_version_2(backends: Vec<Backend>) -> HttpRule {
    let header = ValueMatch { name: "x-version".into(), value: "2".into(), regex: false };
    HttpRule { matches: vec![Match { headers: vec![header], ..Match::default() }], ..rule(backends) }
}

fn asking_for_version_2(path: &str) -> Request<Full<bytes::Bytes>> {
    let mut request = get("a.example", path);
    request.headers_mut().insert("x-version", "2".parse().unwrap());
    request
}

/// A route of any kind on port 80 of a Service of `shop`.
fn on_service(world: &World, kind: RouteKind, name: &str, of: &str, rules: Rules) {
    world.set(Resource::Route(Route {
        id: RouteId { kind, name: ObjectName::new("shop", name) },
        generation: 1,
        created: 0,
        parents: vec![Parent { service: ObjectName::new("shop", of), port: 80, explicit_port: false }],
        listeners: vec![],
        for_gateways: true,
        rules,
    }));
}

fn stream(backends: Vec<Backend>) -> Vec<TcpRule> {
    vec![TcpRule { name: None, backends, refusal: None }]
}

#[test]
fn a_services_own_routes_decide_only_where_the_listener_obeys_them() {
    run(async |world| {
        let (web, v2) = (App::echo("web").await, App::echo("v2").await);
        world.endpoints("web", &[&web]);
        world.endpoints("v2", &[&v2]);
        let rig = Rig::new(world, vec![listener("http", None)]).await;
        rig.attach("edge", "http", &[], vec![rule(vec![backend("web", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        world.route("own", "shop", vec![for_version_2(vec![backend("v2", 1)])]);
        assert_eq!(client.send(asking_for_version_2("/")).await.line("app"), "web");
        assert_eq!(client.send(get("a.example", "/")).await.line("app"), "web");

        rig.listeners(vec![obeying()]);
        assert_eq!(client.send(asking_for_version_2("/")).await.line("app"), "v2");
        let told = "destination_service=\"shop/web\",destination_port=\"80\",route=\"HTTPRoute/shop/edge\",rule=\"0\",\
                    service_route=\"HTTPRoute/shop/own\",service_rule=\"0\",backend=\"shop/v2:80\"";
        world.told("ok", told).await;
        // Routes cover the port and none matches: as in the mesh.
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::NOT_FOUND);
        world.told("no_route_match", "destination_service=\"shop/web\"").await;
        world.route("own", "shop", vec![rule(vec![invalid(1)])]);
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::INTERNAL_SERVER_ERROR);
        let refusal = Some(Refusal { message: "mend it".into() });
        world.route("own", "shop", vec![HttpRule { refusal, ..rule(vec![backend("v2", 1)]) }]);
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::INTERNAL_SERVER_ERROR);
        world.told("invalid_route", "service_route=\"HTTPRoute/shop/own\"").await;
        // A Gateway in the namespace infra is a consumer there.
        world.route("consumer", "infra", vec![rule(vec![backend("web", 1)])]);
        assert_eq!(client.send(asking_for_version_2("/")).await.line("app"), "web");
    });
}

#[test]
fn each_filter_of_both_routes_runs_once_and_what_is_chosen_is_final() {
    run(async |world| {
        let (web, v2) = (App::echo("web").await, App::echo("v2").await);
        let (mut copy, mut own_copy) = (App::echo("copy").await, App::echo("own").await);
        for (name, app) in [("web", &web), ("v2", &v2), ("copy", &copy), ("own-copy", &own_copy)] {
            world.endpoints(name, &[app]);
        }
        let rig = Rig::new(world, vec![obeying()]).await;
        let with = |to: &str, by: &str| Backend {
            filters: vec![marking(&format!("x-{by}-backend")), answering(&format!("y-{by}-backend"))],
            ..backend(to, 1)
        };
        let filters = |by: &str, to: &str| {
            vec![marking(&format!("x-{by}")), answering(&format!("y-{by}")), copying(to)]
        };
        let edge = HttpRule { filters: filters("edge", "copy"), ..rule(vec![with("web", "edge")]) };
        rig.attach("edge", "http", &[], vec![edge]);
        // The backends have routes that would be asked again and again; so has the mirrors' Service.
        let to_itself = HttpRule {
            matches: vec![exact("/itself")],
            filters: filters("own", "own-copy"),
            ..rule(vec![with("web", "own")])
        };
        let to_v2 = HttpRule { filters: filters("own", "own-copy"), ..rule(vec![with("v2", "own")]) };
        world.route("own", "shop", vec![to_itself, to_v2]);
        for name in ["v2", "copy", "own-copy"] {
            on_service(world, RouteKind::Http, &format!("of-{name}"), name, Rules::Http(vec![rule(vec![])]));
        }
        let mut client = Client::http1_over(rig.connect().await).await;
        for (path, app) in [("/itself", "web"), ("/", "v2")] {
            let mut request = get("a.example", path);
            *request.method_mut() = http::Method::POST;
            *request.body_mut() = Full::from("whole");
            let answer = client.send(request).await;
            assert_eq!((answer.line("app"), answer.line("body")), (app, "whole"));
            for by in ["edge", "edge-backend", "own", "own-backend"] {
                let count = answer.body.lines().filter(|line| **line == format!("x-{by}: 1")).count();
                assert_eq!(count, 1, "{by} in {}", answer.body);
                let fields = answer.fields();
                assert_eq!(fields.iter().filter(|it| **it == format!("y-{by}: 1")).count(), 1, "{fields:?}");
            }
            for copy in [&mut copy, &mut own_copy] {
                assert_eq!(copy.next().await.line("body"), "whole");
                assert!(copy.try_next().is_none());
            }
        }
    });
}

#[test]
fn a_route_that_is_at_the_listener_and_on_the_service_decides_once() {
    run(async |world| {
        let (web, v2) = (App::echo("web").await, App::echo("v2").await);
        world.endpoints("web", &[&web]);
        world.endpoints("v2", &[&v2]);
        let rig = Rig::new(world, vec![obeying()]).await;
        let both = || {
            let path = Some(PathModifier::Prefix("/deeper".into()));
            let rewrite = Filter::UrlRewrite(UrlRewrite { hostname: None, path });
            let split = vec![backend("web", 1), backend("v2", 1)];
            vec![HttpRule { filters: vec![rewrite, marking("x-mark")], ..rule(split) }]
        };
        rig.attach("both", "http", &[], both());
        world.route("both", "shop", both());
        let mut client = Client::http1_over(rig.connect().await).await;
        let mut to_v2 = 0;
        for _ in 0..10 {
            let answer = client.send(get("a.example", "/a")).await;
            assert_eq!(answer.line("request"), "GET /deeper/a");
            assert_eq!(answer.body.matches("x-mark: 1").count(), 1, "{}", answer.body);
            to_v2 += u32::from(answer.line("app") == "v2");
        }
        assert_eq!(to_v2, 5, "its weights count once");
        // A rule of another route of the Service is still obeyed.
        world.route("special", "shop", vec![for_version_2(vec![backend("v2", 1)])]);
        for _ in 0..4 {
            assert_eq!(client.send(asking_for_version_2("/a")).await.line("app"), "v2");
        }
        // Taken from the Service it stays at the listener.
        let id = RouteId { kind: RouteKind::Http, name: ObjectName::new("shop", "both") };
        world.remove(&Resource::Route(Route {
            id,
            generation: 1,
            created: 0,
            parents: vec![],
            listeners: vec![],
            for_gateways: false,
            rules: Rules::Http(vec![]),
        }));
        assert_eq!(client.send(asking_for_version_2("/a")).await.status, StatusCode::OK);
    });
}

#[test]
fn limits_hold_together_and_retries_are_not_multiplied() {
    run(async |world| {
        let web = App::echo("web").await;
        world.endpoints("web", &[&web]);
        let rig = Rig::new(world, vec![obeying()]).await;
        let mut client = Client::http1_over(rig.connect().await).await;
        let limited = |milliseconds: u64| HttpRule {
            request_timeout: Some(Duration::from_millis(milliseconds)),
            ..rule(vec![backend("web", 1)])
        };
        for (edge, own) in [(50, 20_000), (20_000, 50)] {
            rig.attach("edge", "http", &[], vec![limited(edge)]);
            world.route("own", "shop", vec![limited(own)]);
            assert_eq!(client.send(get("a.example", "/hang")).await.status, StatusCode::GATEWAY_TIMEOUT);
        }
        let retrying = |attempts: Option<u32>| HttpRule {
            retry: attempts.map(|attempts| Retry {
                attempts,
                codes: vec![503],
                backoff: Some(Duration::ZERO),
            }),
            ..rule(vec![backend("web", 1)])
        };
        // Every third try is a good one: two by the first, one by the second, three each by the others.
        for (edge, own, status) in [
            (Some(1), Some(1), StatusCode::SERVICE_UNAVAILABLE),
            (Some(2), Some(0), StatusCode::OK),
            (Some(2), None, StatusCode::OK),
            (None, Some(2), StatusCode::OK),
        ] {
            rig.attach("edge", "http", &[], vec![retrying(edge)]);
            world.route("own", "shop", vec![retrying(own)]);
            assert_eq!(client.send(get("a.example", "/twice-503")).await.status, status, "{edge:?} {own:?}");
        }
    });
}

#[test]
fn a_session_of_either_route_leads_back_to_its_endpoint() {
    run(async |world| {
        let (a, b) = (App::echo("a").await, App::echo("b").await);
        world.endpoints("v2", &[&a, &b]);
        let rig = Rig::new(world, vec![obeying()]).await;
        let session = |name: &str| {
            let carrier = SessionCarrier::Header { name: name.into() };
            Some(SessionPersistence { carrier, absolute_timeout: None })
        };
        for (edge, own, named) in [(true, false, "x-edge"), (false, true, "x-own"), (true, true, "x-own")] {
            let of = |has: bool, name: &str, to: &str| HttpRule {
                session: session(name).filter(|_| has),
                ..rule(vec![backend(to, 1)])
            };
            rig.attach("edge", "http", &[], vec![of(edge, "x-edge", "web")]);
            world.route("own", "shop", vec![of(own, "x-own", "v2")]);
            let mut client = Client::http1_over(rig.connect().await).await;
            let first = client.send(get("a.example", "/")).await;
            let token = first.header(named).to_owned();
            let told = first.fields().iter().filter(|field| field.starts_with("x-")).count();
            assert_eq!(told, 1, "{:?}", first.fields());
            for _ in 0..8 {
                let mut request = get("a.example", "/");
                let name = http::HeaderName::from_bytes(named.as_bytes()).unwrap();
                request.headers_mut().insert(name, token.parse().unwrap());
                assert_eq!(client.send(request).await.line("app"), first.line("app"));
            }
        }
    });
}

#[test]
fn what_the_services_authorization_server_denies_is_not_copied_before_either() {
    run(async |world| {
        let mut web = App::echo("web").await;
        let mut copy = App::echo("copy").await;
        let mut judge = App::judging(|asked| {
            let status = if asked.contains("GET /denied") { 403 } else { 200 };
            http::Response::builder().status(status).body(crate::body::Body::Empty).unwrap()
        })
        .await;
        for (name, app) in [("web", &web), ("copy", &copy), ("judge", &judge)] {
            world.endpoints(name, &[app]);
        }
        let rig = Rig::new(world, vec![obeying()]).await;
        let edge = HttpRule { filters: vec![copying("copy")], ..rule(vec![backend("web", 1)]) };
        rig.attach("edge", "http", &[], vec![edge]);
        let auth = Filter::ExternalAuth(ExternalAuth {
            server: backend("judge", 1).target,
            protocol: AuthProtocol::Http {
                prefix: "".into(),
                allowed_headers: vec![],
                allowed_response_headers: vec![],
            },
            max_body: 0,
        });
        let own = HttpRule { filters: vec![auth], ..rule(vec![backend("web", 1)]) };
        world.route("own", "shop", vec![own]);
        let mut client = Client::http1_over(rig.connect().await).await;
        assert_eq!(client.send(get("a.example", "/denied")).await.status, StatusCode::FORBIDDEN);
        world.told("auth_denied", "service_route=\"HTTPRoute/shop/own\"").await;
        judge.next().await;
        assert_eq!(client.send(get("a.example", "/")).await.line("app"), "web");
        judge.next().await;
        assert!(judge.try_next().is_none(), "asked once for each request");
        assert_eq!(copy.next().await.line("request"), "GET /");
        assert_eq!(web.next().await.line("request"), "GET /");
        assert!(copy.try_next().is_none() && web.try_next().is_none());
    });
}

#[test]
fn bytes_go_by_the_services_routes_for_bytes_and_are_refused_where_it_has_those_of_http() {
    run(async |world| {
        let ca = TestCa::new("test");
        let pem = ca.pem(&["a.example"]);
        let key = KeyPem { chain: &pem.0, key: &pem.1 };
        let tls = || Some(FrontendTls::new(&[key], Clients::Anybody, Offer::Bytes).unwrap());
        let (web, other) = (App::greeting("hello", None).await, App::greeting("other", None).await);
        let (secure, named) = (App::greeting("hello", tls()).await, App::greeting("named", tls()).await);
        for (name, app) in [("web", &web), ("other", &other), ("secure", &secure), ("named", &named)] {
            world.endpoints(name, &[app]);
        }
        let tcp = Listener { protocol: ListenerProtocol::Tcp, ..obeying() };
        let rig = Rig::new(world, vec![tcp]).await;
        let heard = async || {
            let mut heard = [0; 5];
            let read = rig.connect().await.read_exact(&mut heard).await;
            read.map(|_| String::from_utf8(heard.into()).unwrap())
        };
        rig.attach_kind(RouteKind::Tcp, "edge", ("http", &[]), Rules::Tcp(stream(vec![backend("web", 1)])));
        assert_eq!(heard().await.unwrap(), "hello");
        on_service(world, RouteKind::Tcp, "own", "web", Rules::Tcp(stream(vec![backend("other", 1)])));
        // What was chosen is final.
        on_service(world, RouteKind::Tcp, "further", "other", Rules::Tcp(stream(vec![])));
        assert_eq!(heard().await.unwrap(), "other");
        world.told("ok", "service_route=\"TCPRoute/shop/own\",service_rule=\"0\"").await;
        on_service(world, RouteKind::Http, "http", "web", Rules::Http(vec![rule(vec![backend("other", 1)])]));
        assert!(heard().await.is_err(), "bytes cannot be routed by HTTPRoutes");
        world.told("no_route_match", "protocol=\"tcp\"").await;
        // Routes of HTTP that name no port leave it alone if it says that it is for bytes.
        world.set(Resource::Service(service("web", AppProtocol::Tcp)));
        assert_eq!(heard().await.unwrap(), "hello");

        let by_name = TlsRule {
            name: None,
            hostnames: vec!["a.example".into()],
            backends: vec![backend("named", 1)],
            refusal: None,
        };
        on_service(world, RouteKind::Tls, "tls", "secure", Rules::Tls(vec![by_name]));
        let edge =
            TlsRule { name: None, hostnames: vec![], backends: vec![backend("secure", 1)], refusal: None };
        for (kind, listener, rules) in [
            (RouteKind::Tls, passing("http", None), Rules::Tls(vec![edge])),
            (
                RouteKind::Tcp,
                Listener { protocol: ListenerProtocol::Tcp, ..obeying() },
                Rules::Tcp(stream(vec![backend("secure", 1)])),
            ),
        ] {
            rig.listeners(vec![Listener { service_routes: true, ..listener }]);
            rig.attach_kind(kind, "edge", ("http", &[]), rules);
            let mut stream = rig.connect_tls((&ca, "a.example"), Carries::Bytes).await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"named");
            stream.write_all(b"hello").await.unwrap();
            stream.flush().await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
            assert!(rig.connect_tls((&ca, "b.example"), Carries::Bytes).await.is_err());
        }
    });
}
