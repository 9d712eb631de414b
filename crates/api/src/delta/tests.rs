//! The config stream between a publisher and a replica, without a wire.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_model::gateway::{Attachment, ListenerId};
use weft_model::name::ObjectName;
use weft_model::route::{Parent, Route, RouteId, RouteKind, Rules, TcpRule};
use weft_model::service::Service;

use super::*;
use crate::proto::{Ack, ConfigResponse};

type Table = BTreeMap<ResourceName, Payload>;

fn service(name: &str, addresses: &[&str]) -> Resource {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Resource::Service(Service { addresses, ..Service::new(ObjectName::new("shop", name)) })
}

fn route(kind: RouteKind, name: &str) -> Route {
    Route {
        id: RouteId { kind, name: ObjectName::new("shop", name) },
        generation: 1,
        created: 7,
        parents: vec![Parent { service: ObjectName::new("shop", "cart"), port: 80, explicit_port: true }],
        listeners: Vec::new(),
        for_gateways: false,
        rules: Rules::Tcp(vec![TcpRule { name: None, backends: vec![], refusal: None }]),
    }
}

fn table(resources: impl IntoIterator<Item = Resource>) -> Table {
    resources.into_iter().map(|resource| Payload::of(&resource).unwrap()).collect()
}

fn raw(name: &str, text: &str) -> (ResourceName, Payload) {
    raw_route(name, text, &[])
}

fn raw_route(name: &str, text: &str, parents: &[Parent]) -> (ResourceName, Payload) {
    let name = ResourceName(name.into());
    let payload = Payload::new(&name, text.as_bytes(), parents);
    (name, payload)
}

fn connect(replica: &mut Replica) -> Publisher {
    Publisher::hello(&replica.connect()).unwrap()
}

/// Carries messages to the replica and its answers back, until nothing is under way.
fn settle(publisher: &mut Publisher, replica: &mut Replica, messages: Vec<ConfigResponse>) -> Vec<Applied> {
    let mut all = Vec::new();
    let mut messages: std::collections::VecDeque<_> = messages.into();
    while let Some(message) = messages.pop_front() {
        if let Some(applied) = replica.apply(message).unwrap() {
            messages.extend(publisher.ack(applied.ack()).unwrap());
            all.push(applied);
        }
    }
    all
}

fn publish(publisher: &mut Publisher, replica: &mut Replica, version: u64, table: &Table) -> Vec<Applied> {
    let messages = publisher.publish(version, table).unwrap();
    settle(publisher, replica, messages)
}

/// What the replica holds is what the table says, and its digests say so.
fn assert_equal(replica: &Replica, table: &Table) {
    let held: BTreeMap<_, _> =
        replica.resources().map(|(name, resource)| (name.clone(), (**resource).clone())).collect();
    let wanted = table
        .iter()
        .map(|(name, payload)| (name.clone(), serde_json::from_slice::<Resource>(payload.bytes()).unwrap()));
    assert_eq!(held, wanted.collect());
    let mut digests = vec![0; BUCKETS];
    for (name, payload) in table {
        digests[bucket(name)] ^= payload.digest;
    }
    assert_eq!(replica.digests(), digests);
}

fn names(applied: &[Applied]) -> Vec<String> {
    let changes = applied.iter().flat_map(|applied| &applied.changes);
    changes
        .map(|change| match change {
            Change::Set(name, _) => format!("set {name}"),
            Change::Removed(name) => format!("removed {name}"),
            Change::Refused { name, .. } => format!("refused {name}"),
        })
        .collect()
}

#[test]
fn the_hash_is_the_one_written_down_for_ever() {
    let name = ResourceName("Service/shop/cart".into());
    assert_eq!(hash(&[b""]), 0xf52a_15e9_a9b5_e89b);
    assert_eq!((bucket(&name), digest(&name, b"{}")), (77, 0x6d48_9e04_e1ea_8b1d));
}

#[test]
fn names_spread_over_all_buckets() {
    let mut counts = vec![0; BUCKETS];
    for index in 0..25_600 {
        counts[bucket(&ResourceName(format!("Service/shop/cart-{index}").into()))] += 1;
    }
    assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
}

#[test]
fn only_differences_travel_after_the_first_publication() {
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let mut wanted = table([service("a", &[]), service("b", &[])]);
    let applied = publish(&mut publisher, &mut replica, 1, &wanted);
    assert_eq!(names(&applied), ["set Service/shop/a", "set Service/shop/b"]);
    wanted.extend(table([service("a", &["10.0.0.1"]), service("c", &[])]));
    wanted.remove(&service("b", &[]).name());
    let messages = publisher.publish(2, &wanted).unwrap();
    assert_eq!((messages.len(), messages[0].upserts.len(), messages[0].removals.len()), (1, 2, 1));
    let applied = settle(&mut publisher, &mut replica, messages);
    assert_eq!(names(&applied), ["removed Service/shop/b", "set Service/shop/a", "set Service/shop/c"]);
    assert_equal(&replica, &wanted);
    assert_eq!(publisher.publish(3, &wanted).unwrap(), []);
    assert_eq!((publisher.in_force(), replica.version()), (3, 2));
}

#[test]
fn an_empty_first_publication_still_says_complete() {
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let applied = publish(&mut publisher, &mut replica, 5, &Table::new());
    assert_eq!((applied.len(), replica.version(), publisher.in_force()), (1, 5, 5));
}

#[test]
fn a_proxy_that_comes_back_is_sent_only_the_buckets_that_differ() {
    let mut replica = Replica::default();
    let resources: Vec<_> = (0..2000).map(|index| service(&format!("s{index}"), &[])).collect();
    let mut wanted = table(resources);
    let mut first = connect(&mut replica);
    publish(&mut first, &mut replica, 1, &wanted);
    let changed = service("s77", &["10.0.0.7"]);
    wanted.extend(table([changed.clone()]));
    let mut second = connect(&mut replica);
    let messages = second.publish(1, &wanted).unwrap();
    let sent: usize = messages.iter().map(|message| message.upserts.len()).sum();
    assert!(sent < 40, "{sent} of 2000 were sent");
    let applied = settle(&mut second, &mut replica, messages);
    assert_eq!(names(&applied), ["set Service/shop/s77"], "unchanged resources of the bucket are no changes");
    assert_equal(&replica, &wanted);
}

#[test]
fn a_resource_that_vanished_while_the_proxy_was_away_is_removed() {
    let mut replica = Replica::default();
    let mut wanted = table([service("a", &[]), service("b", &[])]);
    publish(&mut connect(&mut replica), &mut replica, 1, &wanted);
    wanted.remove(&service("a", &[]).name());
    let applied = publish(&mut connect(&mut replica), &mut replica, 1, &wanted);
    assert_eq!(names(&applied), ["removed Service/shop/a"]);
    assert_equal(&replica, &wanted);
}

#[test]
fn large_publications_are_cut_and_applied_whole() {
    let filler = "x".repeat(300_000);
    let big = (0..10).map(|index| service(&format!("{filler}{index}"), &[]));
    let wanted = table(big);
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let messages = publisher.publish(1, &wanted).unwrap();
    assert!(messages.len() > 3);
    for message in &messages {
        assert!(prost::Message::encoded_len(message) <= MAX_MESSAGE + 2048);
    }
    let completes: Vec<_> = messages.iter().map(|message| message.complete).collect();
    assert!(completes.iter().rev().skip(1).all(|complete| !complete) && completes.last() == Some(&true));
    let before_last = messages.len() - 1;
    for message in &messages[..before_last] {
        assert_eq!(replica.apply(message.clone()).unwrap(), None);
    }
    assert_eq!(replica.resources().count(), 0, "half a publication is in force");
    settle(&mut publisher, &mut replica, messages[before_last..].to_vec());
    assert_equal(&replica, &wanted);
}

#[test]
fn a_resource_larger_than_a_message_travels_alone() {
    let huge = "x".repeat(2 * MAX_MESSAGE);
    let wanted = table([service("a", &[]), service(&huge, &[]), service("z", &[])]);
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let messages = publisher.publish(1, &wanted).unwrap();
    assert_eq!(messages.iter().map(|message| message.upserts.len()).collect::<Vec<_>>(), [1, 1, 1]);
    settle(&mut publisher, &mut replica, messages);
    assert_equal(&replica, &wanted);
}

#[test]
fn a_publication_cut_off_in_the_middle_leaves_no_trace() {
    let filler = "x".repeat(600_000);
    let wanted = table([service(&format!("{filler}1"), &[]), service(&format!("{filler}2"), &[])]);
    let mut replica = Replica::default();
    let messages = connect(&mut replica).publish(1, &wanted).unwrap();
    replica.apply(messages[0].clone()).unwrap();
    let other = table([service("other", &[])]);
    publish(&mut connect(&mut replica), &mut replica, 1, &other);
    assert_equal(&replica, &other);
}

#[test]
fn changes_wait_while_the_window_is_full_and_are_sent_once() {
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let at = |address: &str| table([service("a", &[address])]);
    let mut sent = publisher.publish(1, &at("10.0.0.1")).unwrap();
    sent.extend(publisher.publish(2, &at("10.0.0.2")).unwrap());
    assert_eq!(sent.len(), 2);
    for version in 3..100 {
        let changes = table([service("a", &[&format!("10.0.0.{version}")])]);
        let changes = changes.into_iter().map(|(name, payload)| (name, Some(payload)));
        assert_eq!(publisher.publish_changes(version, changes).unwrap(), []);
    }
    assert_eq!(publisher.in_force(), 0);
    let applied = settle(&mut publisher, &mut replica, sent);
    assert_eq!(applied.iter().map(|applied| applied.version).collect::<Vec<_>>(), [1, 2, 99]);
    assert_equal(&replica, &at("10.0.0.99"));
    assert_eq!(publisher.in_force(), 99);
}

#[test]
fn a_change_taken_back_while_it_waits_is_not_sent() {
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let empty = publisher.publish(1, &Table::new()).unwrap();
    let one = publisher.publish(2, &table([service("a", &[])])).unwrap();
    assert_eq!(publisher.publish(3, &table([service("a", &[]), service("b", &[])])).unwrap(), []);
    assert_eq!(publisher.publish_changes(4, [(service("b", &[]).name(), None)]).unwrap(), []);
    let applied = settle(&mut publisher, &mut replica, [empty, one].concat());
    assert_eq!(applied.len(), 2);
    assert_eq!(publisher.in_force(), 4);
}

#[test]
fn the_rules_of_the_stream_are_checked() {
    assert_eq!(Publisher::hello(&[0; 3]).unwrap_err(), DeltaError::Digests(3));
    let mut publisher = Publisher::hello(&[]).unwrap();
    assert_eq!(publisher.publish_changes(1, []).unwrap_err(), DeltaError::NothingPublished(1));
    assert!(publisher.publish(0, &Table::new()).is_err());
    publisher.publish(5, &Table::new()).unwrap();
    assert_eq!(publisher.publish(4, &Table::new()).unwrap_err(), DeltaError::Version { last: 5, new: 4 });
    for version in [4, 6] {
        let ack = Ack { version, rejections: vec![] };
        assert_eq!(publisher.ack(ack).unwrap_err(), DeltaError::UnexpectedAck(version));
    }
    publisher.ack(Ack { version: 5, rejections: vec![] }).unwrap();
    assert!(publisher.ack(Ack { version: 5, rejections: vec![] }).is_err());

    let mut replica = Replica::default();
    let message = |version| ConfigResponse { version, ..ConfigResponse::default() };
    replica.apply(message(1)).unwrap();
    assert_eq!(replica.apply(message(2)).unwrap_err(), DeltaError::Interleaved { open: 1, new: 2 });
    replica.connect();
    let bad = ConfigResponse { reset_buckets: vec![256], ..message(1) };
    assert_eq!(replica.apply(bad).unwrap_err(), DeltaError::Bucket(256));
}

#[test]
fn a_resource_that_does_not_decode_takes_its_last_good_version_out_and_is_reported_until_mended() {
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    publish(&mut publisher, &mut replica, 1, &table([service("a", &[]), service("b", &[])]));
    let mut broken = table([service("b", &[])]);
    broken.extend([raw("Service/shop/a", r#"{"kind":"Service","name":"shop/a","new":"shape"}"#)]);
    let applied = publish(&mut publisher, &mut replica, 2, &broken);
    assert_eq!(names(&applied), ["refused Service/shop/a"]);
    assert!(replica.resource(&service("a", &[]).name()).is_none());
    assert_eq!(publisher.rejections()[0].name, "Service/shop/a");
    assert!(publisher.rejections()[0].message.contains("upgrade the proxy"));

    let mut second = connect(&mut replica);
    let applied = publish(&mut second, &mut replica, 1, &broken);
    assert_eq!(names(&applied), Vec::<String>::new(), "the broken resource is sent again");
    assert_eq!(second.rejections().len(), 1, "another controller hears of it too");

    let applied = publish(&mut second, &mut replica, 2, &table([service("a", &[]), service("b", &[])]));
    assert_eq!(names(&applied), ["set Service/shop/a"]);
    assert!(second.rejections().is_empty());
}

#[test]
fn a_resource_under_another_name_is_rejected() {
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let text = serde_json::to_string(&service("a", &[])).unwrap();
    let applied = publish(&mut publisher, &mut replica, 1, &[raw("Service/shop/b", &text)].into());
    assert_eq!(names(&applied), ["refused Service/shop/b"]);
}

fn refuses_everywhere(change: &Change) -> Vec<Parent> {
    let Change::Set(_, resource) = change else { panic!("{change:?}") };
    let Resource::Route(Route { parents, rules, .. }) = &**resource else { panic!("{resource:?}") };
    let refusals: Vec<_> = match rules {
        Rules::Http(rules) => rules.iter().map(|rule| rule.refusal.as_ref()).collect(),
        Rules::Tls(rules) => rules.iter().map(|rule| rule.refusal.as_ref()).collect(),
        Rules::Tcp(rules) | Rules::Udp(rules) => rules.iter().map(|rule| rule.refusal.as_ref()).collect(),
    };
    assert!(refusals.len() == 1 && refusals[0].is_some(), "{rules:?}");
    parents.clone()
}

#[test]
fn a_route_beyond_reading_refuses_on_its_ports_though_the_proxy_never_saw_a_good_version() {
    let parents = [80, 8080].map(|port| Parent {
        service: ObjectName::new("shop", "cart"),
        port,
        explicit_port: port == 80,
    });
    for kind in RouteKind::ALL {
        let mut beyond = serde_json::to_value(Resource::Route(route(kind, "r"))).unwrap();
        beyond["rules"] = serde_json::json!({"type": "quantum", "rules": []});
        for text in [&*beyond.to_string(), "not JSON", "{}"] {
            let mut replica = Replica::default();
            let mut publisher = connect(&mut replica);
            let name = format!("Route/{kind}/shop/r");
            let wanted = Table::from([raw_route(&name, text, &parents)]);
            let applied = publish(&mut publisher, &mut replica, 1, &wanted);
            assert_eq!(refuses_everywhere(&applied[0].changes[0]), parents);
            assert_eq!(applied[0].rejections.len(), 1);
        }
    }
}

#[test]
fn a_route_beyond_reading_refuses_where_it_is_in_force_now() {
    let good = route(RouteKind::Http, "r");
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    publish(&mut publisher, &mut replica, 1, &table([Resource::Route(good.clone())]));
    let moved = [Parent { port: 8080, ..good.parents[0].clone() }];
    let broken = Table::from([raw_route("Route/HTTPRoute/shop/r", "not JSON", &moved)]);
    let applied = publish(&mut publisher, &mut replica, 2, &broken);
    assert_eq!(refuses_everywhere(&applied[0].changes[0]), moved);
    let applied = publish(&mut publisher, &mut replica, 3, &Table::new());
    assert_eq!(names(&applied), ["removed Route/HTTPRoute/shop/r"]);
}

#[test]
fn a_route_at_a_gateway_beyond_reading_refuses_at_its_listeners() {
    let listeners = [None, Some(ObjectName::new("edge", "set"))].map(|listener_set| Attachment {
        gateway: ObjectName::new("edge", "web"),
        listener: ListenerId { listener_set, name: "http".into() },
        hostnames: vec!["shop.example".into()],
    });
    let name = "Route/HTTPRoute/at/r/at/edge/web";
    let mut replica = Replica::default();
    let mut publisher = connect(&mut replica);
    let (name, payload) = raw_route(name, "not JSON", &[]);
    let wanted = Table::from([(name, payload.with_listeners(&listeners))]);
    let applied = publish(&mut publisher, &mut replica, 1, &wanted);
    let Change::Set(_, resource) = &applied[0].changes[0] else { panic!("{:?}", applied[0].changes) };
    let Resource::Route(route) = &**resource else { panic!("{resource:?}") };
    assert_eq!((&*route.listeners, &*route.id.name.namespace), (&listeners[..], "at"));
}

#[test]
fn a_published_route_carries_its_parents_beside_its_payload() {
    let route = route(RouteKind::Tcp, "r");
    let mut publisher = connect(&mut Replica::default());
    let messages = publisher.publish(1, &table([Resource::Route(route), service("a", &[])])).unwrap();
    let parents: Vec<_> = messages[0].upserts.iter().map(|upsert| upsert.parents.len()).collect();
    let first = &messages[0].upserts[0].parents[0];
    assert_eq!((parents, &*first.service, first.port), (vec![1, 0], "shop/cart", 80));
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// This resource becomes this, or goes.
    Change(u8, Option<u8>),
    /// The whole table is published.
    Publish,
    /// What changed since the last publication is published.
    PublishChanges,
    /// The proxy takes this many messages, answering each that completes.
    Deliver(usize),
    /// The stream breaks; the proxy comes back, to the same controller or another.
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..30_u8, prop::option::of(0..4_u8)).prop_map(|(name, value)| Step::Change(name, value)),
        2 => Just(Step::Publish),
        3 => Just(Step::PublishChanges),
        4 => (1..5_usize).prop_map(Step::Deliver),
        1 => Just(Step::Reconnect),
    ]
}

/// A resource of some size, so that publications span messages; value 3 does not decode.
fn resource(name: u8, value: u8) -> (ResourceName, Payload) {
    let text = format!("{}-{name}", "x".repeat(80_000));
    if value == 3 {
        return raw(&format!("Service/shop/{text}"), "{}");
    }
    Payload::of(&service(&text, &[&format!("10.0.0.{value}")])).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_in_equal_state(steps in prop::collection::vec(step(), 1..60)) {
        let mut replica = Replica::default();
        // A mirror of what a user of the changes would hold.
        let mut user: BTreeMap<ResourceName, Resource> = BTreeMap::new();
        let mut wanted = Table::new();
        let mut dirty: BTreeMap<ResourceName, Option<Payload>> = BTreeMap::new();
        let mut publisher = connect(&mut replica);
        let mut greeted = false;
        let mut wire = std::collections::VecDeque::new();
        let mut version = 0;
        let mut take = |replica: &mut Replica, publisher: &mut Publisher, message| {
            let Some(applied) = replica.apply(message).unwrap() else { return Vec::new() };
            for change in &applied.changes {
                match change.clone() {
                    Change::Set(name, resource) => drop(user.insert(name, (*resource).clone())),
                    Change::Removed(name) | Change::Refused { name, .. } => drop(user.remove(&name)),
                }
            }
            publisher.ack(applied.ack()).unwrap()
        };
        for step in steps.into_iter().chain([Step::Publish, Step::Deliver(usize::MAX)]) {
            match step {
                Step::Change(name, value) => {
                    let (key, payload) = resource(name, value.unwrap_or_default());
                    match value {
                        Some(_) => drop(wanted.insert(key.clone(), payload.clone())),
                        None => drop(wanted.remove(&key)),
                    }
                    dirty.insert(key, value.map(|_| payload));
                }
                Step::PublishChanges if greeted => {
                    version += 1;
                    wire.extend(publisher.publish_changes(version, std::mem::take(&mut dirty)).unwrap());
                }
                Step::Publish | Step::PublishChanges => {
                    version += 1;
                    greeted = true;
                    dirty.clear();
                    wire.extend(publisher.publish(version, &wanted).unwrap());
                }
                Step::Deliver(count) => {
                    for _ in 0..count {
                        let Some(message) = wire.pop_front() else { break };
                        wire.extend(take(&mut replica, &mut publisher, message));
                    }
                }
                Step::Reconnect => {
                    wire.clear();
                    publisher = connect(&mut replica);
                    (greeted, version) = (false, 0);
                }
            }
        }
        prop_assert_eq!(publisher.in_force(), version);
        let decodable: BTreeMap<_, _> = wanted
            .iter()
            .filter_map(|(name, payload)| Some((name.clone(), serde_json::from_slice::<Resource>(payload.bytes()).ok()?)))
            .collect();
        let rejected = wanted.len() - decodable.len();
        prop_assert_eq!(publisher.rejections().len(), rejected);
        let held: BTreeMap<_, _> =
            replica.resources().map(|(name, resource)| (name.clone(), (**resource).clone())).collect();
        prop_assert_eq!(&held, &decodable);
        prop_assert_eq!(&user, &decodable);
        let mut digests = vec![0; BUCKETS];
        for (name, payload) in &wanted {
            digests[bucket(name)] ^= payload.digest;
        }
        prop_assert_eq!(replica.digests(), digests);
    }
}
