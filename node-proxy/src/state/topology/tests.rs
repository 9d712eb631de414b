//! Which endpoints a node's callers may choose from, case by case as kube-proxy has it.

use weft_model::ObjectName;
use weft_model::service::Hints;

use super::*;

const HERE: Place<'_> = Place { node: "node-1", zone: Some("a") };

/// An endpoint `n` written as `state@node/zone hints`, where state is `ready`, `ending` or `down`, and each hint `zone=x`
/// or `node=x`.
fn endpoint(n: usize, written: &str) -> Endpoint {
    let mut words = written.split(' ');
    let (state, at) = words.next().unwrap().split_once('@').unwrap();
    let (node, zone) = at.split_once('/').unwrap();
    let mut hints = Hints::default();
    for word in words {
        match word.split_once('=').unwrap() {
            ("zone", name) => hints.zones.push(name.into()),
            (_, name) => hints.nodes.push(name.into()),
        }
    }
    Endpoint {
        ready: state == "ready",
        terminating: state == "ending",
        node: Some(node.into()),
        zone: Some(zone.into()),
        hints,
        ..Endpoint::at(([10, 0, 0, u8::try_from(n).unwrap()], 80).into())
    }
}

fn chosen(policy: TrafficPolicy, place: Place<'_>, written: &[&str]) -> Vec<usize> {
    let endpoints: Vec<Endpoint> = written.iter().enumerate().map(|(n, one)| endpoint(n, one)).collect();
    let all = Endpoints {
        service: ObjectName::new("shop", "cart"),
        ports: [(80, endpoints.clone())].into(),
        udp_ports: [(80, endpoints)].into(),
    };
    let judged = judge(&Arc::new(all), policy, place);
    let of = |port: &Vec<Endpoint>| -> Vec<usize> {
        (0..).zip(port).filter(|(_, one)| one.ready).map(|(n, _)| n).collect()
    };
    let (tcp, udp) = (of(&judged.ports[&80]), of(&judged.udp_ports[&80]));
    assert_eq!(tcp, udp);
    tcp
}

#[test]
fn without_policy_and_hints_all_ready_ones_are_chosen_from() {
    let written = ["ready@node-1/a", "ready@node-2/b", "ending@node-1/a", "down@node-1/a"];
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &written), [0, 1]);
}

#[test]
fn terminating_ones_serve_only_where_no_other_is_ready() {
    let written = ["ending@node-1/a", "ending@node-2/b zone=b", "down@node-1/a"];
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &written), [0, 1]);
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &["ending@node-1/a", "ready@node-2/b"]), [1]);
}

#[test]
fn hints_for_zones_hold_if_every_ready_endpoint_has_one_and_one_is_for_this_zone() {
    let same = ["ready@node-1/a zone=a", "ready@node-2/a zone=a", "ready@node-3/b zone=b"];
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &same), [0, 1]);
    let one_without = ["ready@node-1/a zone=a", "ready@node-3/b"];
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &one_without), [0, 1]);
    let none_for_here = ["ready@node-2/b zone=b", "ready@node-3/c zone=c"];
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &none_for_here), [0, 1]);
    let no_zone = Place { zone: None, ..HERE };
    assert_eq!(chosen(TrafficPolicy::Cluster, no_zone, &same), [0, 1, 2]);
    // What is not ready has no say.
    let down = ["ready@node-1/a zone=a", "ready@node-3/b zone=b", "down@node-3/b", "ending@node-3/b"];
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &down), [0]);
    // A zone may be told to use another zone's.
    assert_eq!(
        chosen(TrafficPolicy::Cluster, HERE, &["ready@node-1/a zone=b", "ready@node-3/b zone=a"]),
        [1]
    );
}

#[test]
fn hints_for_nodes_come_before_those_for_zones() {
    let both = ["ready@node-1/a zone=a node=node-1", "ready@node-2/a zone=a node=node-2"];
    assert_eq!(chosen(TrafficPolicy::Cluster, HERE, &both), [0]);
    let elsewhere = Place { node: "node-3", zone: Some("a") };
    assert_eq!(chosen(TrafficPolicy::Cluster, elsewhere, &both), [0, 1]);
    let farther = Place { node: "node-3", zone: Some("b") };
    assert_eq!(chosen(TrafficPolicy::Cluster, farther, &both), [0, 1]);
}

#[test]
fn policy_local_never_leaves_the_node() {
    let written = ["ready@node-1/a", "ready@node-2/a", "ending@node-1/a"];
    assert_eq!(chosen(TrafficPolicy::Local, HERE, &written), [0]);
    let ending = ["ending@node-1/a", "ready@node-2/a", "ending@node-2/a"];
    assert_eq!(chosen(TrafficPolicy::Local, HERE, &ending), [0]);
    assert_eq!(chosen(TrafficPolicy::Local, HERE, &["ready@node-2/a", "down@node-1/a"]), [0; 0]);
}

#[test]
fn families_are_judged_apart() {
    let six = |one: Endpoint| Endpoint { address: ([0xfd00, 0, 0, 0, 0, 0, 0, 1], 80).into(), ..one };
    let endpoints = vec![
        endpoint(0, "ready@node-1/a zone=a"),
        endpoint(1, "ready@node-2/b zone=b"),
        six(endpoint(2, "ending@node-2/b")),
    ];
    let service = ObjectName::new("shop", "cart");
    let all = Endpoints { service, ports: [(80, endpoints)].into(), udp_ports: Default::default() };
    let judged = judge(&Arc::new(all), TrafficPolicy::Cluster, HERE);
    let ready: Vec<bool> = judged.ports[&80].iter().map(|one| one.ready).collect();
    assert_eq!(ready, [true, false, true]);
}
