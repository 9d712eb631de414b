//! Listeners and the routes attached to them: by table, and against a naive reading on random routes.

use std::cmp::Reverse;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};
use proptest::prelude::*;
use proptest::sample::select;
use weft_model::ObjectName;
use weft_model::gateway::{Attachment, Gateway, Listener, ListenerId, ListenerProtocol};
use weft_model::route::{HttpRule, Match, Route, RouteId, RouteKind, Rules};

use super::{exact, grpc, headers, prefix, rule};
use crate::host::host_name;
use crate::listener::ports_of;
use crate::{HttpTable, ListenerEntry, ListenerTable, PortTable};

fn gateway() -> ObjectName {
    ObjectName::new("infra", "front")
}

fn id(name: &str) -> ListenerId {
    ListenerId { listener_set: None, name: name.into() }
}

fn listener(name: &str, hostname: Option<&str>) -> Listener {
    Listener {
        id: id(name),
        port: 80,
        protocol: ListenerProtocol::Http,
        hostname: hostname.map(Into::into),
        tls: None,
        filters: vec![],
        service_routes: false,
        refusal: None,
        refused_without: vec![],
    }
}

fn route(kind: RouteKind, name: &str, hostnames: &[&str], rules: Rules) -> Arc<Route> {
    let hostnames = hostnames.iter().map(|hostname| (*hostname).into()).collect();
    let listeners = vec![Attachment { gateway: gateway(), listener: id("l"), hostnames }];
    let id = RouteId { kind, name: ObjectName::new("shop", name) };
    Arc::new(Route { id, generation: 1, created: 0, parents: vec![], listeners, for_gateways: false, rules })
}

fn http(name: &str, hostnames: &[&str], matches: Vec<Match>) -> Arc<Route> {
    route(RouteKind::Http, name, hostnames, Rules::Http(vec![rule(name, matches)]))
}

fn selected(routes: &[Arc<Route>], host: &str, path: &str, lines: &[(&str, &str)]) -> Option<String> {
    let table = ListenerTable::compile(&gateway(), &id("l"), routes);
    let uri: Uri = path.parse().unwrap();
    let selection = table.select(&host_name(host), &Method::POST, &uri, &headers(lines))?;
    Some(selection.rule.route.id.name.name.to_string())
}

#[test]
fn the_listener_with_the_most_specific_hostname_is_chosen() {
    let names = [None, Some("*.example"), Some("*.a.example"), Some("b.a.example")];
    let entries = names.iter().map(|hostname| {
        let listener = listener(hostname.unwrap_or("any"), *hostname);
        Arc::new(ListenerEntry { gateway: gateway(), listener, table: Arc::default() })
    });
    let port = PortTable::new(entries);
    for (host, expected) in [
        ("B.A.example:8080", "b.a.example"),
        ("c.a.example.", "*.a.example"),
        ("x.b.a.example", "*.a.example"),
        ("a.example", "*.example"),
        ("example", "any"),
        ("", "any"),
        ("[2001:db8::1]:80", "any"),
    ] {
        assert_eq!(&*port.listener(&host_name(host)).unwrap().listener.id.name, expected, "{host}");
    }
    assert!(PortTable::default().listener("a").is_none());
}

#[test]
fn a_longer_hostname_goes_before_a_longer_path_and_what_it_does_not_match_falls_through() {
    let routes = [
        http("old", &["*.example"], vec![prefix("/path/prefix")]),
        http("new", &["abc.example"], vec![prefix("/path")]),
        http("any", &[], vec![prefix("/other")]),
    ];
    assert_eq!(selected(&routes, "abc.example", "/path/prefix/longer", &[]).unwrap(), "new");
    assert_eq!(selected(&routes, "x.example", "/path/prefix/longer", &[]).unwrap(), "old");
    assert_eq!(selected(&routes, "abc.example", "/other", &[]).unwrap(), "any");
    assert_eq!(selected(&routes, "abc.example", "/none", &[]), None);
    let routes =
        [http("old", &["*.example"], vec![exact("/b")]), http("new", &["abc.example"], vec![exact("/a")])];
    assert_eq!(selected(&routes, "abc.example", "/b", &[]).unwrap(), "old");
}

#[test]
fn of_one_hostname_grpc_requests_see_grpcroutes_first_and_others_not_at_all() {
    let grpc_rule = Rules::Http(vec![rule("g", vec![grpc(None, None, false)])]);
    let routes = [
        route(RouteKind::Grpc, "g", &["a.example"], grpc_rule),
        http("h", &["a.example"], vec![exact("/x.Y/Z")]),
        http("wild", &["*.example"], vec![prefix("/")]),
    ];
    let lines = [("content-type", "application/grpc")];
    assert_eq!(selected(&routes, "a.example", "/x.Y/Z", &lines).unwrap(), "g");
    assert_eq!(selected(&routes, "a.example", "/x.Y/Z", &[]).unwrap(), "h");
    assert_eq!(selected(&routes, "b.example", "/x.Y/Z", &lines).unwrap(), "wild");
}

#[test]
fn routes_of_other_listeners_and_gateways_do_not_count() {
    let routes = [http("r", &[], vec![prefix("/")])];
    for (gateway, listener) in [(ObjectName::new("infra", "other"), id("l")), (gateway(), id("other"))] {
        let table = ListenerTable::compile(&gateway, &listener, &routes);
        assert!(table.select("a", &Method::GET, &"/".parse().unwrap(), &HeaderMap::new()).is_none());
    }
}

#[test]
fn weights_are_kept_over_all_hostnames_of_a_route() {
    let backends = vec![super::backend(1), super::backend(1)];
    let rules = Rules::Http(vec![HttpRule { backends, ..rule("r", vec![prefix("/")]) }]);
    let routes = [route(RouteKind::Http, "r", &["a.example", "b.example"], rules)];
    let table = ListenerTable::compile(&gateway(), &id("l"), &routes);
    let rule = |host: &str| {
        let selection = table.select(host, &Method::GET, &"/".parse().unwrap(), &HeaderMap::new()).unwrap();
        Arc::clone(selection.rule)
    };
    assert!(Arc::ptr_eq(&rule("a.example"), &rule("b.example")));
}

#[test]
fn tcp_and_udp_ports_of_one_number_are_two() {
    let udp = Listener { protocol: ListenerProtocol::Udp, ..listener("udp", None) };
    let listeners = vec![listener("a", None), udp, listener("b", Some("b"))];
    let gateway = Gateway { name: gateway(), generation: 1, listeners, client_certificate: None };
    let ports: Vec<_> = ports_of(&gateway).into_iter().map(|(_, number, l)| (number, l.len())).collect();
    assert_eq!(ports, [(80, 2), (80, 1)]);
}

/// Whether a hostname as written covers a host.
fn covers(hostname: &str, host: &str) -> bool {
    match hostname.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => hostname == host,
    }
}

/// Every (route, hostname) that covers the host, the most specific first: exact, then more characters, then none.
fn naive(routes: &[Arc<Route>], host: &str, method: &Method, uri: &Uri) -> Option<(String, usize)> {
    let mut ranks: Vec<(bool, Reverse<usize>)> = Vec::new();
    let of = |route: &Route| -> Vec<(bool, Reverse<usize>)> {
        let names = &route.listeners[0].hostnames;
        if names.is_empty() {
            return vec![(true, Reverse(0))];
        }
        let covering = names.iter().filter(|name| covers(name, host));
        covering.map(|name| (name.starts_with('*'), Reverse(name.len()))).collect()
    };
    for route in routes {
        ranks.extend(of(route));
    }
    ranks.sort();
    ranks.dedup();
    ranks.into_iter().find_map(|rank| {
        // Among the routes of one hostname the order is that of a Service port.
        let same: Vec<_> = routes.iter().filter(|route| of(route).contains(&rank)).cloned().collect();
        let table = HttpTable::compile(&same);
        let selection = table.select(method, uri, &HeaderMap::new())?;
        Some((selection.rule.route.id.name.to_string(), selection.rule.index))
    })
}

fn hostnames() -> impl Strategy<Value = Vec<&'static str>> {
    let all = vec!["a.x", "b.a.x", "*.x", "*.a.x", "*.b.a.x", "x"];
    prop::collection::vec(select(all), 0..3)
}

fn routes() -> impl Strategy<Value = Vec<Arc<Route>>> {
    let path = select(vec!["/", "/a", "/a/b", "/b"]);
    let matched = (path, any::<bool>()).prop_map(|(path, e)| if e { exact(path) } else { prefix(path) });
    let rules = prop::collection::vec(prop::collection::vec(matched, 1..3), 1..3);
    prop::collection::vec((hostnames(), rules), 1..5).prop_map(|routes| {
        let of = |((hostnames, rules), name): ((Vec<&str>, Vec<Vec<Match>>), &str)| {
            let rules = rules.into_iter().map(|matches| rule("r", matches)).collect();
            route(RouteKind::Http, name, &hostnames, Rules::Http(rules))
        };
        routes.into_iter().zip(["d", "a", "c", "b"]).map(of).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn the_listeners_table_decides_as_the_specification_says(
        routes in routes(),
        host in select(vec!["x", "a.x", "b.a.x", "c.b.a.x", "c.x", "y"]),
        path in select(vec!["/", "/a", "/a/b", "/a/b/c", "/b", "/c"]),
    ) {
        let uri: Uri = path.parse().unwrap();
        let table = ListenerTable::compile(&gateway(), &id("l"), &routes);
        let found = table.select(host, &Method::GET, &uri, &HeaderMap::new());
        let found = found.map(|s| (s.rule.route.id.name.to_string(), s.rule.index));
        prop_assert_eq!(found, naive(&routes, host, &Method::GET, &uri));
    }
}
