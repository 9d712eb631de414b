//! The source of objects: a folder of JSON and YAML files. Only files that changed are read and decoded again. What
//! is broken is reported and never takes anything else with it: what a file held before stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use weft_manifest::Changes;
use weft_model::MeshConfig;

use crate::inputs::{Inputs, Object};
use crate::source::{Change, Loaded, Source};

/// The folder is looked through this often even if nothing said that it changed: an overflowing queue of events must
/// not leave old objects in force. Costs a look at each file's metadata.
const RESYNC: Duration = Duration::from_secs(30);

/// A folder and what was read from it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    objects: Vec<Object>,
    problems: Vec<String>,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A folder that is read again whenever it changes.
#[derive(Debug)]
pub struct WatchedFolder {
    folder: Folder,
    changes: Changes,
    read: bool,
}

impl WatchedFolder {
    /// Watches, and reads nothing yet.
    ///
    /// # Errors
    /// The folder cannot be watched.
    pub fn new(path: &Path) -> io::Result<Self> {
        let changes = weft_manifest::watch(path).map_err(io::Error::other)?;
        Ok(Self { folder: Folder::new(path), changes, read: false })
    }
}

impl Source for WatchedFolder {
    async fn changed(&mut self) -> Change {
        if std::mem::replace(&mut self.read, true) {
            match tokio::time::timeout(RESYNC, self.changes.next()).await {
                Ok(Some(())) | Err(_) => {}
                // The watcher is gone: look again and again instead.
                Ok(None) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
        Change::Objects
    }

    fn load(&mut self, mesh: &MeshConfig) -> Option<Loaded> {
        Some(self.folder.load(mesh))
    }
}

impl Folder {
    /// A folder, not read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files: BTreeMap::new() }
    }

    /// Reads what changed since the last time and returns everything.
    pub fn load(&mut self, mesh: &MeshConfig) -> Loaded {
        let mut problems = BTreeSet::new();
        let mut found = BTreeMap::new();
        match find(&self.path, &mut found) {
            Ok(()) => self.refresh(found),
            Err(error) => {
                problems
                    .insert(format!("{}: {error}: what was read before stays in force", self.path.display()));
            }
        }
        let mut inputs = Inputs::new(mesh.clone());
        for (path, file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for object in &file.objects {
                if !inputs.insert(object) {
                    problems.insert(format!(
                        "{}: {} is in another file as well; the one here is taken, keep one of them",
                        path.display(),
                        object.title()
                    ));
                }
            }
        }
        Loaded { inputs, problems }
    }

    fn refresh(&mut self, found: BTreeMap<PathBuf, Stamp>) {
        self.files.retain(|path, _| found.contains_key(path));
        for (path, stamp) in found {
            if self.files.get(&path).is_some_and(|file| file.stamp == stamp) {
                continue;
            }
            let before = self.files.remove(&path).map(|file| file.objects).unwrap_or_default();
            if let Some(file) = read(&path, stamp, before) {
                self.files.insert(path, file);
            }
        }
    }
}

/// Reads one file. Objects that it held before and that cannot be read now stay as they were. `None`: it is gone.
fn read(path: &Path, stamp: Stamp, before: Vec<Object>) -> Option<File> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            let problem = format!("{}: {error}: what it held before stays in force", path.display());
            return Some(File { stamp, objects: before, problems: vec![problem] });
        }
    };
    let (parsed, errors) = weft_manifest::parse(path, &text);
    let mut problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let mut objects = Vec::new();
    for object in parsed {
        match Object::decode(object.json) {
            Ok(object) => objects.push(object),
            Err(error) => problems.push(format!("{}: {error}", object.source)),
        }
    }
    if !problems.is_empty() {
        let known: BTreeSet<String> = objects.iter().map(Object::title).collect();
        objects.extend(before.into_iter().filter(|object| !known.contains(&object.title())));
    }
    Some(File { stamp, objects, problems })
}

/// Finds the files of a folder and its subfolders. Names that begin with a dot are left out: temporary files.
fn find(folder: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            // Gone between listing and looking: as if it had never been listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if metadata.is_dir() {
            match find(&path, found) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        } else if matches!(extension, "json" | "yaml" | "yml") {
            let modified = (metadata.mtime(), metadata.mtime_nsec());
            found.insert(path, Stamp { inode: metadata.ino(), size: metadata.len(), modified });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
