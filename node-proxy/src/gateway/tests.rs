//! What comes to a Gateway's listeners, from the accepted connection to applications on loopback addresses.

mod alike;
mod filters;
mod obey;
mod rig;
mod tls;
mod udp;

use http::{Request, StatusCode};
use http_body_util::Full;
use weft_model::route::*;

use self::rig::{Rig, exact, listener};
use crate::outbound::http::tests::world::{App, Client, backend, rule, run};

fn get(host: &str, path: &str) -> Request<Full<bytes::Bytes>> {
    Request::get(path).header("host", host).body(Full::default()).unwrap()
}

#[test]
fn a_request_goes_by_the_route_attached_to_its_listener() {
    run(async |world| {
        let (one, two) = (App::echo("one").await, App::echo("two").await);
        world.endpoints("one", &[&one]);
        world.endpoints("two", &[&two]);
        let rig =
            Rig::new(world, vec![listener("http", None), listener("shop", Some("*.shop.example"))]).await;
        rig.attach("a", "http", &[], vec![rule(vec![backend("one", 1)])]);
        rig.attach("b", "shop", &["www.shop.example"], vec![rule(vec![backend("two", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        assert_eq!(client.send(get("else.example", "/a?b=c")).await.line("request"), "GET /a?b=c");
        assert_eq!(client.send(get("else.example", "/")).await.line("app"), "one");
        assert_eq!(client.send(get("WWW.Shop.example:8080", "/")).await.line("app"), "two");
        // The listener with the more specific hostname is alone.
        let answer = client.send(get("other.shop.example", "/")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(answer.body.starts_with("weft: no_route_match: "), "{}", answer.body);
        world.told("no_route_match", "listener=\"shop\"").await;
        world.told("ok", "gateway=\"infra/front\",listener=\"http\"").await;
    });
}

#[test]
fn what_the_more_specific_hostname_does_not_match_falls_through() {
    run(async |world| {
        let (one, two) = (App::echo("one").await, App::echo("two").await);
        world.endpoints("one", &[&one]);
        world.endpoints("two", &[&two]);
        let rig = Rig::new(world, vec![listener("http", None)]).await;
        let only = HttpRule { matches: vec![exact("/only")], ..rule(vec![backend("two", 1)]) };
        rig.attach("wide", "http", &["*.example"], vec![rule(vec![backend("one", 1)])]);
        rig.attach("narrow", "http", &["a.example"], vec![only]);
        let mut client = Client::http2_over(rig.connect().await).await;
        let get = |path: &str| Request::get(format!("http://a.example{path}")).body(Full::default()).unwrap();
        assert_eq!(client.send(get("/only")).await.line("app"), "two");
        assert_eq!(client.send(get("/else")).await.line("app"), "one");
    });
}

#[test]
fn applications_are_told_who_calls() {
    run(async |world| {
        let app = App::echo("one").await;
        world.endpoints("one", &[&app]);
        let rig = Rig::new(world, vec![listener("http", None)]).await;
        rig.attach("a", "http", &[], vec![rule(vec![backend("one", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        let mut request = get("shop.example", "/");
        request.headers_mut().insert("x-forwarded-for", "1.2.3.4".parse().unwrap());
        let answer = client.send(request).await;
        assert_eq!(answer.line("x-forwarded-for"), "127.0.0.1");
        assert_eq!(answer.line("x-forwarded-proto"), "http");
        assert_eq!(answer.line("x-forwarded-host"), "shop.example");
        assert_eq!(answer.line("host"), "shop.example");
    });
}

#[test]
fn a_backend_that_declares_nothing_gets_http1_whatever_the_client_speaks() {
    run(async |world| {
        let app = App::echo("one").await;
        world.endpoints("one", &[&app]);
        let rig = Rig::new(world, vec![listener("http", None)]).await;
        rig.attach("a", "http", &[], vec![rule(vec![backend("one", 1)])]);
        let mut client = Client::http2_over(rig.connect().await).await;
        let request = || Request::post("http://a.example/x.Y/Z").version(http::Version::HTTP_2);
        let plain = request().body(Full::from("body")).unwrap();
        let answer = client.send(plain).await;
        assert_eq!((answer.line("version"), answer.line("body")), ("HTTP/1.1", "body"));
        let grpc = request().header("content-type", "application/grpc").header("te", "trailers");
        assert_eq!(client.send(grpc.body(Full::from("m")).unwrap()).await.line("version"), "HTTP/2.0");
        world.told("ok", "protocol=\"http2\"").await;
    });
}

#[test]
fn a_redirect_names_the_listeners_port() {
    run(async |world| {
        let rig = Rig::new(world, vec![listener("http", None)]).await;
        let redirect = Redirect { hostname: Some("new.example".into()), status: 302, ..Redirect::default() };
        let filters = vec![Filter::Redirect(redirect)];
        rig.attach("a", "http", &[], vec![HttpRule { filters, ..rule(vec![]) }]);
        let mut client = Client::http1_over(rig.connect().await).await;
        let answer = client.send(get("old.example", "/a")).await;
        assert_eq!(answer.header("location"), format!("http://new.example:{}/a", rig.port));
    });
}

#[test]
fn a_listener_that_comes_later_holds_for_open_connections() {
    run(async |world| {
        let app = App::echo("one").await;
        world.endpoints("one", &[&app]);
        let rig = Rig::new(world, vec![listener("http", Some("a.example"))]).await;
        rig.attach("a", "http", &[], vec![rule(vec![backend("one", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        assert_eq!(client.send(get("b.example", "/")).await.status, StatusCode::NOT_FOUND);
        rig.listeners(vec![listener("http", Some("a.example")), listener("b", Some("b.example"))]);
        rig.attach("b", "b", &[], vec![rule(vec![backend("one", 1)])]);
        assert_eq!(client.send(get("b.example", "/")).await.status, StatusCode::OK);
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::OK);
    });
}
