//! Removes what Weft's programs made in the cluster, beside what was installed: entries in statuses, the mesh's object,
//! root, trust bundle and lease.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::check::part;
use crate::cluster::Cluster;
use crate::facts::{EXPERIMENTAL_GROUP, GATEWAY_GROUP, HOME, definitions, resource};
use crate::output::count;

/// The GatewayClass that the controller makes.
const CLASS: &str = "weft";
/// Begins the names that Weft writes under into statuses.
const CONTROLLERS: &str = "weft-mesh.dev/";
/// How often a status that somebody else writes as well is tried.
pub(super) const TRIES: usize = 5;

/// Stops every replica, so that nobody writes back what is removed.
pub(super) async fn stop_controller(cluster: &Cluster, deadline: Instant, ask_every: Duration) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), HOME);
    let none = json!({"spec": {"replicas": 0}});
    match deployments.patch_scale("weft-controller", &PatchParams::default(), &Patch::Merge(none)).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).context("cannot scale the Deployment weft-controller to 0"),
    }
    loop {
        let pods: Vec<Pod> = cluster.within(HOME).await?;
        let left = part(&pods, "weft-controller").count();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{} of weft-controller did not stop in time", count(left, "pod"));
        }
        sleep(ask_every).await;
    }
}

/// Removes everything; returns a line for each thing that was there.
pub(super) async fn everything(cluster: &Cluster, keep_root: bool) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for definition in definitions(cluster).await? {
        // Grants bear no status.
        let kind = resource(&definition).filter(|kind| kind.kind != "ReferenceGrant");
        let Some(kind) = kind else { continue };
        let objects = cluster.dynamic(&kind).await?;
        if definition.spec.group == EXPERIMENTAL_GROUP {
            lines.extend(delete_made(cluster, &kind, objects).await?);
        } else if definition.spec.group == GATEWAY_GROUP {
            let changed = statuses(cluster, &kind, objects).await?;
            if changed > 0 {
                lines.push(format!("took Weft out of the status of {}", count(changed, &kind.kind)));
            }
        }
    }
    let cleared = super::namespaces::clear(cluster).await?;
    if cleared > 0 {
        lines.push(format!("took Weft's marks off {}", count(cleared, "Namespace")));
    }
    let kind = GroupVersionKind::gvk(GATEWAY_GROUP, "v1", "GatewayClass");
    let kind = ApiResource::from_gvk_with_plural(&kind, "gatewayclasses");
    let mut classes = cluster.dynamic(&kind).await?;
    // Others of the same controller are their makers'.
    classes.retain(|class| class.name_any() == CLASS);
    lines.extend(delete_made(cluster, &kind, classes).await?);
    lines.extend(delete::<Lease>(cluster, "weft-controller").await?);
    lines.extend(delete::<ConfigMap>(cluster, "weft-trust").await?);
    if !keep_root {
        lines.extend(delete::<Secret>(cluster, "weft-ca").await?);
    }
    Ok(lines)
}

async fn delete<K>(cluster: &Cluster, name: &str) -> Result<Option<String>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(cluster.client.clone(), HOME);
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(Some(format!("deleted {} {name}", K::kind(&())))),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot delete {} {name}", K::kind(&()))),
    }
}

/// Deletes those of these objects that name a controller of Weft's.
async fn delete_made(
    cluster: &Cluster,
    kind: &ApiResource,
    objects: Vec<DynamicObject>,
) -> Result<Vec<String>> {
    let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), kind);
    let mut lines = Vec::new();
    let ours = |object: &DynamicObject| {
        let name = object.data.pointer("/spec/controllerName").and_then(Value::as_str);
        name.is_some_and(|name| name.starts_with(CONTROLLERS))
    };
    for object in objects.iter().filter(|object| ours(object)) {
        let name = format!("{} {}", kind.kind, object.name_any());
        match api.delete(&object.name_any(), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).with_context(|| format!("cannot delete {name}")),
            Ok(_) => lines.push(format!("deleted {name}")),
        }
    }
    Ok(lines)
}

/// Takes Weft's entries out of routes' statuses; those of others stay. Returns how many routes had some.
async fn statuses(cluster: &Cluster, kind: &ApiResource, objects: Vec<DynamicObject>) -> Result<usize> {
    let mut changed = 0;
    for object in objects {
        let name = format!("{} {}/{}", kind.kind, object.namespace().unwrap_or_default(), object.name_any());
        if take_out(cluster, kind, object)
            .await
            .with_context(|| format!("cannot clean the status of {name}"))?
        {
            changed += 1;
        }
    }
    Ok(changed)
}

async fn take_out(cluster: &Cluster, kind: &ApiResource, mut object: DynamicObject) -> Result<bool> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &namespace, kind);
    for _ in 0..TRIES {
        let Some(others) = others(&object.data) else { return Ok(false) };
        // With the version that was read: whoever has written meanwhile is not overwritten.
        let version = object.resource_version();
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {"parents": others}});
        let name = object.name_any();
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(kube::Error::Api(status)) if status.code == 409 => object = api.get(&name).await?,
            Err(error) => return Err(error.into()),
        }
    }
    bail!("somebody else keeps writing it")
}

/// The entries of others; none if there is no entry of Weft's.
fn others(route: &Value) -> Option<Vec<&Value>> {
    let entries = route.pointer("/status/parents")?.as_array()?;
    let ours =
        |entry: &&Value| entry["controllerName"].as_str().is_some_and(|name| name.starts_with(CONTROLLERS));
    entries.iter().any(|entry| ours(&entry)).then(|| entries.iter().filter(|entry| !ours(entry)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::others;

    #[test]
    fn only_wefts_entries_are_taken_out() {
        let entry = |name: &str| json!({"controllerName": name, "parentRef": {"name": "web"}});
        let route = |entries: Vec<serde_json::Value>| json!({"status": {"parents": entries}});
        let mixed =
            route(vec![entry("example.com/a"), entry("weft-mesh.dev/mesh"), entry("weft-mesh.dev/gateway")]);
        assert_eq!(others(&mixed), Some(vec![&entry("example.com/a")]));
        assert_eq!(others(&route(vec![entry("example.com/a")])), None);
        assert_eq!(others(&json!({})), None);
    }
}
