//! The Gateway API's types, from the vendored CustomResourceDefinitions, by kopium.
//!
//! kopium runs as a program of a pinned version, installed into the cache folder the first time: its library leaves
//! out what its program does around it, and both bring a Kubernetes client of an older version. The options are
//! [`OPTIONS`]: no `CustomResource` derive, which would bring `kube`; the CRDs' documentation as comments; `Default`
//! and `PartialEq` derived where they can be, which the controller's code and tests stand on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use regex::Regex;

use crate::Generated;

/// The version whose output is committed.
const KOPIUM: &str = "0.24.1";

const OPTIONS: [&str; 7] =
    ["--hide-kube", "--docs", "--smart-derive-elision", "--derive", "Default", "--derive", "PartialEq"];

/// The kinds that Weft decodes. The other vendored CRDs are only validated against.
const MODULES: [&str; 12] = [
    "backendtlspolicies",
    "gatewayclasses",
    "gateways",
    "grpcroutes",
    "httproutes",
    "listenersets",
    "referencegrants",
    "tcproutes",
    "tlsroutes",
    "udproutes",
    "xbackends",
    "xbackendtrafficpolicies",
];

/// Generates `crates/gateway-api/src/generated/*.rs`.
pub(crate) fn generate(root: &Path) -> Result<Vec<Generated>> {
    let folder = root.join("crates/gateway-api");
    let kopium = kopium()?;
    let generate = |module: &str| -> Result<Generated> {
        // Kinds of the experimental group begin with an X.
        let group = if module.starts_with('x') { "x-k8s.io" } else { "k8s.io" };
        let crd = format!("crds/gateway.networking.{group}_{module}.yaml");
        let output = Command::new(&kopium).args(["-f", &crd]).args(OPTIONS).current_dir(&folder).output()?;
        if !output.status.success() {
            bail!("kopium failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = without_integer_enums(&String::from_utf8(output.stdout)?)?;
        Ok(Generated { path: folder.join(format!("src/generated/{module}.rs")), text })
    };
    MODULES.iter().map(|module| generate(module).with_context(|| (*module).to_owned())).collect()
}

/// Removes enums of integers. kopium makes them of texts (`#[serde(rename = "301")]`), which no number in an object
/// would fit; fields that have such a type become `i64`, as the fields of the same kind that kopium leaves integers.
fn without_integer_enums(text: &str) -> Result<String> {
    let item = Regex::new(
        r#"(?m)(?:^[ \t]*///[^\n]*\n)*(?:^#\[[^\n]*\]\n)*^pub enum (\w+) \{\n(?:[ \t]*#\[serde\(rename = "-?\d+"\)\]\n[ \t]*[^\n]+,\n)+\}\n\n?"#,
    )?;
    let names: Vec<String> =
        item.captures_iter(text).filter_map(|found| Some(found.get(1)?.as_str().to_owned())).collect();
    let mut text = item.replace_all(text, "").into_owned();
    for name in names {
        text = Regex::new(&format!(r"\b{name}\b"))?.replace_all(&text, "i64").into_owned();
    }
    Ok(text)
}

/// The pinned kopium: `KOPIUM` if set, else the one in the cache folder, installed if it is not there.
fn kopium() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KOPIUM") {
        return verified(path.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let folder =
        cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join(format!("weft/kopium-{KOPIUM}"));
    let program = folder.join("bin/kopium");
    if !program.exists() {
        println!("installing kopium {KOPIUM} into {}", folder.display());
        let installed = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["install", "kopium", "--locked", "--version", KOPIUM, "--root"])
            .arg(&folder)
            .status()?;
        if !installed.success() {
            bail!("cargo install kopium failed: {installed}");
        }
    }
    verified(program)
}

/// Another version would write other code.
fn verified(program: PathBuf) -> Result<PathBuf> {
    let output =
        Command::new(&program).arg("--version").output().with_context(|| program.display().to_string())?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if version != format!("kopium {KOPIUM}") {
        bail!("{} is {version:?}, not kopium {KOPIUM}", program.display());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::without_integer_enums;

    #[test]
    fn enums_of_integers_become_integers_and_others_stay() {
        let text = "pub struct S {\n    pub code: Option<SCode>,\n}\n\n/// Doc.\n#[derive(Debug)]\npub enum SCode {\n    #[serde(rename = \"301\")]\n    r#_301,\n    #[serde(rename = \"302\")]\n    r#_302,\n}\n\n#[derive(Debug)]\npub enum SType {\n    #[serde(rename = \"301a\")]\n    A,\n    Exact,\n}\n";
        let expected = "pub struct S {\n    pub code: Option<i64>,\n}\n\n#[derive(Debug)]\npub enum SType {\n    #[serde(rename = \"301a\")]\n    A,\n    Exact,\n}\n";
        assert_eq!(without_integer_enums(text).unwrap(), expected);
    }
}
