//! How this node leaves: told by the annotation on the agents' DaemonSet, every pod is released and the plugin taken
//! out; when nothing of Weft is left, the agent says so on its own pod. `weft uninstall` gives the note and waits.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use weft_model::uninstall::CONDITION;

use super::health::Health;
use super::install::Installed;
use super::members::Members;
use super::pods::Table;

/// How often it is looked at while it lasts.
const INTERVAL: Duration = Duration::from_secs(1);

/// Says on the agent's own pod when the node is out, and takes that back when it is not to be any longer; for ever.
pub(super) async fn run(client: &Client, members: &Members, health: &Health) {
    let Some(own) = members.config.pod_name.clone() else {
        return std::future::pending().await;
    };
    let pods: Api<PodObject> = Api::namespaced(client.clone(), &members.config.namespace);
    let mut tables = members.pods.clone();
    let mut said = None;
    loop {
        let table = tables.borrow_and_update().clone();
        if let Some(table) = table {
            let out = table.leaving && left(members, health, &table).await;
            if said != Some(out) && (out || table.leaving || said.is_some()) {
                match pods.patch_status(&own, &PatchParams::default(), &Patch::Strategic(patch(out))).await {
                    Ok(_) => {
                        said = Some(out);
                        if out {
                            tracing::info!(
                                "no pod of this node is in the mesh any longer, and weft-cni is removed"
                            );
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the condition {CONDITION} was not written; trying again")
                    }
                }
            }
        }
        tokio::select! {
            Ok(()) = tables.changed() => {}
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn left(members: &Members, health: &Health, table: &Table) -> bool {
    if *health.installed.borrow() != Installed::Removed || has_conditions(table) {
        return false;
    }
    for slot in members.slots().into_values() {
        if slot.lock().await.is_some() {
            return false;
        }
    }
    true
}

/// Some pod still says that it is in the mesh, or why it is not.
fn has_conditions(table: &Table) -> bool {
    table.facts.values().any(|facts| facts.meshed.is_some())
}

fn patch(out: bool) -> Value {
    let entry = if out {
        json!({
            "type": CONDITION, "status": "True", "reason": "Uninstalled", "lastTransitionTime": super::kubernetes::now(),
            "message": "no pod of the node is in the mesh, and the container runtime's configuration is without weft-cni",
        })
    } else {
        json!({"type": CONDITION, "$patch": "delete"})
    };
    json!({"status": {"conditions": [entry]}})
}

/// Removes what the agent made in its runtime directory. Sockets of a process that has ended answer nobody.
pub(super) fn remove_files(directory: &Path) {
    for name in ["agent.sock", "cni.sock", "root.pem", "agent-status.json", "weft-cni.log", "weft-cni.log.1"]
    {
        let path = directory.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "not removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pods::{Condition, Facts};

    #[test]
    fn conditions_of_pods_are_waited_for() {
        let condition = Condition { status: "True".into(), reason: "Enrolled".into(), message: "".into() };
        let mut table = Table::default();
        table.facts.insert("a".into(), Facts::default());
        assert!(!has_conditions(&table));
        table.facts.insert("b".into(), Facts { meshed: Some(condition), ..Facts::default() });
        assert!(has_conditions(&table));
    }

    #[test]
    fn only_what_the_agent_made_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["agent.sock", "root.pem", "somebody-elses"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        remove_files(folder.path());
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["somebody-elses"]);
    }
}
