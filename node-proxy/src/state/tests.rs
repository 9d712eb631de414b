//! Snapshots: what an address is, what a change touches, and waiting for news.

use std::net::Ipv4Addr;
use tokio::time::Instant;

use weft_api::delta::Change;
use weft_api::node::Destinations;
use weft_model::gateway::{BackendRoots, BackendTls, ShownCertificate};
use weft_model::route::{Backend, BackendTarget, Parent, RouteId, RouteKind, Rules, TcpRule};
use weft_model::service::{NodePort, ServicePort};
use weft_model::session::{SessionCarrier, SessionPersistence};
use weft_model::traffic::{BackendTraffic, RetryConstraint};
use weft_model::workload::MtlsMode;
use weft_model::{Resource, ResourceName, TrustDomain};

use super::*;
use crate::pod::LocalPod;
use crate::scope::Ends;

fn empty() -> Snapshot {
    Snapshot::empty(Arc::default(), SameNode::Direct)
}

fn set(resource: Resource) -> Change {
    Change::Set(resource.name(), Arc::new(resource))
}

fn mesh() -> Change {
    set(Resource::MeshConfig(MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
    }))
}

fn service(name: &str, address: &str, ports: &[u16]) -> Change {
    let port = |port: &u16| ServicePort { port: *port, name: None, protocol: AppProtocol::Http };
    set(Resource::Service(Service {
        addresses: vec![address.parse().unwrap()],
        ports: ports.iter().map(port).collect(),
        ..Service::new(ObjectName::new("shop", name))
    }))
}

fn pod(uid: &str, address: &str, protocol: WorkloadProtocol) -> Change {
    set(Resource::Workload(Workload {
        uid: uid.into(),
        pod: ObjectName::new("shop", uid),
        workload: uid.into(),
        node: "node-b".into(),
        addresses: vec![address.parse().unwrap()],
        identity: "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
        protocol,
        mtls: MtlsMode::Strict,
        plaintext_ports: Default::default(),
        proxy_source_ports: Default::default(),
        filtered_by: None,
        refuses_udp: false,
        transition: None,
    }))
}

fn tcp_route(name: &str, ports: &[u16], backend: &str) -> Change {
    let service = ObjectName::new("shop", "cart");
    let target = BackendTarget::Service {
        service: ObjectName::new("shop", backend),
        port: 80,
        protocol: AppProtocol::Unspecified,
    };
    let backends = vec![Backend { weight: 1, target, filters: Vec::new() }];
    set(Resource::Route(Route {
        id: RouteId { kind: RouteKind::Tcp, name: ObjectName::new("shop", name) },
        generation: 1,
        created: 1,
        parents: ports
            .iter()
            .map(|port| Parent { service: service.clone(), port: *port, explicit_port: true })
            .collect(),
        listeners: Vec::new(),
        for_gateways: false,
        rules: Rules::Tcp(vec![TcpRule { name: None, backends, refusal: None }]),
    }))
}

fn is(snapshot: &Snapshot, address: &str) -> String {
    match snapshot.destination(address.parse().unwrap()) {
        Destination::Service { service, port, .. } => format!("service {} {port}", service.name),
        Destination::Workload { workload, port } => format!("workload {} {port}", workload.uid),
        Destination::Unknown => "unknown".to_owned(),
        Destination::External => "external".to_owned(),
    }
}

#[test]
fn an_address_is_a_service_a_pod_unknown_or_outside() {
    let pods = [pod("a", "10.244.0.1", WorkloadProtocol::Tunnel)];
    let changes = [mesh(), service("cart", "10.96.0.1", &[80])];
    let snapshot = empty().apply(1, changes.into_iter().chain(pods));
    assert_eq!(is(&snapshot, "10.96.0.1:80"), "service shop/cart 80");
    assert_eq!(is(&snapshot, "[::ffff:10.96.0.1]:80"), "service shop/cart 80");
    assert_eq!(is(&snapshot, "10.96.0.1:81"), "unknown");
    assert_eq!(is(&snapshot, "10.244.0.1:81"), "workload a 81");
    assert_eq!(is(&snapshot, "10.244.0.2:81"), "unknown");
    assert_eq!(is(&snapshot, "192.0.2.1:81"), "external");
}

#[test]
fn nothing_is_outside_before_the_controller_has_spoken() {
    assert!(!empty().is_configured());
    assert_eq!(is(&empty(), "192.0.2.1:81"), "unknown");
}

#[test]
fn an_address_that_passed_to_another_survives_the_removal_of_the_first() {
    let first = empty().apply(
        1,
        [mesh(), pod("old", "10.244.0.1", WorkloadProtocol::Tunnel), service("old", "10.96.0.1", &[80])],
    );
    let second = first
        .apply(2, [pod("new", "10.244.0.1", WorkloadProtocol::Tunnel), service("new", "10.96.0.1", &[80])]);
    let names = ["Workload/old", "Service/shop/old"];
    let third = second.apply(3, names.map(|name| Change::Removed(ResourceName(name.into()))));
    assert_eq!(is(&third, "10.244.0.1:1"), "workload new 1");
    assert_eq!(is(&third, "10.96.0.1:80"), "service shop/new 80");
    assert_eq!(is(&first, "10.244.0.1:1"), "workload old 1");
}

#[test]
fn a_changed_service_loses_the_ports_it_no_longer_has() {
    let first = empty().apply(1, [mesh(), service("cart", "10.96.0.1", &[80, 81])]);
    let second = first.apply(2, [service("cart", "10.96.0.1", &[80])]);
    assert_eq!(is(&second, "10.96.0.1:81"), "unknown");
    assert_eq!(is(&second, "10.96.0.1:80"), "service shop/cart 80");
    let at = |snapshot: &Snapshot| snapshot.service_at([10, 96, 0, 1].into()).map(|s| s.name.to_string());
    assert_eq!(at(&second).as_deref(), Some("shop/cart"));
    // The address passes to another Service before the first one is gone.
    let third = second.apply(3, [service("web", "10.96.0.1", &[90])]);
    let fourth = third.apply(4, [Change::Removed(ResourceName("Service/shop/cart".into()))]);
    assert_eq!(at(&fourth).as_deref(), Some("shop/web"));
    assert_eq!(at(&fourth.apply(5, [Change::Removed(ResourceName("Service/shop/web".into()))])), None);
}

#[test]
fn a_route_of_any_namespace_goes_when_it_is_removed() {
    let moved = |change: Change| match change {
        Change::Set(_, resource) => {
            let Resource::Route(mut route) = Resource::clone(&resource) else { panic!("a route") };
            route.id.name = ObjectName::new("at", "one");
            set(Resource::Route(route))
        }
        other => other,
    };
    let first = empty().apply(1, [mesh(), moved(tcp_route("one", &[80], "a"))]);
    let cart = ObjectName::new("shop", "cart");
    assert!(first.routes(&cart, 80).is_some());
    let second = first.apply(2, [Change::Removed(ResourceName("Route/TCPRoute/at/one".into()))]);
    assert!(second.routes(&cart, 80).is_none());
}

fn backend_of(snapshot: &Snapshot, port: u16) -> Option<String> {
    let routes = snapshot.routes(&ObjectName::new("shop", "cart"), port)?;
    let weft_routing::Table::Tcp(table) = &routes.select_set("shop")?.table else { return None };
    match &table.rule().next_backend()?.target {
        BackendTarget::Service { service, .. } => Some(service.name.to_string()),
        BackendTarget::Invalid { .. } => None,
    }
}

#[test]
fn a_route_change_rebuilds_the_ports_it_has_and_had_and_no_other() {
    let first = empty().apply(1, [mesh(), tcp_route("one", &[80, 81], "a"), tcp_route("two", &[90], "b")]);
    assert_eq!(backend_of(&first, 80).as_deref(), Some("a"));
    let second = first.apply(2, [tcp_route("one", &[81, 82], "c")]);
    assert_eq!(backend_of(&second, 80), None);
    assert_eq!(backend_of(&second, 81).as_deref(), Some("c"));
    assert_eq!(backend_of(&second, 82).as_deref(), Some("c"));
    let cart = ObjectName::new("shop", "cart");
    assert!(Arc::ptr_eq(first.routes(&cart, 90).unwrap(), second.routes(&cart, 90).unwrap()));
    let third = second.apply(3, [Change::Removed(ResourceName("Route/TCPRoute/shop/one".into()))]);
    assert_eq!(backend_of(&third, 81), None);
    assert_eq!(backend_of(&third, 90).as_deref(), Some("b"));
}

#[test]
fn what_could_not_be_read_is_forgotten_so_that_it_is_refused() {
    let first = empty().apply(1, [mesh(), service("cart", "10.96.0.1", &[80])]);
    let name = ResourceName("Service/shop/cart".into());
    let second = first.apply(2, [Change::Refused { name, message: "no JSON".to_owned() }]);
    assert_eq!(is(&second, "10.96.0.1:80"), "unknown");
}

#[test]
fn only_mesh_pods_are_reached_by_tunnel() {
    let snapshot = empty().apply(
        1,
        [
            pod("mesh", "10.244.0.1", WorkloadProtocol::Tunnel),
            pod("plain", "10.244.0.2", WorkloadProtocol::Plaintext),
        ],
    );
    let source = snapshot.workload("mesh");
    let way = |uid: &str| snapshot.transport_to(snapshot.workload(uid).as_deref(), source.as_deref());
    assert!(matches!(way("mesh"), Transport::Tunnel(_)));
    assert!(matches!(way("plain"), Transport::Plaintext));
    assert!(matches!(snapshot.transport_to(None, None), Transport::Plaintext));
}

#[test]
fn packets_pass_the_host_where_it_judges_them() {
    let local = |uid: &str| {
        let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let netns = weft_runtime::netns::NetNamespace::current().unwrap();
        Arc::new(LocalPod::new(crate::testing::enrolled(uid, &[]), identity, netns, &Ends::default()))
    };
    let pods = LocalPods::default().with(local("free")).with(local("other")).with(local("judged"));
    let judged = |change: Change| match change {
        Change::Set(name, resource) => {
            let Resource::Workload(mut workload) = Resource::clone(&resource) else { panic!("a pod") };
            workload.filtered_by = Some("NetworkPolicy shop/db".into());
            Change::Set(name, Arc::new(Resource::Workload(workload)))
        }
        other => other,
    };
    let mesh = |uid: &str, address: &str| pod(uid, address, WorkloadProtocol::Tunnel);
    let snapshot = Snapshot::empty(Arc::new(ArcSwap::from_pointee(pods)), SameNode::Direct).apply(
        1,
        [mesh("free", "10.244.0.1"), mesh("other", "10.244.0.2"), judged(mesh("judged", "10.244.0.3"))],
    );
    let short = |from: &str, to: &str| {
        let (from, to) = (snapshot.workload(from), snapshot.workload(to));
        matches!(snapshot.transport_to(to.as_deref(), from.as_deref()), Transport::SameNode(_))
    };
    assert!(short("free", "other"));
    assert!(!short("free", "judged"));
    assert!(!short("judged", "free"));
    assert!(!short("unknown", "free"));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_snapshot_that_knows_or_with_patience() {
    let state = Arc::new(State::new(empty().apply(1, [mesh()])));
    let address = SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), 80));
    let known = |snapshot: &Arc<Snapshot>| match snapshot.destination(address) {
        Destination::Unknown => None,
        known => Some(known),
    };
    let begun = Instant::now();
    assert!(state.find(Duration::from_secs(2), known).await.is_none());
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    let (writer, news) = (state.clone(), state.load().apply(2, [service("cart", "10.96.0.1", &[80])]));
    tokio::spawn(async move {
        // One that does not help comes first.
        writer.swap(Arc::new(writer.load().apply(1, [service("web", "10.96.0.2", &[80])])));
        tokio::time::sleep(Duration::from_millis(1500)).await;
        writer.swap(Arc::new(news));
    });
    let begun = Instant::now();
    assert!(matches!(state.find(Duration::from_secs(2), known).await, Some(Destination::Service { .. })));
    assert_eq!(begun.elapsed(), Duration::from_millis(1500));
    assert!(state.find(Duration::ZERO, known).await.is_some(), "what is known needs no wait");
}

fn udp_service(name: &str, address: &str) -> Change {
    set(Resource::Service(Service {
        addresses: vec![address.parse().unwrap(), "192.0.2.7".parse().unwrap()],
        ports: vec![ServicePort { port: 53, name: None, protocol: AppProtocol::Unspecified }],
        udp_ports: vec![53],
        node_ports: vec![
            NodePort { node_port: 30053, port: 53, protocol: PortProtocol::Udp },
            NodePort { node_port: 30054, port: 53, protocol: PortProtocol::Tcp },
        ],
        ..Service::new(ObjectName::new("shop", name))
    }))
}

fn node(name: &str, address: &str) -> Change {
    set(Resource::Node(Node { name: name.into(), zone: None, addresses: vec![address.parse().unwrap()] }))
}

fn udp_route(namespace: &str) -> Change {
    let parent = Parent { service: ObjectName::new("shop", "dns"), port: 53, explicit_port: true };
    set(Resource::Route(Route {
        id: RouteId { kind: RouteKind::Udp, name: ObjectName::new(namespace, "r") },
        generation: 1,
        created: 1,
        parents: vec![parent],
        listeners: Vec::new(),
        for_gateways: false,
        rules: Rules::Udp(vec![TcpRule { name: None, backends: Vec::new(), refusal: None }]),
    }))
}

#[test]
fn a_service_is_called_at_outside_addresses_and_at_the_ports_of_nodes() {
    let known = [mesh(), udp_service("dns", "10.96.0.10"), node("n1", "192.168.77.11")];
    let snapshot = empty().apply(1, known);
    assert_eq!(is(&snapshot, "192.0.2.7:53"), "service shop/dns 53");
    assert_eq!(is(&snapshot, "192.168.77.11:30054"), "service shop/dns 53");
    assert_eq!(is(&snapshot, "192.168.77.11:30053"), "external", "that one is UDP's");
    assert_eq!(is(&snapshot, "192.168.77.12:30054"), "external", "no node has the address");
    let udp = |snapshot: &Snapshot, at: &str| {
        let found = snapshot.udp_destination(at.parse().unwrap());
        found.map(|(service, port)| format!("{} {port}", service.name))
    };
    for at in ["10.96.0.10:53", "192.0.2.7:53", "192.168.77.11:30053"] {
        assert_eq!(udp(&snapshot, at).as_deref(), Some("shop/dns 53"), "{at}");
    }
    assert_eq!(udp(&snapshot, "192.168.77.11:30054"), None);
    let gone = ["Node/n1", "Service/shop/dns"].map(|name| Change::Removed(ResourceName(name.into())));
    let snapshot = snapshot.apply(2, gone);
    for at in ["10.96.0.10:53", "192.0.2.7:53", "192.168.77.11:30053"] {
        assert_eq!(udp(&snapshot, at), None, "{at}");
    }
}

#[test]
fn what_is_captured_besides_depends_on_whose_routes_there_are() {
    let known = [mesh(), udp_service("dns", "10.96.0.10"), node("n1", "192.168.77.11")];
    let snapshot = empty().apply(1, known);
    let (captured, more) = snapshot.captured("shop");
    let expected = Destinations {
        tcp: ["192.0.2.7:53".parse().unwrap()].into(),
        nodes: ["192.168.77.11".parse().unwrap()].into(),
        node_ports: [30054].into(),
        ..Destinations::default()
    };
    assert_eq!((&captured, more), (&expected, 0));
    // A consumer route.
    let snapshot = snapshot.apply(2, [udp_route("web")]);
    assert_eq!(snapshot.captured("shop").0, expected);
    let with_udp = Destinations {
        udp: ["10.96.0.10:53", "192.0.2.7:53"].map(|at| at.parse().unwrap()).into(),
        udp_node_ports: [30053].into(),
        ..expected
    };
    assert_eq!(snapshot.captured("web").0, with_udp);
}

#[test]
fn more_destinations_than_there_is_room_for_are_counted() {
    let ports: Vec<u16> = (1..=1_100).collect();
    let outside = service("many", "192.0.2.1", &ports);
    let (captured, more) = empty().apply(1, [mesh(), outside]).captured("shop");
    assert_eq!((captured.tcp.len(), more), (1_000, 100));
}

#[test]
fn the_budget_of_a_policy_is_counted_on_until_its_limits_change() {
    let (name, now) = (ObjectName::new("shop", "cart"), Instant::now());
    let stated = |percent: u32, session: bool| {
        let carrier = SessionCarrier::Header { name: "x-session".into() };
        let traffic = BackendTraffic {
            policy: ObjectName::new("shop", "cart"),
            retry: Some(RetryConstraint { percent, min_count: 1, ..RetryConstraint::default() }),
            session: session.then_some(SessionPersistence { carrier, absolute_timeout: None }),
        };
        let service = Service { traffic: Some(traffic), ..Service::new(name.clone()) };
        set(Resource::Service(service))
    };
    let takes = |snapshot: &Snapshot| {
        let budget = snapshot.traffic(&name).unwrap().budget().unwrap();
        (0..5).filter(|_| budget.take(now, false)).count()
    };
    let first = empty().apply(1, [stated(20, false)]);
    assert_eq!(takes(&first), 1);
    let with_session = first.apply(2, [stated(20, true)]);
    assert!(with_session.traffic(&name).unwrap().session().is_some());
    assert_eq!(takes(&with_session), 0, "the same budget");
    assert_eq!(takes(&with_session.apply(3, [stated(30, true)])), 1, "another one");
    let without = with_session.apply(4, [set(Resource::Service(Service::new(name.clone())))]);
    assert!(without.traffic(&name).is_none());
    let gone = with_session.apply(4, [Change::Removed(ResourceName("Service/shop/cart".into()))]);
    assert!(gone.traffic(&name).is_none());
}

#[test]
fn of_a_host_only_addresses_outside_the_cluster_are_endpoints() {
    let name = ObjectName::new("shop", "api");
    let api = set(Resource::Service(Service {
        ports: vec![ServicePort { port: 443, name: None, protocol: AppProtocol::Http }],
        host: Some("api.example".into()),
        ..Service::new(name.clone())
    }));
    let node = set(Resource::Node(Node {
        name: "node-b".into(),
        zone: None,
        addresses: vec!["198.51.100.1".parse().unwrap()],
    }));
    let balancer = service("cart", "198.51.100.2", &[80]);
    let stray = pod("stray", "198.51.100.3", WorkloadProtocol::Plaintext);
    let snapshot = empty().apply(1, [mesh(), api, node, balancer, stray]);
    assert_eq!(snapshot.hosts_to_look_up(), ["api.example".into()].into());
    let found = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let found = hosts::Found { addresses, trouble: None };
        snapshot.hosts().store(Arc::new([(Text::from("api.example"), found)].into_iter().collect()));
        let target = crate::outbound::route::Target::service(&snapshot, &name, 443, AppProtocol::Http);
        let addresses: Vec<String> = target.endpoints.iter().map(|one| one.address.to_string()).collect();
        (addresses.join(" "), target.refusal().message)
    };
    let none = String::new();
    let unlooked = crate::outbound::route::Target::service(&snapshot, &name, 443, AppProtocol::Http);
    assert!(unlooked.refusal().message.ends_with("api.example has not been looked up yet"));
    for inside in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "10.96.0.1",
        "10.244.0.1",
        "::ffff:10.96.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::10.96.0.1",
        "168.63.129.16",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd20:ce::254",
        "198.51.100.1",
        "198.51.100.2",
        "198.51.100.3",
    ] {
        let (endpoints, message) = found(&[inside]);
        assert_eq!(endpoints, none, "{inside}");
        assert!(message.contains("has no address outside the cluster"), "{message}");
    }
    assert_eq!(found(&["127.0.0.1", "203.0.113.1", "2001:db8::1"]).0, "203.0.113.1:443 [2001:db8::1]:443");
    assert_eq!(found(&[]).1, "Service shop/api has no endpoint: api.example has no address");
    let gone = snapshot.apply(2, [Change::Removed(ResourceName("Service/shop/api".into()))]);
    assert!(gone.hosts_to_look_up().is_empty());
}

#[test]
fn what_is_reached_by_tls_only_has_no_endpoint_while_nothing_is_known_of_its_tls() {
    let name = ObjectName::new("shop", "api");
    let api = set(Resource::Service(Service { tls_only: true, ..Service::new(name.clone()) }));
    let ports = [(443, vec![Endpoint::at(([203, 0, 113, 1], 443).into())])].into();
    let endpoints =
        set(Resource::Endpoints(Endpoints { service: name.clone(), ports, udp_ports: Default::default() }));
    let snapshot = empty().apply(1, [mesh(), api, endpoints]);
    let target = |snapshot: &Snapshot| {
        crate::outbound::route::Target::service(snapshot, &name, 443, AppProtocol::Http).endpoints.len()
    };
    assert_eq!(target(&snapshot), 0);
    let tls = set(Resource::BackendTls(BackendTls {
        service: name.clone(),
        port: 443,
        policy: name.clone(),
        hostname: "api.example".into(),
        subject_alt_names: Vec::new(),
        roots: BackendRoots::System,
        shown: ShownCertificate::None,
        in_mesh: true,
        refusal: None,
    }));
    assert_eq!(target(&snapshot.apply(2, [tls])), 1, "also where there is no Gateway");
}
