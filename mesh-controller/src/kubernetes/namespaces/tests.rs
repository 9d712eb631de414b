//! Enrolment on Namespaces, against a small API server in process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

use std::sync::Arc;

use tokio::sync::watch;
use weft_testkit::apiserver::ApiServer;

use super::*;
use crate::enrolment::keeper::{Keeper, Stepped};
use crate::enrolment::{Missing, Phase, Settings};
use crate::inputs::{Inputs, Object};
use crate::kubernetes::tests::{client, mesh, namespace};
use crate::leadership::Leadership;
use crate::server::Progress;

const NOW: &str = "2026-01-02T03:04:05Z";
const LATER: &str = "2026-01-02T03:05:05Z";

fn state(phase: Phase) -> NamespaceState {
    NamespaceState { phase, since: NOW.parse().unwrap(), ..NamespaceState::default() }
}

fn states(all: &[(&str, Phase)]) -> BTreeMap<Text, NamespaceState> {
    all.iter().map(|(name, phase)| (Text::from(*name), state(*phase))).collect()
}

fn get(api: &ApiServer, name: &str) -> Value {
    api.get("", "Namespace", "", name).unwrap()
}

/// What another program has written on a Namespace stays there.
fn with_others(name: &str) -> Value {
    let mut object = namespace(name);
    object["metadata"]["annotations"] = json!({"somebody": "else"});
    object["status"] = json!({"phase": "Active", "conditions": [
        {"type": "NamespaceContentRemaining", "status": "False", "lastTransitionTime": NOW, "reason": "R", "message": "m"},
    ]});
    object
}

/// Runs what blocks where that may be done.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn write_to(
    mut memory: Namespaces,
    all: &[(&str, Phase)],
    now: &'static str,
) -> (Namespaces, Vec<Unwritten>) {
    let states = states(all);
    blocking(move || {
        let unwritten = memory.write(&states, now);
        (memory, unwritten)
    })
    .await
}

async fn read(api: &ApiServer) -> BTreeMap<Text, Record> {
    let mut memory = Namespaces::new(client(api));
    blocking(move || memory.read()).await.unwrap()
}

#[tokio::test]
async fn what_was_written_is_what_the_next_leader_begins_with_and_what_others_wrote_stays() {
    let api = ApiServer::new();
    ["a", "b", "c"].into_iter().for_each(|name| api.put(with_others(name)));
    let all = [("a", Phase::Enrolling), ("b", Phase::Strict), ("gone", Phase::Leaving)];
    let (memory, unwritten) = write_to(Namespaces::new(client(&api)), &all, NOW).await;
    assert!(unwritten.is_empty(), "{unwritten:?}");
    let a = get(&api, "a");
    assert_eq!(a["metadata"]["annotations"]["weft-mesh.dev/enrolment"], "enrolling");
    assert_eq!(a["metadata"]["annotations"]["somebody"], "else");
    let conditions = &a["status"]["conditions"];
    assert_eq!((&conditions[0]["reason"], &conditions[1]["reason"]), (&json!("R"), &json!("Enrolling")));
    assert_eq!(a["status"]["phase"], "Active");
    assert_eq!(get(&api, "c"), { with_versions(with_others("c"), &get(&api, "c")) });

    let read_again = read(&api).await;
    assert_eq!(read_again["a"], state(Phase::Enrolling).record().unwrap());
    assert_eq!(read_again["b"].phase, Phase::Strict);
    assert_eq!(read_again.len(), 2);

    let writes = api.writes().len();
    let (memory, _) = write_to(memory, &all[..2], LATER).await;
    assert_eq!(api.writes().len(), writes, "nothing differs");
    let (_, unwritten) = write_to(memory, &[("b", Phase::Strict)], LATER).await;
    assert!(unwritten.is_empty());
    assert_eq!(get(&api, "a"), with_versions(with_others("a"), &get(&api, "a")), "nothing of ours is left");
}

/// `object` with what the server fills in.
fn with_versions(mut object: Value, stored: &Value) -> Value {
    for key in ["resourceVersion", "uid", "generation", "creationTimestamp"] {
        if let Some(value) = stored["metadata"].get(key) {
            object["metadata"][key] = value.clone();
        }
    }
    object
}

#[tokio::test]
async fn a_condition_keeps_its_time_until_its_status_changes() {
    let api = ApiServer::new();
    api.put(namespace("a"));
    let time = |api: &ApiServer| get(api, "a")["status"]["conditions"][0]["lastTransitionTime"].clone();
    let (memory, _) = write_to(Namespaces::new(client(&api)), &[("a", Phase::Enrolling)], NOW).await;
    let (memory, _) = write_to(memory, &[("a", Phase::Leaving)], LATER).await;
    assert_eq!(time(&api), NOW, "False before and after");
    write_to(memory, &[("a", Phase::Strict)], LATER).await;
    assert_eq!(time(&api), LATER);
}

#[tokio::test]
async fn a_write_that_meets_anothers_is_done_again_on_what_stands_there_then() {
    let api = ApiServer::new();
    api.put(namespace("a"));
    let (memory, _) = write_to(Namespaces::new(client(&api)), &[("a", Phase::Enrolling)], NOW).await;
    let mut edited = get(&api, "a");
    edited["metadata"]["labels"] = json!({"team": "cart"});
    api.put(edited);
    let (_, unwritten) = write_to(memory, &[("a", Phase::Strict)], NOW).await;
    assert!(unwritten.is_empty(), "{unwritten:?}");
    let a = get(&api, "a");
    assert_eq!(a["metadata"]["annotations"]["weft-mesh.dev/enrolment"], "strict");
    assert_eq!(a["metadata"]["labels"]["team"], "cart");
    assert_eq!(a["status"]["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn what_cannot_be_written_is_told_apart() {
    let api = ApiServer::new();
    api.put(namespace("a"));
    let (mut memory, _) = write_to(Namespaces::new(client(&api)), &[("a", Phase::Strict)], NOW).await;
    api.fail(|call| (call.method == "PATCH").then_some(403));
    let missing = Missing { pod: "p".into(), node: "n".into(), why: "port 15001 is taken".into() };
    let said = NamespaceState { missing: vec![missing], ..state(Phase::Strict) };
    let (memory, unwritten) = blocking(move || {
        let unwritten = memory.write(&BTreeMap::from([("a".into(), said)]), NOW);
        (memory, unwritten)
    })
    .await;
    assert!(matches!(&unwritten[..], [Unwritten { record: false, .. }]), "{unwritten:?}");
    let (memory, unwritten) = write_to(memory, &[("a", Phase::Leaving)], NOW).await;
    assert!(matches!(&unwritten[..], [Unwritten { record: true, .. }]), "{unwritten:?}");
    assert!(unwritten[0].error.to_string().contains("Namespace a"), "{unwritten:?}");
    api.heal();
    assert!(write_to(memory, &[("a", Phase::Leaving)], NOW).await.1.is_empty());
    assert_eq!(read(&api).await["a"].phase, Phase::Leaving);
}

/// Two labelled namespaces without pods.
fn inputs() -> Inputs {
    let mut inputs = Inputs::new(mesh());
    for name in ["a", "b"] {
        let labels = json!({"weft-mesh.dev/mesh": "enabled"});
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        inputs.insert(&Object::decode(object).unwrap());
    }
    inputs
}

async fn step(mut keeper: Keeper) -> (Keeper, Stepped, Inputs, Vec<io::Error>) {
    blocking(move || {
        let mut inputs = inputs();
        let (stepped, errors) = keeper.step(&mut inputs);
        (keeper, stepped, inputs, errors)
    })
    .await
}

fn keeper(api: &ApiServer) -> (Keeper, watch::Sender<Leadership>) {
    let (leads, leadership) = watch::channel(Leadership::Follower { leader: None });
    let settings = Settings { report_wait: Duration::ZERO, ..Settings::default() };
    let progress = Arc::new(Progress::default());
    (Keeper::new(Namespaces::new(client(api)), settings, progress, leadership), leads)
}

#[tokio::test]
async fn only_the_leader_steps_and_begins_with_what_the_last_one_wrote() {
    let api = ApiServer::new();
    ["a", "b"].into_iter().for_each(|name| api.put(namespace(name)));
    let (keeper, leads) = keeper(&api);
    let (keeper, stepped, ..) = step(keeper).await;
    assert_eq!((stepped, api.calls().len()), (Stepped::Follows, 0));

    // Meanwhile another leader enrols `a`, long ago: whether that is over is for this one to say.
    write_to(Namespaces::new(client(&api)), &[("a", Phase::Enrolling)], NOW).await;
    leads.send_replace(Leadership::Leader);
    tokio::time::timeout(Duration::from_secs(5), keeper.wait()).await.unwrap();
    let (keeper, stepped, inputs, errors) = step(keeper).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(stepped, Stepped::Decided);
    assert!(inputs.enrolment.enrolling.is_empty(), "its deadline is long past");
    assert_eq!(
        read(&api).await.into_values().map(|record| record.phase).collect::<Vec<_>>(),
        [Phase::Strict; 2]
    );

    // What others decide while this one does not lead is what it goes on from.
    leads.send_replace(Leadership::Follower { leader: None });
    tokio::time::timeout(Duration::from_secs(5), keeper.wait()).await.unwrap();
    let (keeper, stepped, ..) = step(keeper).await;
    assert_eq!(stepped, Stepped::Follows);
    let now = jiff::Timestamp::now().to_string();
    let mut b = get(&api, "b");
    b["metadata"]["annotations"] =
        json!({"weft-mesh.dev/enrolment": "enrolling", "weft-mesh.dev/enrolment-since": now});
    api.put(b);
    leads.send_replace(Leadership::Leader);
    let (_, _, inputs, _) = step(keeper).await;
    assert!(inputs.enrolment.enrolling.contains_key("b"), "{:?}", inputs.enrolment);
}

#[tokio::test]
async fn a_leader_that_cannot_read_decides_nothing() {
    let api = ApiServer::new();
    ["a", "b"].into_iter().for_each(|name| api.put(namespace(name)));
    let (keeper, leads) = keeper(&api);
    leads.send_replace(Leadership::Leader);
    api.fail(|_| Some(403));
    let (keeper, stepped, _, errors) = step(keeper).await;
    assert_eq!((stepped, errors.len()), (Stepped::Waits, 1));
    api.heal();
    let (_, stepped, _, errors) = step(keeper).await;
    assert_eq!((stepped, errors.len()), (Stepped::Decided, 0));
}

#[tokio::test]
async fn a_namespace_is_not_closed_before_that_is_written() {
    let api = ApiServer::new();
    ["a", "b"].into_iter().for_each(|name| api.put(namespace(name)));
    write_to(Namespaces::new(client(&api)), &[("a", Phase::Enrolling)], NOW).await;
    let (keeper, leads) = keeper(&api);
    leads.send_replace(Leadership::Leader);
    api.fail(|call| (call.method == "PATCH").then_some(500));
    let (keeper, stepped, inputs, errors) = step(keeper).await;
    assert_eq!((stepped, errors.len()), (Stepped::Decided, 2));
    assert!(inputs.enrolment.enrolling.contains_key("a"), "the next leader would open it again");
    assert!(!inputs.enrolment.enrolling.contains_key("b"), "it was never open");
    api.heal();
    let (_, _, inputs, errors) = step(keeper).await;
    assert!(inputs.enrolment.enrolling.is_empty() && errors.is_empty());
    assert_eq!(read(&api).await["a"].phase, Phase::Strict);
}
