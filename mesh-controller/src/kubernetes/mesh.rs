//! The XMesh object: what this mesh can do, where the conformance suite and people look for it. Made by the leader when
//! the kind is there and the object is not (GEP-3949); its spec is its owner's and is never changed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Error, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use weft_runtime::backoff::Backoff;

use super::follow::{Event, Selector, explain, follow, is, within};
use super::raw::Raw;
use super::watch::while_served;
use crate::translate::status::CONTROLLER_NAME;

/// The object that is made.
pub const NAME: &str = "weft";
const GROUP: &str = "gateway.networking.x-k8s.io";
const DEFINITION: &str = "xmeshes.gateway.networking.x-k8s.io";
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);

/// What works, by the names of the Gateway API v1.7.0, in their order: the mesh features, and those others that unlock
/// mesh tests.
pub const FEATURES: [&str; 17] = [
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// The objects by name; `None` until they have been listed.
type Objects = Option<BTreeMap<String, Raw>>;

/// Keeps the mesh's object and its status as they should be, for ever. For the leader; may be dropped at any time.
pub async fn keep(client: Client, namespace: &str) -> Infallible {
    let client = &client;
    while_served(client, DEFINITION, |version| async move { keep_version(client, namespace, &version).await })
        .await
}

async fn keep_version(client: &Client, namespace: &str, version: &str) -> Infallible {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, "XMesh"), "xmeshes");
    let api: Api<Raw> = Api::all_with(client.clone(), &resource);
    let (told, mut objects) = watch::channel(Objects::None);
    let mut found = BTreeMap::new();
    let watching = follow(&api, Selector::ALL, |event| match event {
        Event::ListBegins => found.clear(),
        Event::Found(object) => drop(found.insert(object.name_any(), object)),
        Event::ListEnds => drop(told.send_replace(Some(std::mem::take(&mut found)))),
        Event::Applied(object) => told.send_modify(|objects| {
            objects.get_or_insert_default().insert(object.name_any(), object);
        }),
        Event::Deleted(object) => told.send_modify(|objects| {
            objects.get_or_insert_default().remove(&object.name_any());
        }),
        Event::Watching => {}
        Event::Failed(error) => {
            tracing::warn!(error = explain(&error), "XMesh cannot be watched; trying again")
        }
    });
    let writing = async {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        loop {
            let now = objects.borrow_and_update().clone();
            let mut retry = Duration::MAX;
            let done = match &now {
                Some(now) => bring_up_to_date(&api, &resource, namespace, now).await,
                None => Ok(()),
            };
            match done {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    retry = backoff.next_delay();
                    tracing::warn!(error = explain(&error), ?retry, "XMesh cannot be written; trying again");
                }
            }
            tokio::select! {
                _ = objects.changed() => {}
                () = tokio::time::sleep(retry) => {}
            }
        }
    };
    tokio::select! {
        never = watching => never,
        never = writing => never,
    }
}

async fn bring_up_to_date(
    api: &Api<Raw>,
    resource: &ApiResource,
    namespace: &str,
    objects: &BTreeMap<String, Raw>,
) -> Result<(), Error> {
    if !objects.contains_key(NAME) {
        let object = Raw::from(json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": NAME}, "spec": {"controllerName": CONTROLLER_NAME},
        }));
        match within(CALL, api.create(&PostParams::default(), &object)).await {
            Ok(_) => tracing::info!("made XMesh {NAME}"),
            // Somebody else made it: the watch brings it.
            Err(error) if is(&error, 409) => {}
            Err(error) => return Err(error),
        }
    }
    for (name, object) in objects {
        if object.text("/spec/controllerName") != CONTROLLER_NAME {
            if name == NAME {
                tracing::warn!("XMesh {NAME} is another controller's; no object says what this mesh can do");
            }
            continue;
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Some(status) = due(object, namespace, &now) else { continue };
        let patch = json!({
            "metadata": {"resourceVersion": object.resource_version()},
            "status": status,
        });
        match within(CALL, api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))).await {
            Ok(_) => tracing::info!("wrote the status of XMesh {name}"),
            // Changed or gone meanwhile: the watch brings it.
            Err(error) if is(&error, 409) || is(&error, 404) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The object's status with our part brought up to date; `None` if it is so already. Conditions of types that are not
/// ours stay.
fn due(object: &Raw, namespace: &str, now: &str) -> Option<Value> {
    let before = object.json.get("status").cloned().unwrap_or(Value::Null);
    let conditions =
        before.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let is_accepted = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some("Accepted");
    let old = conditions.iter().find(is_accepted);
    let accepted = accepted(object, namespace, old, now);
    let mut next: Vec<Value> = conditions.to_vec();
    match next.iter_mut().find(|condition| is_accepted(&&**condition)) {
        Some(condition) => *condition = accepted,
        None => next.push(accepted),
    }
    let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
    let mut status = before.as_object().cloned().unwrap_or_default();
    status.insert("conditions".to_owned(), next.into());
    status.insert("supportedFeatures".to_owned(), features.into());
    let status = Value::Object(status);
    (status != before).then_some(status)
}

fn accepted(object: &Raw, namespace: &str, old: Option<&Value>, now: &str) -> Value {
    let (status, reason, message) = match object.json.pointer("/spec/parametersRef") {
        Some(parameters) if !parameters.is_null() => (
            "False",
            "InvalidParameters",
            "Weft's mesh takes no parameters: remove spec.parametersRef. Until then everything is as if it were not there."
                .to_owned(),
        ),
        _ => (
            "True",
            "Accepted",
            format!("Served by Weft {} in namespace {namespace}.", env!("CARGO_PKG_VERSION")),
        ),
    };
    let same = old.filter(|old| old.get("status").and_then(Value::as_str) == Some(status));
    let time = same.and_then(|old| old.get("lastTransitionTime")).cloned().unwrap_or_else(|| now.into());
    json!({
        "type": "Accepted", "status": status, "reason": reason, "message": message,
        "observedGeneration": object.generation(), "lastTransitionTime": time,
    })
}

#[cfg(test)]
mod tests;
