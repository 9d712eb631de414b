//! Whether Weft is being uninstalled: a note on the agents' DaemonSet, in Weft's own namespace. While it is there no pod
//! counts as one of the mesh, whatever the labels say.

use std::convert::Infallible;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use weft_model::uninstall::ANNOTATION;

use super::follow::{Event, Selector, explain, follow};
use super::store::Store;

/// Who bears the note.
const AGENTS: &str = "weft-agent";

/// Keeps the store up to date, for ever.
pub(super) async fn watch(client: Client, namespace: &str, store: &Store) -> Infallible {
    let api: Api<PartialObjectMeta<DaemonSet>> = Api::namespaced(client, namespace);
    let mut found = false;
    follow(&api, Selector::fields(&format!("metadata.name={AGENTS}")), |event| match event {
        Event::ListBegins => found = false,
        Event::Found(set) => found = has_note(&set),
        Event::ListEnds => store.uninstalling(found),
        Event::Applied(set) => store.uninstalling(has_note(&set)),
        // It takes the agents with it: what is enrolled stays so.
        Event::Deleted(_) | Event::Watching => {}
        Event::Failed(error) => {
            tracing::warn!(
                error = explain(&error),
                "watching DaemonSet {AGENTS}; what is known of it stays in force"
            );
        }
    })
    .await
}

fn has_note(set: &PartialObjectMeta<DaemonSet>) -> bool {
    set.annotations().get(ANNOTATION).is_some_and(|note| note == "true")
}
