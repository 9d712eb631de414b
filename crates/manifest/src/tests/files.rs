//! Folders: documents, lines, duplicates, atomic writes, changes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::{Changes, Folder, Loaded, Store, watch};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn errors(loaded: &Loaded, folder: &Path) -> Vec<String> {
    let prefix = format!("{}/", folder.display());
    loaded.errors.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
}

const ACCOUNTS: &str = "# two of them\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n---\n\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ServiceAccount, metadata: {name: b, namespace: shop}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n";

#[test]
fn documents_lists_and_formats_are_read_and_namespaces_filled_in() {
    let json = r#"{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "c"}}"#;
    let folder =
        folder(&[("a.yaml", ACCOUNTS), ("sub/b.json", json), (".hidden.yaml", "x"), ("note.txt", "x")]);
    let loaded = Folder::load(folder.path());
    assert_eq!(errors(&loaded, folder.path()), [""; 0]);
    let titles: Vec<String> = loaded.objects.iter().map(crate::Object::title).collect();
    assert_eq!(
        titles,
        ["ServiceAccount default/a", "ServiceAccount shop/b", "Namespace shop", "ServiceAccount default/c"]
    );
    assert_eq!(loaded.objects[1].source.document, 2);
}

#[test]
fn errors_name_file_line_and_document_and_do_not_spoil_the_rest() {
    let bad = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: ok}\n---\napiVersion: v1\nkind: [broken\n---\nkind: Pod\n---\napiVersion: example.com/v1\nkind: Teapot\nmetadata: {name: t}\n";
    let folder = folder(&[("bad.yaml", bad), ("worse.json", "{\n\"a\": }")]);
    let loaded = Folder::load(folder.path());
    assert_eq!(loaded.objects.len(), 1);
    let errors = errors(&loaded, folder.path());
    let starts = [
        "bad.yaml:",
        "bad.yaml:7 (document 3): apiVersion is missing: every Kubernetes object needs it",
        "worse.json:2 (document 1): no valid JSON: expected value",
        "bad.yaml:9 (document 4): Teapot t: unknown kind Teapot of example.com/v1: Weft works with",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}");
    }
    assert!(errors[0].contains("(document 2): no valid YAML"), "{errors:?}");
}

#[test]
fn an_object_defined_twice_is_an_error_naming_both_places() {
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n";
    let folder = folder(&[("one.yaml", account), ("two.yaml", account)]);
    let loaded = Folder::load(folder.path());
    assert_eq!(loaded.objects.len(), 1);
    assert_eq!(
        errors(&loaded, folder.path()),
        [
            "two.yaml:1 (document 1): ServiceAccount default/a: defined twice: also in one.yaml:1 (document 1); keep one"
        ]
    );
}

#[test]
fn a_missing_folder_is_an_error() {
    let loaded = Folder::load(Path::new("/nonexistent/weft"));
    assert_eq!(loaded.errors.len(), 1);
}

#[test]
fn stores_write_one_file_per_object_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().join("cluster"));
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "a"}, "status": {"phase": "Running"}});
    assert!(store.put(&object).unwrap());
    assert!(!store.put(&object).unwrap(), "an equal object is not written again");
    assert!(folder.path().join("cluster/Pod/a/p.json").exists());
    let cluster_scoped = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    assert!(store.put(&cluster_scoped).unwrap());
    let loaded = Folder::read(store.root());
    assert_eq!(loaded.errors, []);
    assert_eq!(loaded.objects.len(), 2);
    assert!(loaded.objects.iter().any(|read| read.json == object), "read keeps the status");
    assert!(store.remove("Pod", Some("a"), "p").unwrap());
    assert!(!store.remove("Pod", Some("a"), "p").unwrap());
    for name in ["../x", "", ".x", "a/b"] {
        assert!(store.path("Pod", Some("a"), name).is_err(), "{name}");
    }
}

async fn changed(changes: &mut Changes) -> bool {
    tokio::time::timeout(Duration::from_secs(5), changes.next()).await == Ok(Some(()))
}

async fn quiet(changes: &mut Changes) -> bool {
    tokio::time::timeout(Duration::from_millis(700), changes.next()).await.is_err()
}

#[tokio::test]
async fn changes_of_a_folder_are_told_once_and_reading_is_no_change() {
    let folder = folder(&[("a.yaml", ACCOUNTS)]);
    let mut changes = watch(folder.path()).unwrap();
    Folder::load(folder.path());
    assert!(quiet(&mut changes).await, "reading told a change");
    for _ in 0..3 {
        fs::write(folder.path().join("a.yaml"), "").unwrap();
    }
    assert!(changed(&mut changes).await);
    assert!(quiet(&mut changes).await, "one burst told twice");
    // Stores write below folders that are new.
    Store::new(folder.path())
        .put(&json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "a"}}))
        .unwrap();
    assert!(changed(&mut changes).await);
}

#[tokio::test]
async fn a_watched_file_survives_being_renamed_over() {
    let folder = folder(&[("a.yaml", ACCOUNTS)]);
    let file = folder.path().join("a.yaml");
    let mut changes = watch(&file).unwrap();
    for _ in 0..2 {
        fs::write(folder.path().join("a.yaml~"), "").unwrap();
        fs::rename(folder.path().join("a.yaml~"), &file).unwrap();
        assert!(changed(&mut changes).await);
    }
    fs::write(folder.path().join("other.yaml"), "").unwrap();
    assert!(quiet(&mut changes).await, "another file's change was told");
}
