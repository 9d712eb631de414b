//! Writing route statuses: our entries are merged into what the object's status says, unchanged files are left alone.
//! Here into a folder, one file per route.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use weft_manifest::Store;

use crate::inputs::{Route, RouteKind, RouteName};
use crate::translate::status::{CONTROLLER_NAME, RouteStatus};

/// The condition types that are ours in an entry of ours; others in there are somebody else's and stay.
const OWNED: [&str; 3] = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];

/// Writes statuses to files `<Kind>/<namespace>/<name>.json`.
#[derive(Debug)]
pub struct StatusWriter {
    store: Store,
    /// What stands in the files that this process has written or read.
    written: BTreeMap<RouteName, Value>,
    /// Files that were there before this process have been looked through.
    cleaned: bool,
}

impl StatusWriter {
    /// A writer into a folder, which is created with the first status.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { store: Store::new(folder), written: BTreeMap::new(), cleaned: false }
    }

    /// Writes every status that differs from what was written, and removes those of routes that have none any more.
    /// One that cannot be written does not keep the others from being written; the errors are returned. `now` is the
    /// time for conditions that have changed, as RFC 3339.
    pub fn write(
        &mut self,
        statuses: &BTreeMap<RouteName, RouteStatus>,
        routes: &BTreeMap<RouteName, std::sync::Arc<Route>>,
        now: &str,
    ) -> Vec<io::Error> {
        let mut errors = Vec::new();
        for (name, status) in statuses {
            let Some(route) = routes.get(name) else { continue };
            if let Err(error) = self.write_one(route, status, now) {
                errors.push(io::Error::new(
                    error.kind(),
                    format!("the status of {name} cannot be written: {error}"),
                ));
            }
        }
        let gone: Vec<RouteName> = match self.cleaned {
            true => self.written.keys().filter(|name| !statuses.contains_key(*name)).cloned().collect(),
            false => self.on_disk().into_iter().filter(|name| !statuses.contains_key(name)).collect(),
        };
        self.cleaned = true;
        for name in gone {
            let RouteName { kind, name: object } = &name;
            match self.store.remove(kind.as_str(), Some(&object.namespace), &object.name) {
                Ok(_) => drop(self.written.remove(&name)),
                Err(error) => errors.push(io::Error::new(
                    error.kind(),
                    format!("the status of {name} cannot be removed: {error}"),
                )),
            }
        }
        errors
    }

    fn write_one(&mut self, route: &Route, status: &RouteStatus, now: &str) -> io::Result<()> {
        if !self.written.contains_key(&route.name)
            && let Some(before) = self.read(&route.name)
        {
            self.written.insert(route.name.clone(), before);
        }
        let before = self.written.get(&route.name);
        let object = json!({
            "apiVersion": route.api_version,
            "kind": route.name.kind.as_str(),
            "metadata": {
                "namespace": &*route.name.name.namespace,
                "name": &*route.name.name.name,
                "uid": route.uid,
                "generation": route.generation,
            },
            "status": merge(&route.status, before.and_then(|before| before.get("status")), status, now),
        });
        if before != Some(&object) {
            self.store.put(&object)?;
            self.written.insert(route.name.clone(), object);
        }
        Ok(())
    }

    fn read(&self, name: &RouteName) -> Option<Value> {
        let path = self.store.path(name.kind.as_str(), Some(&name.name.namespace), &name.name.name).ok()?;
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// The routes that have a file.
    fn on_disk(&self) -> Vec<RouteName> {
        let kinds = [RouteKind::Grpc, RouteKind::Http, RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp];
        let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut found = Vec::new();
        for kind in kinds {
            for namespace in entries(self.store.root().join(kind.as_str())) {
                let of = namespace.file_name().to_string_lossy().into_owned();
                for file in entries(namespace.path()) {
                    let file = file.file_name();
                    // A name with a dot in front is a file that was being written.
                    if let Some(name) =
                        file.to_string_lossy().strip_suffix(".json").filter(|n| !n.starts_with('.'))
                    {
                        found.push(RouteName { kind, name: weft_model::ObjectName::new(of.as_str(), name) });
                    }
                }
            }
        }
        found
    }
}

/// The object's status with our entries brought up to date. `current` is the object's own status; `before` what we
/// wrote last, where that is kept apart from the object. The list of parents is shared with other controllers: their
/// entries stay as they are and where they are. A condition keeps its
/// `lastTransitionTime` while its status stays the same.
pub fn merge(current: &Value, before: Option<&Value>, ours: &RouteStatus, now: &str) -> Value {
    let parents =
        |status: &Value| status.get("parents").and_then(Value::as_array).cloned().unwrap_or_default();
    let current_parents = parents(current);
    let known: Vec<Value> =
        before.map(parents).unwrap_or_default().into_iter().chain(current_parents.clone()).collect();
    let mut merged: Vec<Value> = current_parents.into_iter().filter(|entry| !is_ours(entry)).collect();
    // The API admits 32 entries; others' come first.
    let room = 32_usize.saturating_sub(merged.len());
    merged.extend(ours.parents.iter().take(room).filter_map(|parent| {
        let mut entry = serde_json::to_value(parent).ok()?;
        let earlier = known.iter().find(|old| is_ours(old) && old.get("parentRef") == entry.get("parentRef"));
        set_times(&mut entry, earlier, now);
        Some(entry)
    }));
    let mut status = current.as_object().cloned().unwrap_or_else(Map::new);
    status.insert("parents".to_owned(), Value::Array(merged));
    Value::Object(status)
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME)
}

fn set_times(entry: &mut Value, earlier: Option<&Value>, now: &str) {
    let earlier = earlier.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
    let Some(conditions) = entry.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for condition in &mut *conditions {
        let same = |old: &&Value| {
            old.get("type") == condition.get("type") && old.get("status") == condition.get("status")
        };
        let time =
            earlier.into_iter().flatten().find(same).and_then(|old| old.get("lastTransitionTime")).cloned();
        if let Some(fields) = condition.as_object_mut() {
            fields.insert("lastTransitionTime".to_owned(), time.unwrap_or_else(|| now.into()));
        }
    }
    let kind = |condition: &Value| condition.get("type").and_then(Value::as_str).map(str::to_owned);
    let foreign = |old: &&Value| kind(old).is_some_and(|kind| !OWNED.contains(&kind.as_str()));
    conditions.extend(earlier.into_iter().flatten().filter(foreign).cloned());
}

#[cfg(test)]
mod tests;
