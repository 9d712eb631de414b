//! The watch of one kind: of its definition first, where it has one, then of its objects in the version that is served.

use std::convert::Infallible;

use kube::{Api, Client};
use tokio::sync::watch;

use super::definition::Definition;
use super::discovery::discover;
use super::follow::{Event, Selector, explain, follow};
use super::kinds::{self, Served};
use super::raw::Raw;
use super::store::{Decoded, Part, Store, name_of};
use crate::inputs::Kind;

/// Keeps the store up to date with a kind, for ever.
pub(super) async fn watch(client: Client, kind: Kind, store: &Store) -> Infallible {
    if kinds::is_optional(kind) {
        return watch_optional(&client, kind, store).await;
    }
    let Some(name) = kinds::definition(kind) else {
        return watch_version(&client, kind, "v1", store).await;
    };
    let (served, changes) = watch::channel(Served::Unknown);
    let definitions = watch_definition(client.clone(), &name, &served, |told| match told {
        Told::Is(definition) => store.definition(kind, definition.map(kinds::installed)),
        Told::Working => store.working(kind, Part::Definition),
        Told::Failed(why) => store.failed(kind, Part::Definition, why),
    });
    tokio::select! {
        never = definitions => never,
        never = watch_objects(&client, kind, changes, store) => never,
    }
}

/// As [`watch`], of a built-in kind that is not served everywhere.
async fn watch_optional(client: &Client, kind: Kind, store: &Store) -> Infallible {
    let (served, changes) = watch::channel(Served::Unknown);
    let versions = discover(client, kind, &served, |outcome| match outcome {
        Ok(is_served) => {
            store.definition(kind, is_served.then(Default::default));
            store.working(kind, Part::Definition);
        }
        Err(why) => store.failed(kind, Part::Definition, why),
    });
    tokio::select! {
        never = versions => never,
        never = watch_objects(client, kind, changes, store) => never,
    }
}

async fn watch_objects(
    client: &Client,
    kind: Kind,
    mut changes: watch::Receiver<Served>,
    store: &Store,
) -> Infallible {
    loop {
        let served = changes.borrow_and_update().clone();
        tokio::select! {
            _ = changes.changed() => {}
            never = watch_served(client, kind, &served, store) => match never {},
        }
    }
}

/// What the watch of a definition tells.
pub(super) enum Told<'a> {
    /// The definition as it is now, before anything is made of it; `None`: there is none.
    Is(Option<&'a Definition>),
    /// The watch works.
    Working,
    /// It does not, and why.
    Failed(String),
}

/// Keeps `served` up to date with the definition of a name, for ever, and tells what it sees and whether that works.
pub(super) async fn watch_definition(
    client: Client,
    name: &str,
    served: &watch::Sender<Served>,
    tell: impl Fn(Told<'_>),
) -> Infallible {
    let api: Api<Definition> = Api::all(client);
    let set = |definition: Option<&Definition>| {
        tell(Told::Is(definition));
        let to = definition.map_or(Served::Absent, Served::of);
        served.send_if_modified(|served| {
            let changed = *served != to;
            if changed {
                tracing::info!(definition = name, now = ?to, "what the API server serves has changed");
                *served = to;
            }
            changed
        });
    };
    let mut found = None;
    follow(&api, Selector::fields(&format!("metadata.name={name}")), |event| match event {
        Event::ListBegins => found = None,
        Event::Found(definition) => found = Some(definition),
        Event::ListEnds => set(found.as_ref()),
        Event::Applied(definition) => set(Some(&definition)),
        Event::Deleted(_) => set(None),
        Event::Watching => tell(Told::Working),
        Event::Failed(error) => {
            tell(Told::Failed(format!("CustomResourceDefinition {name}: {}", explain(&error))));
        }
    })
    .await
}

/// Runs `keep` with the version of a kind that is served, for as long as it is; for ever.
pub(super) async fn while_served<F: Future<Output = Infallible>>(
    client: &Client,
    definition: &str,
    keep: impl Fn(String) -> F,
) -> Infallible {
    let (served, mut changes) = watch::channel(Served::Unknown);
    let definitions = watch_definition(client.clone(), definition, &served, |told| {
        if let Told::Failed(why) = told {
            tracing::warn!(why, "cannot be watched; trying again");
        }
    });
    let objects = async {
        loop {
            let served = changes.borrow_and_update().clone();
            let keeping = async {
                match served {
                    Served::Version(version) => keep(version).await,
                    Served::Unknown | Served::Absent | Served::Nothing => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                never = keeping => match never {},
            }
        }
    };
    tokio::select! {
        never = definitions => never,
        never = objects => never,
    }
}

async fn watch_served(client: &Client, kind: Kind, served: &Served, store: &Store) -> Infallible {
    match served {
        Served::Unknown => {}
        Served::Absent => store.absent(kind),
        Served::Nothing => store.unreadable(
            kind,
            format!(
                "the CustomResourceDefinition of {kind} is not established or serves no version, so its objects \
                 cannot be read: those that were read before stay in force. Install the CRDs of the Gateway API anew"
            ),
        ),
        Served::Version(version) => return watch_version(client, kind, version, store).await,
    }
    std::future::pending().await
}

async fn watch_version(client: &Client, kind: Kind, version: &str, store: &Store) -> Infallible {
    store.listing(kind);
    let resource = kinds::resource(kind, version);
    let api: Api<Raw> = Api::all_with(client.clone(), &resource);
    let mut found = Vec::new();
    follow(&api, kinds::selector(kind), |event| match event {
        Event::ListBegins => found.clear(),
        Event::Found(raw) => found.push(Decoded::of(kind, raw, &resource)),
        Event::ListEnds => store.listed(kind, std::mem::take(&mut found)),
        Event::Watching => store.working(kind, Part::Objects),
        Event::Applied(raw) => store.applied(kind, Decoded::of(kind, raw, &resource)),
        Event::Deleted(raw) => store.deleted(kind, &name_of(&raw)),
        Event::Failed(error) => store.failed(kind, Part::Objects, explain(&error)),
    })
    .await
}
