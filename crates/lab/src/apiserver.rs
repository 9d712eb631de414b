//! Plays the API server: takes objects from the user's folder, refuses what an API server would
//! refuse, fills in what it would fill in, and keeps the *cluster folder* that controller and
//! agents read: one JSON file per object, replaced atomically.

mod address;
mod kinds;
pub(crate) mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::apiserver::address::Addresses;
use crate::apiserver::source::Document;
use crate::config::LabConfig;
use crate::files;
use crate::objects::{Key, new_uid, now, set, set_metadata, text};
use crate::report::RejectedObject;
use crate::secrets;

/// All objects of the cluster.
pub(crate) struct Store {
    objects: BTreeMap<Key, Value>,
    /// Which file an object of the user came from.
    origin: BTreeMap<Key, PathBuf>,
    /// Pods as the user wrote them; the live ones, with node and status, are among `objects`.
    pod_templates: BTreeMap<Key, Value>,
    /// What is on disk already.
    written: BTreeMap<Key, Value>,
    addresses: Addresses,
    folder: PathBuf,
    resource_version: u64,
    ipv6: bool,
    /// What was refused in the last reading of the folder.
    pub(crate) rejected: Vec<RejectedObject>,
}

impl Store {
    pub(crate) fn new(config: &LabConfig) -> Self {
        Self {
            objects: BTreeMap::new(),
            origin: BTreeMap::new(),
            pod_templates: BTreeMap::new(),
            written: BTreeMap::new(),
            addresses: Addresses::new(config.uplink),
            folder: config.state.cluster(),
            resource_version: 0,
            ipv6: config.ipv6,
            rejected: Vec::new(),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    /// Objects of a kind, in order of namespace and name.
    pub(crate) fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a Key, &'a Value)> + 'a {
        self.objects.iter().filter(move |(key, _)| key.kind == kind)
    }

    /// Takes the folder's present content: new and changed objects in, missing ones out. What is
    /// refused, and what stood in a file that cannot be read now, stays as it was.
    pub(crate) fn apply_folder(&mut self, documents: Vec<Document>, broken: Vec<RejectedObject>) {
        let unreadable: BTreeSet<PathBuf> = broken.iter().filter_map(|r| source::file_of(&r.place)).collect();
        self.rejected = broken;
        let mut present = BTreeSet::new();
        let (namespaces, others): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|d| text(&d.object, "/kind") == "Namespace");
        let mut seen = BTreeMap::new();
        for document in namespaces.into_iter().chain(others) {
            let place = document.place();
            let key = kinds::key(&document.object);
            let first = seen.insert(key.clone(), place.clone());
            present.insert(key.clone());
            let taken = match first {
                // Its owner decides what it says; the controller's own is for want of one.
                Some(_) if key.kind == "GatewayClass" && document.made => continue,
                Some(first) => Err(format!("is already defined at {first}: remove one of the two")),
                None => self.take(&key, document),
            };
            if let Err(message) = taken {
                self.rejected.push(RejectedObject { place, object: key.to_string(), message });
            }
        }
        let gone: Vec<Key> = self
            .origin
            .iter()
            .filter(|(key, file)| !present.contains(*key) && !unreadable.contains(*file))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.origin.remove(&key);
            // A pod's object goes when the pod has ended.
            if self.pod_templates.remove(&key).is_none() {
                self.remove(&key);
            }
        }
        self.default_accounts();
        self.rejected.sort();
    }

    fn take(&mut self, key: &Key, document: Document) -> Result<(), String> {
        let Document { file, mut object, .. } = document;
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
        if !key.namespace.is_empty() {
            set_metadata(&mut object, "namespace", json!(key.namespace));
        }
        object = kinds::admit(key, object, self.objects.get(key))?;
        if !key.namespace.is_empty() && !self.objects.contains_key(&Key::new("Namespace", "", &key.namespace))
        {
            return Err(format!(
                "namespaces {:?} not found: add a Namespace object to the folder",
                key.namespace
            ));
        }
        match key.kind.as_str() {
            "Namespace" => label_namespace(&key.name, &mut object),
            "Service" => self.addresses.admit_service(key, &mut object, self.objects.get(key), self.ipv6)?,
            _ => {}
        }
        if key.kind == "Pod" {
            self.pod_templates.insert(key.clone(), object);
        } else {
            self.put(key.clone(), object);
        }
        self.origin.insert(key.clone(), file);
        Ok(())
    }

    /// Every namespace has a ServiceAccount `default`.
    fn default_accounts(&mut self) {
        let wanted = self
            .kind("Namespace")
            .map(|(key, _)| {
                let account = Key::new("ServiceAccount", &key.name, "default");
                let metadata = json!({"name": "default", "namespace": key.name});
                (account, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))
            })
            .collect();
        self.replace_owned("ServiceAccount", wanted);
    }

    /// Stores an object, keeping uid and creation time, and counts its generation up when its
    /// spec changed. Storing what is there already changes nothing.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) {
        let old = self.objects.get(&key);
        let kept = |pointer: &str| old.and_then(|o| o.pointer(pointer)).cloned();
        if object.pointer("/metadata/uid").is_none() {
            set_metadata(&mut object, "uid", kept("/metadata/uid").unwrap_or_else(|| json!(new_uid())));
        }
        let created = kept("/metadata/creationTimestamp").unwrap_or_else(|| json!(now()));
        set_metadata(&mut object, "creationTimestamp", created);
        let generation = kept("/metadata/generation").and_then(|g| g.as_u64()).unwrap_or(0);
        let same_spec = old.is_some_and(|o| without_metadata(o) == without_metadata(&object));
        let generation = if same_spec { generation } else { generation.saturating_add(1) };
        set_metadata(&mut object, "generation", json!(generation));
        if let Some(version) = kept("/metadata/resourceVersion") {
            set_metadata(&mut object, "resourceVersion", version);
        }
        if old == Some(&object) {
            return;
        }
        self.resource_version = self.resource_version.saturating_add(1);
        set_metadata(&mut object, "resourceVersion", json!(self.resource_version.to_string()));
        self.objects.insert(key, object);
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        self.objects.remove(key);
        self.addresses.release(key);
    }

    /// Pods as the user wrote them.
    pub(crate) fn pod_templates(&self) -> &BTreeMap<Key, Value> {
        &self.pod_templates
    }

    /// Keeps a built-in Service's addresses from being given to others.
    pub(crate) fn reserve(&mut self, key: &Key, object: &Value) {
        self.addresses.reserve(key, object);
    }

    fn is_users(&self, key: &Key) -> bool {
        self.origin.contains_key(key) && !self.pod_templates.contains_key(key)
    }

    /// Replaces all objects of a kind that the lab itself makes, marked by an owner label.
    pub(crate) fn replace_owned(&mut self, kind: &str, wanted: Vec<(Key, Value)>) {
        let keep: BTreeSet<&Key> = wanted.iter().map(|(key, _)| key).collect();
        let gone: Vec<Key> = self
            .kind(kind)
            .map(|(key, _)| key)
            .filter(|key| !self.is_users(key) && !keep.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key);
        }
        for (key, value) in wanted {
            if !self.is_users(&key) {
                self.put(key, value);
            }
        }
    }

    /// Brings the cluster folder up to date: writes what differs, removes what is gone.
    pub(crate) fn sync(&mut self) -> Result<()> {
        for (key, value) in &self.objects {
            if self.written.get(key) != Some(value) {
                write(&self.folder.join(key.path()), key, &serde_json::to_string_pretty(value)?)?;
                self.written.insert(key.clone(), value.clone());
            }
        }
        let gone: Vec<Key> =
            self.written.keys().filter(|k| !self.objects.contains_key(*k)).cloned().collect();
        for key in gone {
            std::fs::remove_file(self.folder.join(key.path()))?;
            self.written.remove(&key);
        }
        Ok(())
    }
}

/// Secrets are for their owner's eyes.
fn write(file: &Path, key: &Key, text: &str) -> std::io::Result<()> {
    match key.kind.as_str() {
        "Secret" => secrets::write_private(file, text),
        _ => files::write_atomic(file, text.as_bytes()),
    }
}

/// The label that selectors by namespace name rely on.
fn label_namespace(name: &str, object: &mut Value) {
    let mut labels = object.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    set(&mut labels, "kubernetes.io/metadata.name", json!(name));
    set_metadata(object, "labels", labels);
    set(object, "status", json!({"phase": "Active"}));
}

/// Spec and other user-owned parts: what a generation counts.
fn without_metadata(object: &Value) -> Value {
    let mut copy = object.clone();
    if let Some(map) = copy.as_object_mut() {
        map.remove("metadata");
        map.remove("status");
    }
    copy
}

#[cfg(test)]
mod tests;
