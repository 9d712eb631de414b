//! Consumer and producer routes, kinds, ports, server names (GEP-1294).

use std::sync::Arc;

use weft_model::ObjectName;
use weft_model::route::{Parent, Route, RouteKind, Rules, TcpRule, TlsRule};
use weft_model::service::PortProtocol;

use super::{backend, grpc, http, prefix, route, rule, service};
use crate::{PortRoutes, ServicePortRoutes, Table, TlsTable};

fn compile(routes: &[Arc<Route>]) -> Option<ServicePortRoutes> {
    ServicePortRoutes::compile(&service(), PortProtocol::Tcp, 80, routes)
}

fn simple(name: &str) -> Arc<Route> {
    http(name, 1, vec![rule(name, vec![prefix("/")])])
}

fn rules_of(set: Option<&PortRoutes>) -> Vec<String> {
    match set.map(|set| &set.table) {
        Some(Table::Http(table)) => table.entries.iter().map(|entry| entry.rule.label()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_port_without_routes_is_forwarded_plainly() {
    assert!(compile(&[]).is_none());
    let other_port = Parent { service: service(), port: 8080, explicit_port: true };
    let route = Arc::new(Route { parents: vec![other_port], ..(*simple("shop/a")).clone() });
    assert!(compile(&[route]).is_none());
    assert!(
        ServicePortRoutes::compile(
            &ObjectName::new("shop", "other"),
            PortProtocol::Tcp,
            80,
            &[simple("shop/a")]
        )
        .is_none()
    );
}

#[test]
fn producer_routes_hold_for_every_client() {
    let routes = compile(&[simple("shop/a")]).unwrap();
    for client in ["shop", "web", "other"] {
        assert!(routes.select_set(client).is_some());
    }
}

#[test]
fn consumer_routes_hold_only_for_clients_of_their_namespace_and_alone() {
    let routes = compile(&[simple("shop/producer"), simple("web/consumer")]).unwrap();
    assert_eq!(rules_of(routes.select_set("web")), ["HTTPRoute/web/consumer/web/consumer"]);
    assert_eq!(rules_of(routes.select_set("shop")), ["HTTPRoute/shop/producer/shop/producer"]);
    assert_eq!(rules_of(routes.select_set("other")), ["HTTPRoute/shop/producer/shop/producer"]);
}

#[test]
fn without_a_producer_route_other_namespaces_are_forwarded_plainly() {
    let routes = compile(&[simple("web/consumer")]).unwrap();
    assert!(routes.select_set("web").is_some());
    assert!(routes.select_set("shop").is_none());
}

fn tcp(name: &str, created: i64) -> Arc<Route> {
    let rule = TcpRule { name: Some(name.into()), backends: vec![backend(1)], refusal: None };
    route(RouteKind::Tcp, name, created, Rules::Tcp(vec![rule]))
}

fn tls(name: &str, created: i64, hostnames: &[&str]) -> Arc<Route> {
    let hostnames = hostnames.iter().map(|hostname| (*hostname).into()).collect();
    let rule = TlsRule { name: Some(name.into()), hostnames, backends: vec![backend(1)], refusal: None };
    route(RouteKind::Tls, name, created, Rules::Tls(vec![rule]))
}

#[test]
fn the_strongest_kind_wins_on_a_port() {
    let grpc =
        route(RouteKind::Grpc, "shop/g", 9, Rules::Http(vec![rule("g", vec![grpc(None, None, false)])]));
    let mut routes = vec![tcp("shop/t", 1), tls("shop/s", 2, &["a.b"]), simple("shop/h"), grpc];
    for kind in [RouteKind::Grpc, RouteKind::Http, RouteKind::Tls, RouteKind::Tcp] {
        assert_eq!(compile(&routes).unwrap().select_set("shop").unwrap().kind, kind);
        routes.pop();
    }
}

#[test]
fn routes_of_udp_and_of_tcp_with_one_number_know_nothing_of_each_other() {
    let rule = TcpRule { name: Some("u".into()), backends: vec![backend(1)], refusal: None };
    let routes =
        [simple("shop/h"), route(RouteKind::Udp, "shop/u", 1, Rules::Udp(vec![rule])), tcp("web/t", 1)];
    let of = |protocol, namespace| {
        let compiled = ServicePortRoutes::compile(&service(), protocol, 80, &routes)?;
        compiled.select_set(namespace).map(|set| set.kind)
    };
    assert_eq!(of(PortProtocol::Tcp, "shop"), Some(RouteKind::Http));
    assert_eq!(of(PortProtocol::Tcp, "web"), Some(RouteKind::Tcp));
    assert_eq!(of(PortProtocol::Udp, "web"), Some(RouteKind::Udp));
    let compiled = ServicePortRoutes::compile(&service(), PortProtocol::Udp, 80, &routes).unwrap();
    let Table::Tcp(table) = &compiled.select_set("shop").unwrap().table else { panic!() };
    assert_eq!(table.rule().label(), "UDPRoute/shop/u/u");
}

#[test]
fn kinds_are_judged_within_a_set() {
    let routes = compile(&[simple("shop/h"), tcp("web/t", 1)]).unwrap();
    assert_eq!(routes.select_set("web").unwrap().kind, RouteKind::Tcp);
    assert_eq!(routes.select_set("shop").unwrap().kind, RouteKind::Http);
}

#[test]
fn a_set_is_explicit_if_one_route_names_the_port() {
    let implicit = |name: &str| {
        let parents = vec![Parent { service: service(), port: 80, explicit_port: false }];
        Arc::new(Route { parents, ..(*simple(name)).clone() })
    };
    let set = |routes: &[Arc<Route>]| compile(routes).unwrap().select_set("shop").unwrap().explicit_port;
    assert!(!set(&[implicit("shop/a")]));
    assert!(set(&[implicit("shop/a"), simple("shop/b")]));
    // A consumer route that names it says nothing about the producer's.
    assert!(!set(&[implicit("shop/a"), simple("web/b")]));
}

#[test]
fn the_oldest_tcproute_counts() {
    let routes = compile(&[tcp("shop/young", 2), tcp("shop/old", 1)]).unwrap();
    let Table::Tcp(table) = &routes.select_set("shop").unwrap().table else { panic!() };
    assert_eq!(table.rule().name.as_deref(), Some("shop/old"));
    assert!(table.rule().next_backend().is_some());
}

#[test]
fn server_names_match_exactly_then_by_the_longest_wildcard_else_not_at_all() {
    let routes = [
        tls("shop/wide", 1, &["*.example.com"]),
        tls("shop/narrow", 2, &["*.b.example.com"]),
        tls("shop/exact", 3, &["a.b.example.com"]),
        tls("shop/late", 4, &["a.b.example.com", "only.late"]),
    ];
    let table = TlsTable::compile(&routes);
    for (name, expected) in [
        (Some("a.b.example.com"), Some("shop/exact")),
        (Some("A.B.Example.com"), Some("shop/exact")),
        (Some("x.b.example.com"), Some("shop/narrow")),
        (Some("x.y.b.example.com"), Some("shop/narrow")),
        (Some("b.example.com"), Some("shop/wide")),
        (Some("example.com"), None),
        (Some("xexample.com"), None),
        (Some(".example.com"), None),
        (Some("only.late"), Some("shop/late")),
        (Some(""), None),
        (None, None),
    ] {
        let found = table.select(name).map(|rule| rule.name.as_deref().unwrap());
        assert_eq!(found, expected, "{name:?}");
    }
    assert_eq!(table.hostnames().len(), 4);
}
