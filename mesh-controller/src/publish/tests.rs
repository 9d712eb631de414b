//! What each node gets, and what it costs to change something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::route::{Parent, Route, RouteId, RouteKind, Rules};
use weft_model::service::Service;
use weft_model::{MeshConfig, ObjectName, Resource, ResourceName, TrustDomain};

use super::*;

fn mesh() -> Resource {
    Resource::MeshConfig(MeshConfig {
        trust_domain: TrustDomain("td".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    })
}

fn service(name: &str) -> Resource {
    Resource::Service(Service::new(ObjectName::new("shop", name)))
}

fn route(namespace: &str, name: &str, parents: &[&str]) -> Resource {
    let parent = |namespace: &&str| Parent {
        service: ObjectName::new(*namespace, "cart"),
        port: 80,
        explicit_port: true,
    };
    Resource::Route(Route {
        id: RouteId { kind: RouteKind::Tcp, name: ObjectName::new(namespace, name) },
        generation: 1,
        created: 0,
        parents: parents.iter().map(parent).collect(),
        listeners: Vec::new(),
        for_gateways: false,
        rules: Rules::Tcp(Vec::new()),
    })
}

fn nodes(of: &[(&str, &[&str])]) -> BTreeMap<Text, Node> {
    let node = |namespaces: &[&str]| Node {
        identities: BTreeSet::new(),
        namespaces: namespaces.iter().map(|n| Text::from(*n)).collect(),
    };
    of.iter().map(|(name, namespaces)| (Text::from(*name), node(namespaces))).collect()
}

fn table(resources: &[Resource]) -> BTreeMap<ResourceName, Resource> {
    resources.iter().map(|resource| (resource.name(), resource.clone())).collect()
}

fn publish(to: &mut Publisher, resources: &[Resource], on: &[(&str, &[&str])]) -> Option<Arc<Snapshot>> {
    to.publish(table(resources), &nodes(on), &BTreeMap::new()).unwrap()
}

fn names(snapshot: &Snapshot, node: &str) -> Vec<String> {
    snapshot.whole(&snapshot.needs(&Peer::Node(node.into()))).keys().map(ToString::to_string).collect()
}

#[test]
fn node_without_enrolled_pods_gets_nothing_but_the_mesh_config() {
    let mut publisher = Publisher::new(0);
    let all = [mesh(), service("cart"), route("shop", "r", &["shop"])];
    let snapshot = publish(&mut publisher, &all, &[("one", &["shop"])]).unwrap();
    assert_eq!(names(&snapshot, "two"), ["MeshConfig"]);
    assert_eq!(names(&snapshot, "one"), ["MeshConfig", "Route/TCPRoute/shop/r", "Service/shop/cart"]);
}

#[test]
fn consumer_routes_go_only_where_their_namespace_has_enrolled_pods() {
    let mut publisher = Publisher::new(0);
    let all = [mesh(), route("web", "consumer", &["shop"]), route("web", "both", &["shop", "web"])];
    let snapshot = publish(&mut publisher, &all, &[("one", &["shop"]), ("two", &["web"])]).unwrap();
    assert_eq!(names(&snapshot, "one"), ["MeshConfig", "Route/TCPRoute/web/both"]);
    assert_eq!(
        names(&snapshot, "two"),
        ["MeshConfig", "Route/TCPRoute/web/both", "Route/TCPRoute/web/consumer"]
    );
}

#[test]
fn what_gateways_obey_on_services_goes_to_no_node() {
    let mut obeyed = route("shop", "own", &["shop"]);
    if let Resource::Route(route) = &mut obeyed {
        route.for_gateways = true;
    }
    let all = [mesh(), route("shop", "own", &["shop"]), obeyed];
    let snapshot = publish(&mut Publisher::new(0), &all, &[("one", &["shop"])]).unwrap();
    assert_eq!(names(&snapshot, "one"), ["MeshConfig", "Route/TCPRoute/shop/own"]);
}

#[test]
fn changes_name_only_what_differs_from_the_version_before() {
    let mut publisher = Publisher::new(41);
    let on: &[(&str, &[&str])] = &[("one", &["shop"])];
    let first = publish(&mut publisher, &[mesh(), service("a"), service("b"), service("c")], on).unwrap();
    assert_eq!(first.version(), 42);
    assert!(
        first.changes(41, &first.needs(&Peer::Node("one".into()))).is_none(),
        "nothing was published before"
    );

    let consumer = route("web", "consumer", &["shop"]);
    let mut changed = service("b");
    if let Resource::Service(service) = &mut changed {
        service.addresses.push("10.0.0.1".parse().unwrap());
    }
    let second = publish(&mut publisher, &[mesh(), service("a"), changed, consumer], on).unwrap();
    let changes = second.changes(42, &second.needs(&Peer::Node("one".into()))).unwrap();
    let changes: BTreeMap<String, bool> =
        changes.into_iter().map(|(name, payload)| (name.to_string(), payload.is_some())).collect();
    let expected = [
        ("Route/TCPRoute/web/consumer".to_owned(), false),
        ("Service/shop/b".to_owned(), true),
        ("Service/shop/c".to_owned(), false),
    ];
    assert_eq!(changes, BTreeMap::from(expected));
    assert!(second.changes(41, &second.needs(&Peer::Node("one".into()))).is_none(), "a version was missed");
}

#[test]
fn same_translation_publishes_no_version_but_another_placement_of_pods_does() {
    let mut publisher = Publisher::new(0);
    let all = [mesh(), service("a")];
    assert!(publish(&mut publisher, &all, &[("one", &["shop"])]).is_some());
    assert!(publish(&mut publisher, &all, &[("one", &["shop"])]).is_none());
    let moved = publish(&mut publisher, &all, &[("two", &["shop"])]).unwrap();
    assert_eq!(names(&moved, "one"), ["MeshConfig"]);
    assert_eq!(names(&moved, "two"), ["MeshConfig", "Service/shop/a"]);
}
