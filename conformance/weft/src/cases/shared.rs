//! Objects that are not this mesh's alone: a route's status that another controller writes to as well, and manifests that the API
//! server reads as the lab does.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::ALL;
use crate::mesh::{Checks, HTTP_PORTS as HTTP, Mesh, echo, namespace, route, service, sleeper, soon};

const OTHER: &str = "other.example/controller";
const PARENT: &str = "[{group: \"\", kind: Service, name: web}]";

fn web_route(path: &str) -> String {
    let rules = format!(
        "rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: web, port: 80}}]}}]"
    );
    route("HTTPRoute", "a", "shared", PARENT, &rules)
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &sleeper("a", "near", "node1");
    yaml += &(echo("a", "web", "node2", &[]) + &service("a", "web", "web", HTTP));
    yaml + &web_route("/one")
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    two_controllers(checks);
    manifests(checks);
}

fn parents(mesh: &Mesh) -> Result<Vec<Value>> {
    let object = mesh.object("HTTPRoute", "a", "shared")?;
    Ok(object.pointer("/status/parents").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn of<'p>(parents: &'p [Value], controller: &str) -> Vec<&'p Value> {
    parents.iter().filter(|entry| entry["controllerName"] == controller).collect()
}

/// An entry as another controller would write it, for a Gateway of its own, with a condition of its own.
fn foreign() -> Value {
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": "Told", "message": "by somebody else",
            "observedGeneration": 1, "lastTransitionTime": "2020-01-01T00:00:00Z",
        })
    };
    json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs"},
        "controllerName": OTHER,
        "conditions": [condition("Accepted"), condition("other.example/Warm")],
    })
}

/// Writes the list as whoever has the right to may.
fn write_parents(mesh: &Mesh, parents: &[Value]) -> Result<()> {
    let patch = format!("--patch={}", json!({"status": {"parents": parents}}));
    let route = ["patch", "httproute", "shared", "--namespace=a", "--subresource=status", "--type=merge"];
    mesh.kubectl(&[&route[..], &[&patch]].concat(), "")?;
    Ok(())
}

fn two_controllers(checks: &mut Checks<'_>) {
    checks.check("another controller's entry is written", |m| {
        let mut all = parents(m)?;
        ensure!(of(&all, m.place().controller_name()).len() == 1, "{all:?}");
        all.push(foreign());
        write_parents(m, &all)
    });
    checks.check(
        "after an edit this mesh's entry is of the new generation and the other is as it was, in every field",
        |m| {
            m.apply("topology-edit", &web_route("/two"))?;
            let generation = m.object("HTTPRoute", "a", "shared")?["metadata"]["generation"].clone();
            ensure!(generation == 2, "generation {generation}");
            soon(|| {
                let all = parents(m)?;
                let own = of(&all, m.place().controller_name());
                ensure!(
                    own.len() == 1 && own[0]["conditions"][0]["observedGeneration"] == generation,
                    "{all:?}"
                );
                ensure!(of(&all, OTHER) == [&foreign()], "{all:?}");
                Ok(())
            })
        },
    );
    checks.check("the same parent under another controller's name is not this mesh's entry", |m| {
        let mut all = parents(m)?;
        let mut twin = foreign();
        twin["parentRef"] = of(&all, m.place().controller_name())[0]["parentRef"].clone();
        all.retain(|entry| entry["controllerName"] != OTHER);
        all.push(twin.clone());
        write_parents(m, &all)?;
        m.apply("topology-edit", &web_route("/three"))?;
        soon(|| {
            let all = parents(m)?;
            let own = of(&all, m.place().controller_name());
            ensure!(own.len() == 1 && own[0]["conditions"][0]["observedGeneration"] == 3, "{all:?}");
            ensure!(of(&all, OTHER) == [&twin], "{all:?}");
            Ok(())
        })
    });
    checks.check("a status that somebody has emptied is written again", |m| {
        write_parents(m, &[])?;
        soon(|| {
            let all = parents(m)?;
            ensure!(of(&all, m.place().controller_name()).len() == 1, "{all:?}");
            Ok(())
        })
    });
}

/// Routes of every case and every example, as the API server reads them and as the lab does.
fn manifests(checks: &mut Checks<'_>) {
    let mut sources: Vec<(String, String)> =
        ALL.iter().map(|case| (format!("case {}", case.name), (case.topology)())).collect();
    sources.extend(examples());
    for (source, text) in sources {
        checks.check(&format!("the API server reads the routes of {source} as the lab does"), |m| {
            let (objects, problems) = weft_manifest::parse(Path::new(&source), &text);
            ensure!(problems.is_empty(), "{problems:?}");
            let routes = objects.into_iter().filter(|object| object.kind.ends_with("Route"));
            let routes: Vec<Value> = routes
                .map(|object| {
                    let mut json = object.json;
                    json["metadata"]["namespace"] = "a".into();
                    // Two of one name and kind, of different namespaces, would meet here.
                    json["metadata"]["generateName"] = "read-".into();
                    json["metadata"].as_object_mut().context("no metadata")?.remove("name");
                    Ok(json)
                })
                .collect::<Result<_>>()?;
            if routes.is_empty() {
                return Ok(());
            }
            let list = json!({"apiVersion": "v1", "kind": "List", "items": routes}).to_string();
            let told = m.kubectl(&["create", "--dry-run=server", "--output=json", "--filename=-"], &list)?;
            // One document after the other, not a list.
            let read =
                serde_json::Deserializer::from_str(&told).into_iter().collect::<Result<Vec<Value>, _>>()?;
            ensure!(read.len() == routes.len(), "{} of {} came back", read.len(), routes.len());
            for (mut route, read) in routes.into_iter().zip(read) {
                route["metadata"]["name"] = "read".into();
                let admitted =
                    weft_manifest::admit(route, None).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
                ensure!(
                    admitted["spec"] == read["spec"],
                    "lab: {}\nAPI server: {}",
                    admitted["spec"],
                    read["spec"]
                );
            }
            Ok(())
        });
    }
}

/// The YAML files in `deploy/examples`.
fn examples() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let mut folders = vec![root];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml") {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                found.push((format!("example {name}"), std::fs::read_to_string(&path).unwrap_or_default()));
            }
        }
    }
    found.sort();
    found
}
