//! What Gateways need, as files in a folder: for the lab, which plays the API server to them.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use weft_manifest::{Folder, Store};

use super::class;
use super::plan::{Action, Desired, Id, Observed, id, plan};
use super::refused::{Refused, gather};

/// What could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// An object in the place of one of a Gateway that was there before takes two: it goes, and the new one comes.
const ROUNDS: usize = 2;
/// The version that the GatewayClass is written in.
const API_VERSION: &str = "gateway.networking.k8s.io/v1";

/// Keeps a folder as it should be, for ever: one file an object, and the GatewayClass that comes with Weft. `refused`: what
/// could not be made.
///
/// # Errors
/// The folder cannot be written to when it begins.
pub fn keep(
    folder: PathBuf,
    desired: watch::Receiver<Option<Arc<Desired>>>,
    refused: watch::Sender<Refused>,
) -> io::Result<impl Future<Output = Infallible>> {
    let store = Store::new(folder);
    store.put(&class(API_VERSION))?;
    Ok(follow(store, desired, refused))
}

async fn follow(
    store: Store,
    mut desired: watch::Receiver<Option<Arc<Desired>>>,
    refused: watch::Sender<Refused>,
) -> Infallible {
    desired.mark_changed();
    let mut failed = false;
    loop {
        tokio::select! {
            changed = desired.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
        let Some(wanted) = desired.borrow_and_update().clone() else { continue };
        let store = store.clone();
        let done = tokio::task::spawn_blocking(move || bring(&store, &wanted)).await;
        let (problems, blocked) = done.unwrap_or_else(|error| (vec![error.to_string()], Refused::new()));
        refused.send_if_modified(|refused| std::mem::replace(refused, blocked) != *refused);
        failed = !problems.is_empty();
        for problem in problems {
            tracing::warn!("what a Gateway needs could not be written: {problem}; trying again");
        }
    }
}

/// Brings the folder to what it should be; what went wrong, and what of it is a Gateway's to say.
fn bring(store: &Store, wanted: &Desired) -> (Vec<String>, Refused) {
    let (mut problems, mut blocked) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let actions = plan(wanted, &observed(store));
        if actions.is_empty() {
            break;
        }
        for (id, action) in actions {
            if let Action::Blocked { gateway, why } = &action {
                blocked.push((gateway.clone(), id.clone(), why.clone()));
            }
            if let Err(why) = act(store, &id, action) {
                problems.push(format!("{id}: {why}"));
            }
        }
    }
    (problems, gather(blocked.into_iter(), &observed(store), wanted))
}

fn observed(store: &Store) -> Observed {
    let objects = Folder::read(store.root()).objects.into_iter();
    objects.filter_map(|object| Some((id(&object.json)?, object.json))).collect()
}

fn act(store: &Store, id: &Id, action: Action) -> Result<(), String> {
    let (kind, namespace) = (id.made.resource().2, Some(&*id.name.namespace));
    match action {
        Action::Blocked { why, .. } => return Err(why),
        Action::Apply { object, .. } => store.put(&object).map(drop),
        Action::Delete { .. } => store.remove(kind, namespace, &id.name.name).map(drop),
    }
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_model::ObjectName;

    use super::super::plan::ForGateway;
    use super::super::tests::{settings, subject};
    use super::*;

    fn wanted(uid: &str) -> Desired {
        let subject = super::super::Subject { uid: uid.to_owned(), ..subject() };
        let objects = super::super::desired(&subject, &settings());
        [(subject.name, ForGateway::Exactly { uid: uid.to_owned(), objects })].into()
    }

    #[test]
    fn folder_holds_what_gateways_need_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let file = folder.path().join("Deployment/shop/front-weft.json");
        let owner = || {
            let object: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            object["metadata"]["ownerReferences"][0]["uid"].clone()
        };
        assert_eq!(bring(&store, &wanted("u")), (vec![], Refused::new()));
        assert_eq!(owner(), json!("u"));
        // A Gateway of the same name that came after it.
        assert_eq!(bring(&store, &wanted("v")), (vec![], Refused::new()));
        assert_eq!(owner(), json!("v"));
        // What cannot be judged now stays.
        let unknown = [(ObjectName::new("shop", "front"), ForGateway::AsItIs)].into();
        assert_eq!(bring(&store, &unknown), (vec![], Refused::new()));
        assert!(file.exists());
        assert_eq!(bring(&store, &Desired::new()), (vec![], Refused::new()));
        assert!(observed(&store).is_empty());
    }
}
