//! A folder of manifests, or a single file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::kinds::{admit, is_namespaced};
use crate::object::{Object, Problem, Source};
use crate::read::parse;

/// What a folder holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The objects that are sound, in order of file and document.
    pub objects: Vec<Object>,
    /// What is wrong with the others.
    pub errors: Vec<Problem>,
}

/// Reads folders (with subfolders) of `.yaml`, `.yml` and `.json` files. Names that begin with a dot are left out.
#[derive(Clone, Copy, Debug)]
pub struct Folder;

impl Folder {
    /// Reads what a user wrote, as an API server would take it: namespaces filled in (`default`), unknown fields
    /// and invalid values refused, defaults applied, `status` dropped, older served versions converted.
    pub fn load(path: &Path) -> Loaded {
        let Loaded { objects, mut errors } = Self::read(path);
        let mut sound = Vec::with_capacity(objects.len());
        for object in objects {
            match admitted(object) {
                Ok(object) => sound.push(object),
                Err(problems) => errors.extend(problems),
            }
        }
        Loaded { objects: sound, errors }
    }

    /// Reads what a program wrote: objects as they are, only parsed. Objects that appear twice are errors here too.
    pub fn read(path: &Path) -> Loaded {
        let mut loaded = Loaded::default();
        let mut files = Vec::new();
        if let Err(problem) = find(path, &mut files) {
            loaded.errors.push(problem);
        }
        files.sort();
        for file in files {
            match std::fs::read_to_string(&file) {
                Ok(text) => {
                    let (objects, problems) = parse(&file, &text);
                    loaded.objects.extend(objects.into_iter().map(in_namespace));
                    loaded.errors.extend(problems);
                }
                // Gone between listing and reading: as if it had never been listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => loaded.errors.push(unreadable(&file, &error)),
            }
        }
        refuse_duplicates(&mut loaded);
        loaded
    }
}

fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Problem> {
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if metadata.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
        let entry = entry.map_err(|error| unreadable(path, &error))?;
        let child = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let is_manifest = child
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|e| extension == *e));
        if child.is_dir() {
            find(&child, files)?;
        } else if is_manifest {
            files.push(child);
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem { source: None, object: None, message: format!("{}: {error}", path.display()) }
}

/// `kubectl` puts namespaced objects that name no namespace into `default`.
fn in_namespace(mut object: Object) -> Object {
    if object.namespace.is_none() && is_namespaced(&object.api_version, &object.kind) == Some(true) {
        object.namespace = Some("default".to_owned());
        if let Some(metadata) = object.json.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".to_owned(), "default".into());
        }
    }
    object
}

fn admitted(object: Object) -> Result<Object, Vec<Problem>> {
    let title = object.title();
    let source = object.source;
    let mut json = object.json;
    if let Some(fields) = json.as_object_mut() {
        fields.shift_remove("status");
    }
    match admit(json, None) {
        Ok(json) => {
            let api_version = json.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
            Ok(Object {
                api_version,
                json,
                source,
                kind: object.kind,
                namespace: object.namespace,
                name: object.name,
            })
        }
        Err(errors) => Err(errors
            .into_iter()
            .map(|error| Problem {
                source: Some(source.clone()),
                object: Some(title.clone()),
                message: error.to_string(),
            })
            .collect()),
    }
}

/// Keeps the first of several objects with one name, and says where both are.
fn refuse_duplicates(loaded: &mut Loaded) {
    let mut first: BTreeMap<_, Source> = BTreeMap::new();
    let mut problems = Vec::new();
    loaded.objects.retain(|object| match first.get(&object.key()) {
        None => {
            first.insert(object.key(), object.source.clone());
            true
        }
        Some(source) => {
            let message = format!("defined twice: also in {source}; keep one");
            problems.push(Problem {
                source: Some(object.source.clone()),
                object: Some(object.title()),
                message,
            });
            false
        }
    });
    loaded.errors.extend(problems);
}
