//! Pods and namespaces from a folder with one JSON file per object, read again every 100 ms where files changed.
//! Whoever writes the folder replaces files by rename, so a file is never seen half written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use weft_model::Text;
use weft_model::workload::Exempt;

use super::{Pod, PodSource, Table, label};

const INTERVAL: Duration = Duration::from_millis(100);

/// A folder of objects.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    node: Text,
    exempt: Exempt,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Debug)]
struct File {
    version: Version,
    object: Option<Value>,
}

/// Changes whenever a file is replaced or written.
#[derive(Debug, PartialEq, Eq)]
struct Version(u64, u64, i64, i64);

impl Folder {
    /// The folder, for the pods of one node.
    #[must_use]
    pub const fn new(path: PathBuf, node: Text, exempt: Exempt) -> Self {
        Self { path, node, exempt, files: BTreeMap::new() }
    }

    /// Reads what changed since the last time.
    fn read(&mut self) -> Table {
        let mut paths = Vec::new();
        for kind in ["Pod", "Namespace"] {
            for namespace in entries(&self.path.join(kind)) {
                paths
                    .extend(entries(&namespace).filter(|path| path.extension().is_some_and(|e| e == "json")));
            }
        }
        // A listing that runs while files are renamed may leave one out: ask for each known one by name too.
        paths.extend(self.files.keys().cloned());
        paths.sort();
        paths.dedup();
        for path in paths {
            self.read_file(path);
        }
        self.table()
    }

    fn read_file(&mut self, path: PathBuf) {
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.files.remove(&path);
                }
                return;
            }
        };
        let version = Version(metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        if self.files.get(&path).is_some_and(|file| file.version == version) {
            return;
        }
        let object = match fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).map_err(|error| error.to_string()))
        {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::warn!(path = %path.display(), error, "object not readable; its last good form stays");
                self.files.remove(&path).and_then(|file| file.object)
            }
        };
        self.files.insert(path, File { version, object });
    }

    fn table(&self) -> Table {
        let mut table = Table { exempt: self.exempt.clone(), ..Table::default() };
        for object in self.files.values().filter_map(|file| file.object.as_ref()) {
            match object.get("kind").and_then(Value::as_str) {
                Some("Pod") => {
                    let Some(pod) = Pod::from_object(object) else { continue };
                    if pod.node.as_deref() == Some(&*self.node) {
                        table.pods.insert(pod.name.clone(), pod);
                    }
                }
                Some("Namespace") => {
                    if let Some(name) = object.pointer("/metadata/name").and_then(Value::as_str) {
                        table.namespaces.insert(name.into(), label(object));
                    }
                }
                _ => {}
            }
        }
        table
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

impl PodSource for Folder {
    async fn run(mut self, tables: watch::Sender<Option<Arc<Table>>>) {
        loop {
            super::publish(&tables, self.read());
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn write(folder: &Path, path: &str, object: &Value) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, object.to_string()).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    #[test]
    fn changes_are_seen_and_broken_files_keep_the_last_good_form() {
        let folder = tempfile::tempdir().unwrap();
        let mut source = Folder::new(folder.path().to_owned(), "one".into(), Exempt::default());
        assert_eq!(source.read(), Table::default());
        let mut pod = json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": "a", "uid": "u"},
            "spec": {"nodeName": "one"}});
        write(folder.path(), "Pod/shop/a.json", &pod);
        write(
            folder.path(),
            "Namespace/_/shop.json",
            &json!({"kind": "Namespace", "metadata": {"name": "shop"}}),
        );
        assert_eq!(source.read().pods.len(), 1);
        fs::write(folder.path().join("Pod/shop/a.json"), "{").unwrap();
        assert_eq!(source.read().pods.len(), 1);
        pod["spec"]["nodeName"] = "two".into();
        write(folder.path(), "Pod/shop/a.json", &pod);
        assert_eq!(source.read().pods.len(), 0);
        assert_eq!(source.read().namespaces.len(), 1);
        fs::remove_file(folder.path().join("Namespace/_/shop.json")).unwrap();
        assert_eq!(source.read(), Table::default());
    }
}
