//! Statuses into a folder, one file per route. Unchanged files are left alone.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use weft_manifest::Store;

use super::{Routes, StatusSink, Statuses, merge};
use crate::inputs::{Route, RouteKind, RouteName};
use crate::translate::status::RouteStatus;

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
}

impl StatusSink for StatusWriter {
    fn write(&mut self, statuses: &Statuses, routes: &Routes, now: &str) -> Vec<io::Error> {
        let mut errors = Vec::new();
        for (name, status) in &**statuses {
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
}

impl StatusWriter {
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
