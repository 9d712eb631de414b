//! Statuses into a folder, one file per object. Unchanged files are left alone.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use weft_manifest::Store;

use super::{StatusSink, Statuses, merge};
use crate::inputs::{Head, Heads, Kind, ObjectId};
use crate::translate::status::Status;

/// Writes statuses to files `<Kind>/<namespace>/<name>.json`.
#[derive(Debug)]
pub struct StatusWriter {
    store: Store,
    /// What stands in the files that this process has written or read.
    written: BTreeMap<ObjectId, Value>,
    /// Files that were there before this process have been looked through.
    cleaned: bool,
}

impl StatusWriter {
    /// A writer into a folder, which is created with the first status.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { store: Store::new(folder), written: BTreeMap::new(), cleaned: false }
    }
}

impl StatusSink for StatusWriter {
    fn write(&mut self, statuses: &Statuses, objects: &Heads, now: &str) -> Vec<io::Error> {
        let mut errors = Vec::new();
        for (id, status) in &**statuses {
            let Some(head) = objects.get(id) else { continue };
            if let Err(error) = self.write_one(head, status, now) {
                errors.push(io::Error::new(
                    error.kind(),
                    format!("the status of {id} cannot be written: {error}"),
                ));
            }
        }
        let gone: Vec<ObjectId> = match self.cleaned {
            true => self.written.keys().filter(|id| !statuses.contains_key(*id)).cloned().collect(),
            false => self.on_disk().into_iter().filter(|id| !statuses.contains_key(id)).collect(),
        };
        self.cleaned = true;
        for id in gone {
            match self.store.remove(id.kind.as_str(), namespace(&id), &id.name.name) {
                Ok(_) => drop(self.written.remove(&id)),
                Err(error) => errors.push(io::Error::new(
                    error.kind(),
                    format!("the status of {id} cannot be removed: {error}"),
                )),
            }
        }
        errors
    }
}

/// `None` for what lives in no namespace.
fn namespace(id: &ObjectId) -> Option<&str> {
    Some(&*id.name.namespace).filter(|_| id.kind.is_namespaced())
}

impl StatusWriter {
    fn write_one(&mut self, head: &Head, status: &Status, now: &str) -> io::Result<()> {
        let id = &head.id;
        if !self.written.contains_key(id)
            && let Some(before) = self.read(id)
        {
            self.written.insert(id.clone(), before);
        }
        let before = self.written.get(id);
        let mut metadata = json!({"name": &*id.name.name, "uid": head.uid, "generation": head.generation});
        if let (Some(namespace), Some(fields)) = (namespace(id), metadata.as_object_mut()) {
            fields.insert("namespace".to_owned(), namespace.into());
        }
        let object = json!({
            "apiVersion": head.api_version,
            "kind": id.kind.as_str(),
            "metadata": metadata,
            "status": merge(&head.status, before.and_then(|before| before.get("status")), status, now),
        });
        if before != Some(&object) {
            self.store.put(&object)?;
            self.written.insert(id.clone(), object);
        }
        Ok(())
    }

    fn read(&self, id: &ObjectId) -> Option<Value> {
        let path = self.store.path(id.kind.as_str(), namespace(id), &id.name.name).ok()?;
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// The objects that have a file.
    fn on_disk(&self) -> Vec<ObjectId> {
        let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut found = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.has_status()) {
            for namespace in entries(self.store.root().join(kind.as_str())) {
                let of = namespace.file_name().to_string_lossy().into_owned();
                let of = if kind.is_namespaced() { of.as_str() } else { "" };
                for file in entries(namespace.path()) {
                    let file = file.file_name();
                    // A name with a dot in front is a file that was being written.
                    if let Some(name) =
                        file.to_string_lossy().strip_suffix(".json").filter(|n| !n.starts_with('.'))
                    {
                        found.push(ObjectId { kind, name: weft_model::ObjectName::new(of, name) });
                    }
                }
            }
        }
        found
    }
}
