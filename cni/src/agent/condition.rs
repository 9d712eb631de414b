//! The condition `weft-mesh.dev/Meshed` on this node's pods: what kernel and proxy report, written when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use weft_model::{ObjectName, Text};

use super::members::Members;
use super::pods::{Condition, Decision, MESHED, Table};
use super::status::{PodState, PodStatus, Status};

/// How often desire and API server are compared when nothing is heard.
const INTERVAL: Duration = Duration::from_secs(5);
/// What the API server did not take, or somebody else has changed since, is written again after this time.
const AGAIN: Duration = Duration::from_secs(15);
/// Conditions written at a time.
const AT_A_TIME: usize = 4;

/// Writes conditions for ever.
pub(super) async fn run(client: &Client, members: &Members) {
    let mut pods = members.pods.clone();
    let mut board = members.board.changes();
    let mut writer = Writer::default();
    loop {
        // Not in the condition: what is borrowed there stays so to the end of the block, and the table's sender waits.
        let table = pods.borrow_and_update().clone();
        if let Some(table) = table {
            board.borrow_and_update();
            let away = members.unserved_for(Instant::now()).is_some_and(|time| time >= members.config.hold);
            let wanted = members.board.read(|status| wanted(&table, status, away));
            writer.write(client, &table, wanted).await;
        }
        tokio::select! {
            _ = pods.changed() => {}
            _ = board.changed() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// The condition that each pod should have; `None`: it should have none. Pods that are left as they are are not there.
fn wanted(table: &Table, status: &Status, away: bool) -> BTreeMap<Text, Option<Condition>> {
    let mut all = BTreeMap::new();
    for pod in table.pods.values() {
        let said = status.pods.get(&pod.uid).map(|said| condition(said, away));
        // Not tried yet: nothing is known. No longer to be enrolled, and finished: nothing is left to say.
        if said.is_some() || table.decide(pod) == Decision::Leave {
            all.insert(pod.uid.clone(), said);
        }
    }
    all
}

fn condition(said: &PodStatus, away: bool) -> Condition {
    let (meshed, reason, message) = match said {
        PodStatus { error: Some(error), reason, .. } => (false, *reason, error.as_str()),
        PodStatus { state: PodState::Enrolled, .. } if away => (
            false,
            "NoProxy",
            "no weft-proxy is connected on this node: new connections are refused until one is",
        ),
        PodStatus { state: PodState::Enrolled, reason, .. } => (
            true,
            *reason,
            "the capture rules are in the pod's network namespace, and the node's weft-proxy serves it",
        ),
        PodStatus { state: PodState::Released, reason, .. } => {
            (false, *reason, "the pod is leaving the mesh; connections from before go on until they end")
        }
        PodStatus { reason, .. } => (false, *reason, "the pod is not enrolled"),
    };
    let status = if meshed { "True" } else { "False" };
    Condition { status: status.into(), reason: reason.into(), message: message.into() }
}

/// What was written last, by UID, and when.
#[derive(Default)]
struct Writer {
    written: BTreeMap<Text, (Option<Condition>, Instant)>,
}

/// One pod's condition to write.
struct Change {
    uid: Text,
    pod: ObjectName,
    patch: Value,
    wanted: Option<Condition>,
}

impl Writer {
    async fn write(&mut self, client: &Client, table: &Table, wanted: BTreeMap<Text, Option<Condition>>) {
        let changes = self.changes(table, wanted, Instant::now());
        let written = futures_util::stream::iter(changes).map(|change| async {
            let outcome = send(client, &change).await;
            (change, outcome)
        });
        let mut written = std::pin::pin!(written.buffer_unordered(AT_A_TIME));
        while let Some((change, outcome)) = written.next().await {
            match outcome {
                Ok(()) => {}
                // Deleted meanwhile, or already another one of the same name.
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => {
                    tracing::warn!(pod = %change.pod, %error, "the condition {MESHED} was not written; trying again");
                }
            }
            // Also after a failure: it is tried again, but not at once.
            self.written.insert(change.uid, (change.wanted, Instant::now()));
        }
    }

    /// What has to be written now.
    fn changes(
        &mut self,
        table: &Table,
        wanted: BTreeMap<Text, Option<Condition>>,
        now: Instant,
    ) -> Vec<Change> {
        let exist: BTreeSet<&Text> = table.pods.values().map(|pod| &pod.uid).collect();
        self.written.retain(|uid, _| exist.contains(uid));
        let names = table.pods.values().map(|pod| (&pod.uid, &pod.name));
        let names: BTreeMap<&Text, &ObjectName> = names.collect();
        let mut changes = Vec::new();
        for (uid, wanted) in wanted {
            let Some(pod) = names.get(&uid) else { continue };
            let found = table.facts.get(&uid).and_then(|facts| facts.meshed.clone());
            let due = match self.written.get(&uid) {
                // The API server's answer may not have come round by the watch yet.
                Some((written, at)) => {
                    *written != wanted || (found != wanted && now.saturating_duration_since(*at) >= AGAIN)
                }
                None => found != wanted,
            };
            if due {
                let patch = patch(&uid, found.as_ref(), wanted.as_ref());
                changes.push(Change { pod: (*pod).clone(), uid, patch, wanted });
            }
        }
        changes
    }
}

async fn send(client: &Client, change: &Change) -> Result<(), kube::Error> {
    let pods: Api<PodObject> = Api::namespaced(client.clone(), &change.pod.namespace);
    let patch = Patch::Strategic(&change.patch);
    pods.patch_status(&change.pod.name, &PatchParams::default(), &patch).await.map(drop)
}

/// A strategic merge patch of the one condition. With the UID, so that no later pod of the same name is meant.
fn patch(uid: &Text, found: Option<&Condition>, wanted: Option<&Condition>) -> Value {
    let entry = match wanted {
        None => json!({"type": MESHED, "$patch": "delete"}),
        Some(wanted) => {
            let mut entry = json!({
                "type": MESHED, "status": *wanted.status, "reason": *wanted.reason, "message": *wanted.message,
            });
            // What is left out stays as it is.
            if found.is_none_or(|found| found.status != wanted.status)
                && let Some(fields) = entry.as_object_mut()
            {
                fields.insert("lastTransitionTime".into(), super::kubernetes::now().into());
            }
            entry
        }
    };
    json!({"metadata": {"uid": **uid}, "status": {"conditions": [entry]}})
}

#[cfg(test)]
mod tests;
