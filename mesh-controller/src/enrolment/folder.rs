//! Where enrolment is kept and shown when there is no API server: `Namespace/_/<name>.json` in the status folder, with
//! the annotations and the condition that a Namespace has in a cluster.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use weft_manifest::Store;
use weft_model::Text;

use super::memory::{Memory, Unwritten};
use super::record::CONDITION;
use super::{NamespaceState, Record};

/// The folder.
#[derive(Debug)]
pub struct Folder {
    store: Store,
    written: BTreeMap<Text, Value>,
}

impl Folder {
    /// A folder of statuses.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { store: Store::new(root), written: BTreeMap::new() }
    }
}

impl Memory for Folder {
    fn read(&mut self) -> io::Result<BTreeMap<Text, Record>> {
        self.written.clear();
        for file in std::fs::read_dir(self.store.root().join("Namespace/_")).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            // A dot in front: a file that was being written.
            let Some(name) = name.strip_suffix(".json").filter(|name| !name.starts_with('.')) else {
                continue;
            };
            let object =
                std::fs::read(file.path()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            // A file that cannot be read was a namespace of the mesh all the same: `Record::read` closes it.
            self.written.insert(Text::from(name), object.unwrap_or(Value::Null));
        }
        Ok(self.written.iter().filter_map(|(name, object)| Some((name.clone(), read(object)?))).collect())
    }

    fn write(&mut self, namespaces: &BTreeMap<Text, NamespaceState>, now: &str) -> Vec<Unwritten> {
        let mut errors = Vec::new();
        for (name, state) in namespaces {
            let object = object(name, state, self.written.get(name), now);
            if self.written.get(name) == Some(&object) {
                continue;
            }
            match self.store.put(&object) {
                Ok(_) => drop(self.written.insert(name.clone(), object)),
                Err(error) => errors.push(described(name, &error)),
            }
        }
        let gone: Vec<Text> =
            self.written.keys().filter(|name| !namespaces.contains_key(*name)).cloned().collect();
        for name in gone {
            match self.store.remove("Namespace", None, &name) {
                Ok(_) => drop(self.written.remove(&name)),
                Err(error) => errors.push(described(&name, &error)),
            }
        }
        errors
    }
}

fn described(name: &Text, error: &io::Error) -> Unwritten {
    let text = format!("the enrolment of namespace {name} cannot be kept in the status folder: {error}");
    Unwritten { namespace: name.clone(), record: true, error: io::Error::new(error.kind(), text) }
}

/// What was kept of a namespace; nothing of one that was not in the mesh.
fn read(object: &Value) -> Option<Record> {
    let annotations = object.pointer("/metadata/annotations");
    if object.pointer("/status/conditions/0/reason").is_some_and(|reason| reason == "InvalidLabel") {
        return None;
    }
    Some(Record::read(|key| annotations?.get(key)?.as_str()).unwrap_or_default())
}

fn object(name: &str, state: &NamespaceState, before: Option<&Value>, now: &str) -> Value {
    let mut condition = state.condition();
    let earlier = before.and_then(|before| before.pointer("/status/conditions/0"));
    let same = earlier.filter(|earlier| earlier.get("status") == condition.get("status"));
    let since = same.and_then(|earlier| earlier.get("lastTransitionTime")).cloned();
    if let Some(fields) = condition.as_object_mut() {
        fields.insert("lastTransitionTime".to_owned(), since.unwrap_or_else(|| now.into()));
    }
    debug_assert_eq!(condition.get("type"), Some(&CONDITION.into()));
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "annotations": state.record().map(|record| record.annotations())},
        "status": {"conditions": [condition]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::Phase;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn state(phase: Phase) -> NamespaceState {
        NamespaceState { phase, since: NOW.parse().unwrap(), ..NamespaceState::default() }
    }

    #[test]
    fn what_was_written_is_what_the_next_process_begins_with() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(dir.path());
        assert!(folder.read().unwrap().is_empty());
        let all = [("a", Phase::Enrolling), ("b", Phase::Strict), ("c", Phase::Leaving)];
        let states = all.iter().map(|(name, phase)| (Text::from(*name), state(*phase))).collect();
        assert!(folder.write(&states, NOW).is_empty());
        let mut folder = Folder::new(dir.path());
        let records = folder.read().unwrap();
        let expected: Vec<_> = all.iter().map(|(_, phase)| state(*phase).record().unwrap()).collect();
        assert_eq!(records.into_values().collect::<Vec<_>>(), expected);
        assert!(folder.write(&BTreeMap::new(), NOW).is_empty());
        assert!(Folder::new(dir.path()).read().unwrap().is_empty());
    }

    #[test]
    fn a_namespace_that_is_only_mislabelled_is_none_of_the_mesh_for_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let states = BTreeMap::from([("typo".into(), state(Phase::Outside))]);
        assert!(Folder::new(dir.path()).write(&states, NOW).is_empty());
        let mut folder = Folder::new(dir.path());
        assert!(folder.read().unwrap().is_empty());
        assert!(folder.write(&BTreeMap::new(), NOW).is_empty());
        assert!(!dir.path().join("Namespace/_/typo.json").exists(), "what was said is taken back");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_strict_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("Namespace/_");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("torn.json"), "{\"metadata\": {").unwrap();
        let odd = json!({"metadata": {"annotations": {"weft-mesh.dev/enrolment": "ajar"}}});
        std::fs::write(files.join("odd.json"), odd.to_string()).unwrap();
        let half = json!({"metadata": {"annotations": {"weft-mesh.dev/enrolment": "enrolling"}}});
        std::fs::write(files.join("half.json"), half.to_string()).unwrap();
        let records = Folder::new(dir.path()).read().unwrap();
        assert_eq!(records.len(), 3);
        assert!(records.values().all(|record| record.phase == Phase::Strict), "{records:?}");
    }
}
