//! Whole requests past an authorization server (`ExternalAuth`).

use http::Response;
use http_body_util::BodyExt as _;

use super::*;
use crate::body::Body;

fn by_http(max_body: u32) -> ExternalAuth {
    ExternalAuth {
        server: backend("auth", 1).target,
        protocol: AuthProtocol::Http {
            prefix: "/check".into(),
            allowed_headers: vec!["x-token".into()],
            allowed_response_headers: vec!["x-user".into(), "x-role".into()],
        },
        max_body,
    }
}

fn protect(world: &World, auth: ExternalAuth) {
    let filters = vec![Filter::ExternalAuth(auth), Filter::ResponseHeaders(set("x-filtered", "once"))];
    world.route("r", "shop", vec![HttpRule { filters, ..rule(vec![backend("v1", 1)]) }]);
}

fn answer(status: u16, fields: &[(&str, &str)], body: &'static str) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(Body::text(body)).unwrap()
}

#[test]
fn what_the_server_allows_passes_with_its_fields_in_the_place_of_the_callers() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        let fields = [("x-user", "ann"), ("x-user", "of-sales"), ("x-more", "1"), ("host", "evil")];
        let mut auth = App::judging(move |_| answer(200, &fields, "welcome")).await;
        world.endpoints("v1", &[&app]);
        world.endpoints("auth", &[&auth]);
        protect(world, by_http(0));
        for mut client in [Client::http1(world, "shop").await, Client::http2(world, "shop").await] {
            let mut request = client.get("/a?b=c");
            let sent = [
                ("authorization", "Bearer 1"),
                ("x-token", "t"),
                ("x-user", "root"),
                ("x-role", "admin"),
                ("x-other", "o"),
            ];
            for (name, value) in sent {
                request.headers_mut().append(http::HeaderName::from_static(name), value.parse().unwrap());
            }
            let got = client.send(request).await;
            assert_eq!(
                (got.status, got.line("app"), got.line("request")),
                (StatusCode::OK, "v1", "GET /a?b=c")
            );
            let users: Vec<&str> = got.body.lines().filter(|line| line.starts_with("x-user: ")).collect();
            assert_eq!(users, ["x-user: ann", "x-user: of-sales"]);
            assert!(!got.has("x-role") && !got.has("x-more"), "{}", got.body);
            assert_eq!((got.line("x-other"), got.line("x-token")), ("o", "t"));
            assert!(!got.body.contains("evil"), "{}", got.body);
            assert_eq!(got.header("x-filtered"), "once");
            let asked = auth.next().await;
            assert_eq!(asked.line("request"), "GET /check/a?b=c");
            assert_eq!((asked.line("host"), asked.line("authorization")), ("web", "Bearer 1"));
            assert_eq!((asked.line("content-length"), asked.line("x-token")), ("0", "t"));
            assert!(!asked.has("x-user") && !asked.has("x-other"), "{}", asked.body);
        }
        assert!(auth.try_next().is_none(), "asked once for each request");
    });
}

#[test]
fn what_the_server_refuses_is_answered_as_it_says() {
    run(async |world: &World| {
        let mut app = App::echo("v1").await;
        let auth = App::judging(|asked| match asked {
            _ if asked.contains("GET /check/login") => {
                answer(302, &[("location", "https://id.example/")], "")
            }
            _ if asked.contains("GET /check/odd") => answer(204, &[], ""),
            _ if asked.contains("GET /check/broken") => answer(500, &[], "stack trace"),
            _ => answer(401, &[("www-authenticate", "Basic realm=\"x\"")], "who are you?"),
        });
        let auth = auth.await;
        world.endpoints("v1", &[&app]);
        world.endpoints("auth", &[&auth]);
        protect(world, by_http(0));
        let mut client = Client::http1(world, "shop").await;
        let denied = client.send(get("/")).await;
        assert_eq!((denied.status, denied.body.as_str()), (StatusCode::UNAUTHORIZED, "who are you?"));
        assert_eq!(denied.header("www-authenticate"), "Basic realm=\"x\"");
        assert_eq!(denied.header("x-filtered"), "once");
        world.told("auth_denied", "code=\"401\"").await;
        let login = client.send(get("/login")).await;
        assert_eq!((login.status, login.header("location")), (StatusCode::FOUND, "https://id.example/"));
        let odd = client.send(get("/odd")).await;
        assert_eq!(odd.status, StatusCode::FORBIDDEN);
        let broken = client.send(get("/broken")).await;
        assert_eq!(broken.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(broken.body.starts_with("weft: auth_failed: "), "{}", broken.body);
        assert!(!broken.body.contains("stack"), "{}", broken.body);
        let mut client = Client::http2(world, "shop").await;
        let denied = client.send(grpc("/a/b")).await;
        assert_eq!((denied.header("grpc-status"), denied.header("content-type")), ("16", "application/grpc"));
        assert!(app.try_next().is_none());
    });
}

#[test]
fn a_server_that_cannot_be_asked_refuses() {
    run(async |world: &World| {
        let (mut app, gone) = (App::echo("v1").await, App::refusing().await);
        world.endpoints("v1", &[&app]);
        let mut client = Client::http1(world, "shop").await;
        for servers in [&[][..], &[&gone]] {
            world.endpoints("auth", servers);
            protect(world, by_http(0));
            let answer = client.send(get("/")).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.body.starts_with("weft: auth_failed: "), "{}", answer.body);
            assert_eq!(answer.header("x-filtered"), "once");
        }
        world.told("auth_failed", "code=\"503\"").await;
        protect(world, ExternalAuth { server: invalid(1).target, ..by_http(0) });
        assert_eq!(client.send(get("/")).await.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(app.try_next().is_none());
    });
}

#[test]
fn a_server_that_does_not_answer_refuses_by_the_rules_limit_or_its_own() {
    run(async |world: &World| {
        let (mut app, silent) = (App::echo("v1").await, App::echo("auth").await);
        world.endpoints("v1", &[&app]);
        world.endpoints("auth", &[&silent]);
        let protocol = AuthProtocol::Http {
            prefix: "".into(),
            allowed_headers: vec![],
            allowed_response_headers: vec![],
        };
        let auth = ExternalAuth { protocol, ..by_http(0) };
        let filters = vec![Filter::ExternalAuth(auth.clone())];
        let limited = HttpRule {
            filters,
            request_timeout: Some(Duration::from_millis(100)),
            ..rule(vec![backend("v1", 1)])
        };
        world.route("r", "shop", vec![limited]);
        let mut client = Client::http1(world, "shop").await;
        assert_eq!(client.send(get("/hang")).await.status, StatusCode::GATEWAY_TIMEOUT);
        protect(world, auth);
        let answer = client.send(get("/hang")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.body.contains("did not answer within 5 s"), "{}", answer.body);
        assert!(app.try_next().is_none());
    });
}

#[test]
fn a_body_is_shown_and_goes_on_whole_or_is_refused() {
    run(async |world: &World| {
        let mut app = App::echo("v1").await;
        let mut auth = App::judging(|_| answer(200, &[], "")).await;
        world.endpoints("v1", &[&app]);
        world.endpoints("auth", &[&auth]);
        protect(world, by_http(5));
        for mut client in [Client::http1(world, "shop").await, Client::http2(world, "shop").await] {
            let post = |body: &'static str| {
                let uri = client.get("/").uri().clone();
                Request::post(uri).header("host", "web").body(Full::from(body)).unwrap()
            };
            let (fits, longer) = (post("hello"), post("hello!"));
            let answer = client.send(fits).await;
            assert_eq!((answer.status, answer.line("body")), (StatusCode::OK, "hello"));
            let asked = auth.next().await;
            assert_eq!((asked.line("body"), asked.line("content-length")), ("hello", "5"));
            assert_eq!(app.next().await.line("body"), "hello");
            let answer = client.send(longer).await;
            assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
            assert!(answer.body.starts_with("weft: body_too_large: "), "{}", answer.body);
        }
        // Of a length that is not said.
        let mut stream = world.connect("shop").await;
        let chunked = b"POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n4\r\nefgh\r\n0\r\n\r\n";
        stream.write_all(chunked).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 413");
        assert!(auth.try_next().is_none() && app.try_next().is_none());
        // Without a size none is shown, and it goes on.
        protect(world, by_http(0));
        let mut client = Client::http1(world, "shop").await;
        let request = Request::post("/").header("host", "web").body(Full::from("long")).unwrap();
        assert_eq!(client.send(request).await.line("body"), "long");
        assert_eq!((auth.next().await.line("content-length"), app.next().await.line("body")), ("0", "long"));
    });
}

#[test]
fn a_backends_own_filter_asks_about_its_share_alone() {
    run(async |world: &World| {
        let (app, other) = (App::echo("v1").await, App::echo("v2").await);
        let mut auth = App::judging(|_| answer(403, &[], "no")).await;
        world.endpoints("v1", &[&app]);
        world.endpoints("v2", &[&other]);
        world.endpoints("auth", &[&auth]);
        let guarded = Backend { filters: vec![Filter::ExternalAuth(by_http(0))], ..backend("v2", 1) };
        world.route("r", "shop", vec![rule(vec![backend("v1", 1), guarded])]);
        let mut client = Client::http1(world, "shop").await;
        let mut denied = 0;
        for _ in 0..10 {
            denied += u32::from(client.send(get("/")).await.status == StatusCode::FORBIDDEN);
        }
        assert_eq!(denied, 5);
        for _ in 0..5 {
            auth.next().await;
        }
        assert!(auth.try_next().is_none());
    });
}

#[test]
fn a_copy_is_sent_only_of_what_may_pass() {
    run(async |world: &World| {
        let (app, mut mirror) = (App::echo("v1").await, App::echo("mirror").await);
        let auth =
            App::judging(|asked| answer(if asked.contains("/yes") { 200 } else { 403 }, &[], "")).await;
        world.endpoints("v1", &[&app]);
        world.endpoints("copy", &[&mirror]);
        world.endpoints("auth", &[&auth]);
        let copy = Filter::Mirror(Mirror { target: backend("copy", 1).target, numerator: 1, denominator: 1 });
        let filters = vec![copy, Filter::ExternalAuth(by_http(0))];
        world.route("r", "shop", vec![HttpRule { filters, ..rule(vec![backend("v1", 1)]) }]);
        let mut client = Client::http1(world, "shop").await;
        assert_eq!(client.send(get("/no")).await.status, StatusCode::FORBIDDEN);
        assert_eq!(client.send(get("/yes")).await.status, StatusCode::OK);
        assert_eq!(mirror.next().await.line("request"), "GET /yes");
    });
}

/// A gRPC answer: its one message, and its status.
fn checked(message: &[u8], status: u16) -> Response<Body> {
    let frame = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    let body = Full::from(frame).map_err(|never| match never {});
    let mut response = Response::new(Body::boxed(body.with_trailers(std::future::ready(Some(Ok(trailers))))));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    response
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn option(name: &str, value: &str) -> Vec<u8> {
    field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat())
}

fn by_grpc() -> ExternalAuth {
    let Backend { mut target, .. } = backend("auth", 1);
    if let BackendTarget::Service { protocol, .. } = &mut target {
        *protocol = AppProtocol::H2c;
    }
    ExternalAuth { server: target, protocol: AuthProtocol::Grpc { allowed_headers: vec![] }, max_body: 64 }
}

#[test]
fn a_grpc_server_is_asked_and_its_changes_are_made() {
    run(async |world: &World| {
        let app = App::echo("v1").await;
        let mut auth = App::judging(|_| {
            let ok = [
                field(2, &option("x-user", "ann")),
                field(2, &option("host", "evil")),
                field(2, &option(":path", "/evil")),
                field(5, b"x-role"),
                field(6, &option("x-added", "1")),
            ];
            checked(&[field(1, &[]), field(3, &ok.concat())].concat(), 0)
        })
        .await;
        world.endpoints("v1", &[&app]);
        world.endpoints("auth", &[&auth]);
        protect(world, by_grpc());
        for mut client in [Client::http1(world, "shop").await, Client::http2(world, "shop").await] {
            let uri = client.get("/a?b").uri().clone();
            let request = Request::post(uri).header("host", "web").header("x-user", "root");
            let request =
                request.header("x-role", "admin").header("x-forwarded-client-cert", "URI=spiffe://forged");
            let got = client.send(request.body(Full::from("hello")).unwrap()).await;
            assert_eq!(
                (got.status, got.line("request"), got.line("body")),
                (StatusCode::OK, "POST /a?b", "hello")
            );
            assert_eq!((got.line("x-user"), got.has("x-role")), ("ann", false));
            assert!(!got.body.contains("evil"), "{}", got.body);
            assert_eq!((got.header("x-added"), got.header("x-filtered")), ("1", "once"));
            let asked = auth.next().await;
            assert_eq!(asked.line("request"), "POST /envoy.service.auth.v3.Authorization/Check");
            assert_eq!((asked.line("version"), asked.line("te")), ("HTTP/2.0", "trailers"));
            for shown in
                ["/a?b", "hello", "root", "admin", ":authority", "spiffe://cluster.local/ns/shop/sa/caller"]
            {
                assert!(asked.body.contains(shown), "{shown} in {:?}", asked.body);
            }
            assert!(!asked.body.contains("spiffe://forged"), "{:?}", asked.body);
        }
        assert!(auth.try_next().is_none(), "asked once for each request");
    });
}

#[test]
fn nothing_passes_without_a_grpc_servers_yes() {
    run(async |world: &World| {
        let mut app = App::echo("v1").await;
        let auth = App::judging(|asked| {
            let denied = [
                field(1, &[1 << 3, 0x91, 0x03]),
                field(2, &option("www-authenticate", "Basic")),
                field(3, b"who?"),
            ];
            let no = field(1, &[1 << 3, 7]);
            match asked {
                _ if asked.contains("/denied") => checked(&[no, field(2, &denied.concat())].concat(), 0),
                _ if asked.contains("/plain-no") => checked(&no, 0),
                _ if asked.contains("/says-nothing") => checked(&[], 0),
                _ if asked.contains("/bad-field") => {
                    checked(&field(3, &field(2, &option("x user", "ann"))), 0)
                }
                _ if asked.contains("/http") => answer(200, &[], ""),
                _ => checked(&field(3, &[]), 13),
            }
        });
        let auth = auth.await;
        world.endpoints("v1", &[&app]);
        world.endpoints("auth", &[&auth]);
        protect(world, by_grpc());
        let mut client = Client::http1(world, "shop").await;
        let denied = client.send(get("/denied")).await;
        assert_eq!((denied.status, denied.body.as_str()), (StatusCode::UNAUTHORIZED, "who?"));
        assert_eq!(denied.header("www-authenticate"), "Basic");
        assert_eq!(client.send(get("/plain-no")).await.status, StatusCode::FORBIDDEN);
        for path in ["/says-nothing", "/bad-field", "/http", "/status"] {
            let answer = client.send(get(path)).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert!(answer.body.starts_with("weft: auth_failed: "), "{}", answer.body);
        }
        assert!(app.try_next().is_none());
    });
}
