//! Filters of listeners: asked before the route is chosen.

use http::{Response, StatusCode};
use weft_model::gateway::Listener;
use weft_model::route::*;

use super::get;
use super::rig::{Rig, exact, listener};
use crate::body::Body;
use crate::outbound::http::tests::world::{App, Client, backend, rule, run};

fn asking(server: &str) -> ExternalAuth {
    ExternalAuth {
        server: backend(server, 1).target,
        protocol: AuthProtocol::Http {
            prefix: "".into(),
            allowed_headers: vec!["x-tenant".into()],
            allowed_response_headers: vec!["x-tenant".into(), "host".into()],
        },
        max_body: 0,
    }
}

fn allowing(tenant: &str) -> Response<Body> {
    let response = Response::builder().header("x-tenant", tenant).header("host", "other.example");
    response.body(Body::Empty).unwrap()
}

#[test]
fn a_listeners_filters_run_in_their_order_before_the_route_is_chosen_once() {
    run(async |world| {
        let (app, other) = (App::echo("one").await, App::echo("two").await);
        let mut first = App::judging(|asked| {
            let denied = asked.contains("GET /denied");
            if denied { Response::builder().status(403).body(Body::Empty).unwrap() } else { allowing("a") }
        })
        .await;
        let mut second = App::judging(|_| allowing("b")).await;
        for (name, app) in [("one", &app), ("two", &other), ("first", &first), ("second", &second)] {
            world.endpoints(name, &[app]);
        }
        let filtered = Listener {
            filters: vec![asking("first"), asking("second")],
            ..listener("http", Some("a.example"))
        };
        let rig = Rig::new(world, vec![filtered, listener("free", Some("other.example"))]).await;
        let tenant = |value: &str| ValueMatch { name: "x-tenant".into(), value: value.into(), regex: false };
        let of = |value: &str, to: &str| HttpRule {
            matches: vec![Match { headers: vec![tenant(value)], ..exact("/tenant") }],
            ..rule(vec![backend(to, 1)])
        };
        rig.attach("r", "http", &[], vec![of("b", "one"), of("forged", "two"), of("a", "two")]);
        rig.attach("free", "free", &[], vec![rule(vec![backend("two", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        let mut request = get("a.example", "/tenant");
        request.headers_mut().insert("x-tenant", "forged".parse().unwrap());
        let answer = client.send(request).await;
        assert_eq!(
            (answer.line("app"), answer.line("x-tenant"), answer.line("host")),
            ("one", "b", "a.example")
        );
        assert_eq!(first.next().await.line("x-tenant"), "forged");
        assert_eq!(second.next().await.line("x-tenant"), "a");
        // Also what no route matches is asked about; what is denied goes nowhere.
        assert_eq!(client.send(get("a.example", "/none")).await.status, StatusCode::NOT_FOUND);
        assert_eq!(
            (first.next().await.line("request"), second.next().await.line("app")),
            ("GET /none", "judge")
        );
        assert_eq!(client.send(get("a.example", "/denied")).await.status, StatusCode::FORBIDDEN);
        world.told("auth_denied", "listener=\"http\"").await;
        first.next().await;
        assert_eq!(client.send(get("other.example", "/tenant")).await.line("app"), "two");
        assert!(first.try_next().is_none() && second.try_next().is_none());
    });
}

#[test]
fn a_listener_whose_server_cannot_be_asked_lets_nothing_pass() {
    run(async |world| {
        let mut app = App::echo("one").await;
        world.endpoints("one", &[&app]);
        let filtered = |server| {
            let auth = ExternalAuth { server, ..asking("gone") };
            Listener { filters: vec![auth], ..listener("http", None) }
        };
        let rig = Rig::new(world, vec![filtered(backend("gone", 1).target)]).await;
        rig.attach("r", "http", &[], vec![rule(vec![backend("one", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::SERVICE_UNAVAILABLE);
        rig.listeners(vec![filtered(BackendTarget::Invalid { message: "no such Service".into() })]);
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(app.try_next().is_none());
    });
}
