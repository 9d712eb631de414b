//! Reading a folder that is edited, also badly.

use std::fs;
use std::path::Path;

use weft_model::TrustDomain;

use super::*;

fn mesh() -> MeshConfig {
    MeshConfig {
        trust_domain: TrustDomain("td".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: Vec::new(),
        pod_ranges: Vec::new(),
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let temporary = folder.join(".writing");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

fn services(loaded: &Loaded) -> Vec<String> {
    let first_port =
        |s: &k8s_openapi::api::core::v1::Service| s.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port;
    loaded.inputs.services.iter().map(|(name, s)| format!("{}:{}", name.name, first_port(s))).collect()
}

#[test]
fn additions_edits_and_removals_are_seen_also_in_subfolders() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = Folder::new(dir.path());
    write(dir.path(), "one.yaml", &format!("{}---\n{}", service("a", "1"), service("b", "2")));
    write(
        dir.path(),
        "Service/shop/c.json",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"shop","name":"c"},"spec":{"ports":[{"port":3}]}}"#,
    );
    write(dir.path(), "notes.txt", "no manifest");
    let loaded = folder.load(&mesh());
    assert_eq!(services(&loaded), ["a:1", "b:2", "c:3"]);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);

    write(dir.path(), "one.yaml", &service("a", "9"));
    fs::remove_file(dir.path().join("Service/shop/c.json")).unwrap();
    assert_eq!(services(&folder.load(&mesh())), ["a:9"]);
}

#[test]
fn broken_file_keeps_what_it_held_and_disturbs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = Folder::new(dir.path());
    write(dir.path(), "a.yaml", &service("a", "1"));
    write(dir.path(), "b.yaml", &service("b", "1"));
    folder.load(&mesh());

    write(dir.path(), "a.yaml", "apiVersion: [");
    write(dir.path(), "b.yaml", &service("b", "2"));
    let loaded = folder.load(&mesh());
    assert_eq!(services(&loaded), ["a:1", "b:2"]);
    assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);

    // Readable, but not as a Service.
    write(dir.path(), "a.yaml", &service("a", "{}"));
    let loaded = folder.load(&mesh());
    assert_eq!(services(&loaded), ["a:1", "b:2"]);
    assert!(loaded.problems.iter().any(|p| p.contains("shop/a")), "{:?}", loaded.problems);

    write(dir.path(), "a.yaml", &service("a", "3"));
    let loaded = folder.load(&mesh());
    assert_eq!(services(&loaded), ["a:3", "b:2"]);
    assert!(loaded.problems.is_empty());
}

#[test]
fn folder_that_is_gone_takes_nothing_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    let mut folder = Folder::new(&path);
    write(&path, "a.yaml", &service("a", "1"));
    folder.load(&mesh());
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    let loaded = folder.load(&mesh());
    assert_eq!(services(&loaded), ["a:1"]);
    assert_eq!(loaded.problems.len(), 1);
}

#[test]
fn object_in_two_files_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &service("a", "1"));
    write(dir.path(), "b.yaml", &service("a", "2"));
    let loaded = Folder::new(dir.path()).load(&mesh());
    assert_eq!(services(&loaded), ["a:2"]);
    assert!(loaded.problems.iter().any(|p| p.contains("Service shop/a is in another file")));
}
