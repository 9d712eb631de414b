//! TLS at listeners, and towards backends.

use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_model::gateway::{BackendRoots, BackendTls, ListenerProtocol, ShownCertificate};
use weft_model::route::*;
use weft_model::{ObjectName, Resource};
use weft_tls::testing::TestCa;
use weft_tls::{Carries, Clients, FrontendTls, KeyPem, Offer};

use super::get;
use super::rig::{Rig, listener, passing, terminating};
use crate::outbound::http::tests::world::{App, Client, World, backend, rule, run};

fn serving(pem: &(String, String)) -> FrontendTls {
    let key = KeyPem { chain: &pem.0, key: &pem.1 };
    FrontendTls::new(&[key], Clients::Anybody, Offer::Http).unwrap()
}

fn tls_rule(name: &str) -> Rules {
    Rules::Tls(vec![TlsRule {
        name: None,
        hostnames: vec![],
        backends: vec![backend(name, 1)],
        refusal: None,
    }])
}

fn tcp_rule(name: &str) -> Rules {
    Rules::Tcp(vec![TcpRule { name: None, backends: vec![backend(name, 1)], refusal: None }])
}

/// A BackendTLSPolicy of port 80 of `shop/<service>`.
fn policy(world: &World, service: &str, hostname: &str, ca: &TestCa) {
    world.set(Resource::BackendTls(BackendTls {
        service: ObjectName::new("shop", service),
        port: 80,
        policy: ObjectName::new("shop", "policy"),
        hostname: hostname.into(),
        subject_alt_names: vec![],
        roots: BackendRoots::Pem(vec![ca.root_pem().into()]),
        shown: ShownCertificate::Gateways,
        in_mesh: false,
        refusal: None,
    }));
}

#[test]
fn https_ends_here_and_a_host_of_another_listener_is_misdirected() {
    run(async |world| {
        let ca = TestCa::new("test");
        let app = App::echo("one").await;
        world.endpoints("one", &[&app]);
        let https = |name: &str, hostname| terminating(ListenerProtocol::Https, name, hostname, "cert");
        let rig = Rig::new(world, vec![https("any", None), https("a", Some("a.example"))]).await;
        rig.certificate("cert", ca.pem(&["a.example", "b.example"]));
        for name in ["any", "a"] {
            rig.attach(name, name, &[], vec![rule(vec![backend("one", 1)])]);
        }
        let stream = rig.connect_tls((&ca, "a.example"), Carries::Http1).await.unwrap();
        let mut client = Client::http1_over(stream).await;
        let answer = client.send(get("a.example", "/")).await;
        assert_eq!((answer.line("app"), answer.line("x-forwarded-proto")), ("one", "https"));
        for host in ["b.example", "a.example.b.example"] {
            assert_eq!(client.send(get(host, "/")).await.status, StatusCode::MISDIRECTED_REQUEST);
        }
        let stream = rig.connect_tls((&ca, "b.example"), Carries::Http2).await.unwrap();
        let mut client = Client::http2_over(stream).await;
        let get = |host: &str| Request::get(format!("https://{host}/")).body(Full::default()).unwrap();
        assert_eq!(client.send(get("c.example")).await.status, StatusCode::OK);
        assert_eq!(client.send(get("a.example")).await.status, StatusCode::MISDIRECTED_REQUEST);
        world.told("misdirected", "listener=\"a\"").await;
    });
}

#[test]
fn a_host_that_no_listener_has_is_not_found_rather_than_misdirected() {
    run(async |world| {
        let ca = TestCa::new("test");
        let https = terminating(ListenerProtocol::Https, "a", Some("a.example"), "cert");
        let rig = Rig::new(world, vec![https]).await;
        rig.certificate("cert", ca.pem(&["a.example"]));
        let stream = rig.connect_tls((&ca, "a.example"), Carries::Http1).await.unwrap();
        let mut client = Client::http1_over(stream).await;
        assert_eq!(client.send(get("b.example", "/")).await.status, StatusCode::NOT_FOUND);
        // Nor is there a listener for such a connection.
        assert!(rig.connect_tls((&ca, "b.example"), Carries::Http1).await.is_err());
        world.told("no_sni_match", "reporter=\"gateway\"").await;
    });
}

#[test]
fn a_new_certificate_is_shown_from_the_next_connection_on_and_ends_none() {
    run(async |world| {
        let (old, new) = (TestCa::new("old"), TestCa::new("new"));
        let app = App::echo("one").await;
        world.endpoints("one", &[&app]);
        let https = terminating(ListenerProtocol::Https, "any", None, "cert");
        let rig = Rig::new(world, vec![https]).await;
        rig.attach("r", "any", &[], vec![rule(vec![backend("one", 1)])]);
        assert!(rig.connect_tls((&old, "a.example"), Carries::Http1).await.is_err(), "no certificate yet");
        rig.certificate("cert", old.pem(&["a.example"]));
        let stream = rig.connect_tls((&old, "a.example"), Carries::Http1).await.unwrap();
        let mut client = Client::http1_over(stream).await;
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::OK);
        rig.certificate("cert", new.pem(&["a.example"]));
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::OK);
        assert!(rig.connect_tls((&old, "a.example"), Carries::Http1).await.is_err());
        let stream = rig.connect_tls((&new, "a.example"), Carries::Http1).await.unwrap();
        let mut client = Client::http1_over(stream).await;
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::OK);
    });
}

#[test]
fn plain_http_is_never_served_by_a_listener_of_https() {
    run(async |world| {
        let app = App::echo("one").await;
        world.endpoints("one", &[&app]);
        let rig = Rig::new(world, vec![listener("any", None)]).await;
        rig.attach("r", "any", &[], vec![rule(vec![backend("one", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::OK);
        rig.listeners(vec![terminating(ListenerProtocol::Https, "any", None, "cert")]);
        assert_eq!(client.send(get("a.example", "/")).await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn on_one_port_tls_ends_here_or_goes_on_by_server_name() {
    run(async |world| {
        let (own, theirs) = (TestCa::new("own"), TestCa::new("theirs"));
        let plain = App::greeting("plain", None).await;
        let secure = App::greeting("their", Some(serving(&theirs.pem(&["p.example"])))).await;
        world.endpoints("plain", &[&plain]);
        world.endpoints("secure", &[&secure]);
        let ends = terminating(ListenerProtocol::Tls, "ends", Some("t.example"), "cert");
        let rig = Rig::new(world, vec![ends, passing("goes", Some("*.example"))]).await;
        rig.certificate("cert", own.pem(&["t.example"]));
        rig.attach_kind(RouteKind::Tls, "one", ("ends", &["t.example"]), tls_rule("plain"));
        rig.attach_kind(RouteKind::Tls, "two", ("goes", &["p.example"]), tls_rule("secure"));
        for (ca, name, greeting) in [(&own, "t.example", "plain"), (&theirs, "p.example", "their")] {
            let mut stream = rig.connect_tls((ca, name), Carries::Bytes).await.unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, greeting.as_bytes());
            stream.write_all(b"hello").await.unwrap();
            stream.flush().await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
        }
        assert!(rig.connect_tls((&theirs, "q.example"), Carries::Bytes).await.is_err());
        world.told("no_route_match", "listener=\"goes\"").await;
    });
}

#[test]
fn tcp_goes_to_the_backend_of_the_one_route() {
    run(async |world| {
        let app = App::greeting("hello", None).await;
        world.endpoints("one", &[&app]);
        let tcp = weft_model::gateway::Listener { protocol: ListenerProtocol::Tcp, ..listener("tcp", None) };
        let rig = Rig::new(world, vec![tcp]).await;
        assert_eq!(rig.connect().await.read(&mut [0; 5]).await.unwrap_or(0), 0, "no route: reset");
        rig.attach_kind(RouteKind::Tcp, "r", ("tcp", &[]), tcp_rule("one"));
        let mut heard = [0; 5];
        rig.connect().await.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        world.told("ok", "listener=\"tcp\"").await;
    });
}

#[test]
fn backends_are_called_by_tls_as_their_policy_says_and_never_without() {
    run(async |world| {
        let ca = TestCa::new("backends");
        let app = App::echo_tls("one", serving(&ca.pem(&["b.example"]))).await;
        world.endpoints("one", &[&app]);
        let rig = Rig::new(world, vec![listener("http", None)]).await;
        rig.attach("r", "http", &[], vec![rule(vec![backend("one", 1)])]);
        let mut client = Client::http1_over(rig.connect().await).await;
        policy(world, "one", "b.example", &ca);
        assert_eq!(client.send(get("a.example", "/")).await.line("app"), "one");
        world.told("ok", "security=\"tls\"").await;
        let grpc = || {
            let request = Request::post("http://a.example/x.Y/Z").header("content-type", "application/grpc");
            request.header("te", "trailers").version(http::Version::HTTP_2).body(Full::from("m")).unwrap()
        };
        let mut over_http2 = Client::http2_over(rig.connect().await).await;
        assert_eq!(over_http2.send(grpc()).await.line("app"), "one");
        for (hostname, roots) in [("wrong.example", &ca), ("b.example", &TestCa::new("others"))] {
            policy(world, "one", hostname, roots);
            let answer = client.send(get("a.example", "/")).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{hostname}");
            assert_eq!(over_http2.send(grpc()).await.header("grpc-status"), "14");
        }
        world.told("tls_failed", "security=\"tls\"").await;
    });
}

#[test]
fn ended_tls_goes_on_by_the_backends_own() {
    run(async |world| {
        let (own, theirs) = (TestCa::new("own"), TestCa::new("theirs"));
        let app = App::greeting("hello", Some(serving(&theirs.pem(&["b.example"])))).await;
        world.endpoints("one", &[&app]);
        policy(world, "one", "b.example", &theirs);
        let ends = terminating(ListenerProtocol::Tls, "ends", None, "cert");
        let rig = Rig::new(world, vec![ends]).await;
        rig.certificate("cert", own.pem(&["t.example"]));
        rig.attach_kind(RouteKind::Tls, "one", ("ends", &["t.example"]), tls_rule("one"));
        let mut stream = rig.connect_tls((&own, "t.example"), Carries::Bytes).await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    });
}

#[test]
fn a_key_is_not_shown_by_the_admin_server() {
    run(async |world| {
        let rig = Rig::new(world, vec![]).await;
        let pem = TestCa::new("test").pem(&["a"]);
        rig.certificate("cert", pem);
        let shown = world.worker.shared.snapshot.load().describe("Certificate/").to_string();
        assert!(shown.contains("shop/cert") && shown.contains("(not shown)"), "{shown}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    });
}
