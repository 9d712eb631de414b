//! Which condition follows from which state, and what is written of it.

use super::*;
use crate::agent::link::LinkError;
use crate::agent::members::MemberError;
use crate::agent::pods::{Facts, Pod};
use crate::kernel::KernelError;

fn table(pods: &[(&str, Option<Condition>)]) -> Table {
    let mut table = Table::default();
    table.namespaces.insert("shop".into(), Some("enabled".into()));
    for (uid, meshed) in pods {
        let object =
            json!({"metadata": {"namespace": "shop", "name": uid, "uid": uid}, "spec": {"nodeName": "one"}});
        let pod = Pod::from_object(&object).unwrap();
        table.facts.insert(pod.uid.clone(), Facts { meshed: meshed.clone(), ..Facts::default() });
        table.pods.insert(pod.name.clone(), pod);
    }
    table
}

fn status(state: PodState, error: Option<&MemberError>) -> Status {
    let said = PodStatus::new(ObjectName::new("shop", "a"), state, error);
    Status { pods: [("a".into(), said)].into(), ..Status::default() }
}

fn condition_of(state: PodState, error: Option<&MemberError>, away: bool) -> (String, String, String) {
    let wanted = wanted(&table(&[("a", None)]), &status(state, error), away);
    let condition = wanted["a"].clone().unwrap();
    (condition.status.to_string(), condition.reason.to_string(), condition.message.to_string())
}

#[test]
fn every_state_has_a_status_and_a_reason() {
    let refused = MemberError::Link(LinkError::Refused("full".into()));
    let taken = MemberError::Kernel(KernelError::PortTaken { port: 15001, by: "python3 (pid 7)".into() });
    let differ = MemberError::Kernel(KernelError::Differs { what: "the nft rules" });
    for (state, error, away, status, reason) in [
        (PodState::Enrolled, None, false, "True", "Enrolled"),
        (PodState::Enrolled, None, true, "False", "NoProxy"),
        (PodState::Released, None, false, "False", "Released"),
        (PodState::NotEnrolled, Some(&MemberError::NoProxy), false, "False", "NoProxy"),
        (PodState::NotEnrolled, Some(&MemberError::NoNamespace), false, "False", "NoNamespace"),
        (PodState::NotEnrolled, Some(&refused), false, "False", "RefusedByProxy"),
        (PodState::NotEnrolled, Some(&taken), true, "False", "PortTaken"),
        (PodState::NotEnrolled, Some(&differ), false, "False", "RulesDiffer"),
    ] {
        let (found, why, message) = condition_of(state, error, away);
        assert_eq!((found.as_str(), why.as_str()), (status, reason), "{state:?} {error:?}");
        assert!(!message.is_empty());
    }
    assert!(condition_of(PodState::NotEnrolled, Some(&taken), false).2.contains("python3 (pid 7)"));
}

fn meshed() -> Condition {
    let status = status(PodState::Enrolled, None);
    wanted(&table(&[("a", None)]), &status, false)["a"].clone().unwrap()
}

#[test]
fn pods_that_are_to_have_no_condition_lose_it_and_untried_ones_are_left_alone() {
    let mut table = table(&[("a", Some(meshed())), ("b", None)]);
    assert!(wanted(&table, &Status::default(), false).is_empty());
    table.namespaces.insert("shop".into(), None);
    let wanted = wanted(&table, &Status::default(), false);
    assert_eq!(wanted["a"], None);
    let changes = Writer::default().changes(&table, wanted, Instant::now());
    let patches: Vec<_> = changes.iter().map(|change| (&*change.uid, change.patch.clone())).collect();
    let delete = json!({"metadata": {"uid": "a"},
        "status": {"conditions": [{"type": MESHED, "$patch": "delete"}]}});
    assert_eq!(patches, [("a", delete)]);
}

#[test]
fn pod_that_has_ended_loses_its_condition() {
    let mut table = table(&[("a", Some(meshed()))]);
    table.pods.values_mut().for_each(|pod| pod.terminal = true);
    assert_eq!(wanted(&table, &Status::default(), false)["a"], None);
}

#[test]
fn a_condition_is_written_once_and_again_only_when_it_differs() {
    let (mut writer, start) = (Writer::default(), Instant::now());
    let all = |condition: Condition| BTreeMap::from([(Text::from("a"), Some(condition))]);
    let without = table(&[("a", None)]);
    let changes = writer.changes(&without, all(meshed()), start);
    assert_eq!(changes.len(), 1);
    let entry = &changes[0].patch["status"]["conditions"][0];
    assert_eq!((entry["status"].as_str(), entry["reason"].as_str()), (Some("True"), Some("Enrolled")));
    assert!(entry["lastTransitionTime"].is_string());
    writer.written.insert("a".into(), (Some(meshed()), start));
    assert!(writer.changes(&without, all(meshed()), start).is_empty(), "the watch has not brought it yet");
    assert_eq!(writer.changes(&without, all(meshed()), start + AGAIN).len(), 1, "somebody took it away");
    let with = table(&[("a", Some(meshed()))]);
    assert!(writer.changes(&with, all(meshed()), start + AGAIN).is_empty());
    assert!(Writer::default().changes(&with, all(meshed()), start).is_empty(), "an earlier agent wrote it");
    let other = Condition { reason: "Other".into(), ..meshed() };
    let changes = writer.changes(&with, all(other), start);
    let entry = &changes[0].patch["status"]["conditions"][0];
    assert!(entry.get("lastTransitionTime").is_none(), "the status is the same: {entry}");
}
