//! Takes from Namespaces what the controller wrote on them: how far their enrolment is.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Map, Value, json};

use super::remove::TRIES;
use crate::cluster::Cluster;

/// Begins the names of annotations and condition types of Weft's own making.
const OURS: [&str; 2] = ["weft-mesh.dev/enrolment", "weft-mesh.dev/Enrolled"];

/// Clears all of them; returns how many had something.
pub(super) async fn clear(cluster: &Cluster) -> Result<usize> {
    let mut changed = 0;
    for namespace in cluster.all::<Namespace>().await? {
        let name = namespace.name_any();
        let cleared = clear_one(&cluster.client, namespace).await;
        changed += usize::from(cleared.with_context(|| format!("cannot clean Namespace {name}"))?);
    }
    Ok(changed)
}

async fn clear_one(client: &Client, mut namespace: Namespace) -> Result<bool> {
    let api: Api<Namespace> = Api::all(client.clone());
    for _ in 0..TRIES {
        let Some(patch) = patch(&namespace) else { return Ok(false) };
        let name = namespace.name_any();
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(kube::Error::Api(status)) if status.code == 409 => namespace = api.get(&name).await?,
            Err(error) => return Err(error.into()),
        }
    }
    bail!("somebody else keeps writing it")
}

/// What takes ours away and leaves others' as it is; `None`: there is nothing of ours.
fn patch(namespace: &Namespace) -> Option<Value> {
    let is_ours = |name: &str| OURS.iter().any(|ours| name.starts_with(ours));
    let annotations: Map<String, Value> = namespace
        .annotations()
        .keys()
        .filter(|key| is_ours(key))
        .cloned()
        .map(|key| (key, Value::Null))
        .collect();
    let status = namespace.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let others: Vec<_> = conditions.iter().filter(|condition| !is_ours(&condition.type_)).collect();
    if annotations.is_empty() && others.len() == conditions.len() {
        return None;
    }
    Some(json!({
        "metadata": {"resourceVersion": namespace.resource_version(), "annotations": annotations},
        "status": {"conditions": others},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(namespace: Value) -> Option<Value> {
        patch(&serde_json::from_value(namespace).unwrap())
    }

    #[test]
    fn only_what_the_controller_wrote_is_taken_away() {
        let other = json!({"type": "NamespaceContentRemaining", "status": "False"});
        let condition = json!({"type": "weft-mesh.dev/Enrolled", "status": "True"});
        let found = patched(json!({
            "metadata": {"name": "a", "resourceVersion": "7", "annotations": {
                "weft-mesh.dev/enrolment": "strict", "weft-mesh.dev/enrolment-since": "2026-01-01T00:00:00Z", "team": "cart",
            }},
            "status": {"conditions": [other, condition]},
        }));
        let expected = json!({
            "metadata": {"resourceVersion": "7", "annotations": {
                "weft-mesh.dev/enrolment": null, "weft-mesh.dev/enrolment-since": null,
            }},
            "status": {"conditions": [other]},
        });
        assert_eq!(found, Some(expected));
        assert_eq!(patched(json!({"metadata": {"name": "a"}, "status": {"conditions": [other]}})), None);
    }
}
