//! A folder with one JSON file per object, `<Kind>/<namespace>/<name>.json`, written so that a reader never sees half
//! a file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

/// The namespace folder of cluster-scoped objects.
const CLUSTER_SCOPED: &str = "_";

/// A folder of objects, one file each.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// A store in `root`, which is created on the first write.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of an object.
    pub fn path(&self, kind: &str, namespace: Option<&str>, name: &str) -> io::Result<PathBuf> {
        let namespace = namespace.unwrap_or(CLUSTER_SCOPED);
        for part in [kind, namespace, name] {
            if part.is_empty() || part.starts_with('.') || part.contains(['/', '\0']) {
                let message = format!("{part:?} cannot be part of a file name");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        }
        Ok(self.root.join(kind).join(namespace).join(format!("{name}.json")))
    }

    /// Writes an object under its own kind, namespace and name. Returns whether the file changed.
    pub fn put(&self, object: &Value) -> io::Result<bool> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
        let (kind, name) = (text("/kind").unwrap_or_default(), text("/metadata/name").unwrap_or_default());
        let path = self.path(kind, text("/metadata/namespace"), name)?;
        let mut bytes = serde_json::to_vec_pretty(object)?;
        bytes.push(b'\n');
        if std::fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(false);
        }
        write_atomically(&path, &bytes)?;
        Ok(true)
    }

    /// Removes an object's file. Returns whether there was one.
    pub fn remove(&self, kind: &str, namespace: Option<&str>, name: &str) -> io::Result<bool> {
        match std::fs::remove_file(self.path(kind, namespace, name)?) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Writes beside the file under a name that readers leave out, then renames.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    let write = WRITES.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.{write}", std::process::id()));
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The error that matters is the first one; what is left behind is hidden and harmless.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
