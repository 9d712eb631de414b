//! Rules about who may depend on whom (`ARCHITECTURE.md`, "Crates"), read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;

/// The programs and their libraries: none depends on another. The controller embeds the certificate authority.
const PROGRAMS: &[&str] = &["weft-proxy", "weft-controller", "weft-cni", "weft"];
/// Crates without async, I/O, Kubernetes or protobuf, and all that they may use.
const PURE: &[(&str, &[&str])] = &[
    ("weft-model", &["serde", "serde_json", "ipnet", "thiserror"]),
    ("weft-routing", &["weft-model", "http", "regex", "ahash", "rand", "thiserror", "bytes"]),
];
/// External crates that only some of ours may name.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("rustls", &["weft-tls"]),
    ("tokio-rustls", &["weft-tls"]),
    ("rustls-webpki", &["weft-tls"]),
    ("prost", &["weft-api"]),
    ("tonic-prost", &["weft-api"]),
    ("kube", &["weft-controller", "weft-ca", "weft-cni", "weft"]),
    // The CEL library brings chrono for its durations; ours is jiff.
    ("chrono", &[]),
    ("weft-gateway-api", &["weft-controller", "weft-manifest"]),
];
/// Never in any build.
const BANNED: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls", "serde_yaml"];

/// Direct, non-development dependencies by package name.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Checks the workspace.
pub(super) fn check() -> Result<Vec<String>> {
    let text = run::read(&mut run::cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).context("reading cargo's metadata")?;
    Ok(judge(&edges(&metadata), &built()?))
}

/// The direct dependencies of our own packages.
fn edges(metadata: &Value) -> Edges {
    let members: BTreeSet<&str> = strings(&metadata["workspace_members"]).collect();
    let packages =
        array(&metadata["packages"]).filter(|p| p["id"].as_str().is_some_and(|id| members.contains(id)));
    packages
        .map(|package| {
            let normal = array(&package["dependencies"]).filter(|d| d["kind"].is_null());
            let names = normal.filter_map(|d| d["name"].as_str()).map(str::to_owned).collect();
            (package["name"].as_str().unwrap_or_default().to_owned(), names)
        })
        .collect()
}

/// The names of all packages that some build of the workspace compiles. Not from the metadata: that also names
/// optional dependencies that nobody enables.
fn built() -> Result<BTreeSet<String>> {
    let mut tree = run::cargo(&["tree", "--workspace", "--locked", "--target", "all", "--prefix", "none"]);
    tree.args(["--edges", "normal,build"]);
    Ok(run::read(&mut tree)?.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect())
}

fn judge(edges: &Edges, built: &BTreeSet<String>) -> Vec<String> {
    let mut findings = Vec::new();
    for (package, dependencies) in edges {
        for dependency in dependencies {
            let from_program = PROGRAMS.contains(&package.as_str());
            if from_program && PROGRAMS.contains(&dependency.as_str()) {
                findings
                    .push(format!("{package} depends on {dependency}: programs never depend on each other"));
            }
            if PURE.iter().any(|(pure, allowed)| pure == package && !allowed.contains(&dependency.as_str())) {
                findings.push(format!("{package} depends on {dependency}: it is to stay pure"));
            }
            if KEPT_TO.iter().any(|(kept, to)| kept == dependency && !to.contains(&package.as_str())) {
                findings
                    .push(format!("{package} depends on {dependency}, which is another crate's business"));
            }
        }
    }
    findings.extend(BANNED.iter().filter(|b| built.contains(**b)).map(|b| format!("{b} is in the build")));
    findings
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    array(value).filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_fault() {
        let edge = |from: &str, to: &str| Edges::from([(from.to_owned(), BTreeSet::from([to.to_owned()]))]);
        let none = BTreeSet::new();
        assert_eq!(judge(&edge("weft-proxy", "weft-controller"), &none).len(), 1);
        assert_eq!(judge(&edge("weft-model", "tokio"), &none).len(), 1);
        assert_eq!(judge(&edge("weft-proxy", "rustls"), &none).len(), 1);
        assert_eq!(judge(&Edges::new(), &BTreeSet::from(["ring".to_owned()])).len(), 1);
        assert_eq!(judge(&edge("weft-proxy", "weft-tls"), &none), Vec::<String>::new());
    }
}
