//! Pods that run outside the mesh when the agent starts, although they are to be in it: they started while the plugin
//! was not in place. They are reported, and enrolled while they run or, by option, evicted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::{DeleteParams, EvictParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use weft_model::{ObjectName, Text};

use super::members::Members;
use super::pods::{Facts, Pod, Table};

/// How often evictions are asked for again: a budget may refuse one for a while.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was found at the start.
#[derive(Debug, Default)]
pub(super) struct Bootstrap {
    /// The first look is done: whoever is not in the mesh from now on has been labelled since.
    over: AtomicBool,
    evicted: Mutex<BTreeMap<Text, ObjectName>>,
}

impl Bootstrap {
    /// A pod without rules is to be enrolled while it runs. Returns whether it is rather evicted.
    pub(super) fn meets(&self, pod: &Pod, table: &Table, members: &Members) -> bool {
        if self.evicted.lock().contains_key(&pod.uid) {
            return true;
        }
        if self.over.load(Ordering::Relaxed) {
            return false;
        }
        members.board.update(|status| status.found_unmeshed += 1);
        let evict = members.config.evict_unmeshed && is_made_anew(table.facts.get(&pod.uid));
        let what = if evict { "evicting it" } else { "enrolling it while it runs" };
        tracing::warn!(pod = %pod.name, "runs outside the mesh since before this agent started: {what}");
        if evict {
            self.evicted.lock().insert(pod.uid.clone(), pod.name.clone());
        }
        evict
    }

    /// All pods have been looked at once.
    pub(super) fn first_look_is_done(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn take_existing(&self, table: &Table) -> BTreeMap<Text, ObjectName> {
        let mut evicted = self.evicted.lock();
        evicted.retain(|uid, name| table.pods.get(name).is_some_and(|pod| pod.uid == *uid));
        evicted.clone()
    }
}

/// Whether a controller will make the pod again. A static pod's owner is its node, and its kubelet does not obey.
fn is_made_anew(facts: Option<&Facts>) -> bool {
    let owner = facts.and_then(|facts| facts.owner.as_ref());
    owner.is_some_and(|owner| &*owner.kind != "Node")
}

/// Evicts until none of the pods is left, for ever.
pub(super) async fn run(client: &Client, members: &Members) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let table = members.pods.borrow().clone();
        let Some(table) = table else { continue };
        for (uid, name) in members.bootstrap.take_existing(&table) {
            if table.facts.get(&uid).is_some_and(|facts| facts.deleting) {
                continue;
            }
            match evict(client, &uid, &name).await {
                Ok(()) => tracing::info!(pod = %name, "evicted"),
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => tracing::warn!(pod = %name, %error, "not evicted; trying again"),
            }
        }
    }
}

async fn evict(client: &Client, uid: &Text, name: &ObjectName) -> Result<(), kube::Error> {
    let pods: Api<PodObject> = Api::namespaced(client.clone(), &name.namespace);
    let just_this = Preconditions { uid: Some(uid.to_string()), ..Preconditions::default() };
    let delete = DeleteParams { preconditions: Some(just_this), ..DeleteParams::default() };
    let params = EvictParams { delete_options: Some(delete), ..EvictParams::default() };
    pods.evict(&name.name, &params).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use serde_json::{Value, json};
    use tokio::sync::watch;

    use super::*;
    use crate::agent::config::Config;

    fn members(more: &[&str]) -> Members {
        let start = ["weft-agent", "--node=one", "--kubernetes"];
        let config = Config::parse_from(start.iter().chain(more));
        Members::new(config, watch::channel(None).1, watch::channel(Arc::default()).1)
    }

    fn found(owner: &Value) -> (Pod, Table) {
        let object =
            json!({"metadata": {"namespace": "shop", "name": "a", "uid": "u", "ownerReferences": owner}});
        let pod = Pod::from_object(&object).unwrap();
        let mut table = Table::default();
        table.facts.insert(pod.uid.clone(), Facts::from_object(&object));
        table.pods.insert(pod.name.clone(), pod.clone());
        (pod, table)
    }

    fn owned(kind: &str) -> Value {
        json!([{"kind": kind, "name": "x", "controller": true}])
    }

    #[test]
    fn only_pods_that_come_again_are_evicted_and_only_when_asked() {
        for (flags, owner, evicted) in [
            (&[][..], owned("ReplicaSet"), false),
            (&["--evict-unmeshed"], owned("ReplicaSet"), true),
            (&["--evict-unmeshed"], owned("Job"), true),
            (&["--evict-unmeshed"], owned("Node"), false),
            (&["--evict-unmeshed"], json!([]), false),
        ] {
            let (members, (pod, table)) = (members(flags), found(&owner));
            assert_eq!(members.bootstrap.meets(&pod, &table, &members), evicted, "{flags:?} {owner}");
            assert_eq!(members.board.read(|status| status.found_unmeshed), 1);
            assert_eq!(members.bootstrap.take_existing(&table).len(), usize::from(evicted));
            assert!(members.bootstrap.take_existing(&Table::default()).is_empty());
        }
    }

    #[test]
    fn pods_that_are_labelled_later_are_neither_reported_nor_evicted() {
        let (members, (pod, table)) = (members(&["--evict-unmeshed"]), found(&owned("ReplicaSet")));
        members.bootstrap.first_look_is_done();
        assert!(!members.bootstrap.meets(&pod, &table, &members));
        assert_eq!(members.board.read(|status| status.found_unmeshed), 0);
    }
}
