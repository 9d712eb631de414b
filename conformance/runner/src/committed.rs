//! The report that is committed: that of one run of all profiles. Runs of all are held against the whole of it, runs of
//! the mesh profiles against what it says of those.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{report, suite};

/// Writes a run's report in the place of the committed one.
///
/// # Errors
/// If there is none, or it cannot be written.
pub fn update(workspace: &Path, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no report {}", file.display()))?;
    let committed = place(workspace, &report::parse(&text)?);
    std::fs::create_dir_all(committed.parent().unwrap_or(&committed))?;
    println!("== writing {}", committed.display());
    Ok(std::fs::write(committed, text)?)
}

/// How a run's report of these profiles differs from the committed one.
///
/// # Errors
/// If one of the two cannot be read.
pub fn differences(workspace: &Path, now: &Value, profiles: &[&str]) -> Result<Vec<String>> {
    let committed = report::only(&read(&place(workspace, now))?, profiles);
    let differences = report::differences(&committed, &report::only(now, profiles));
    Ok(differences.into_iter().map(|d| format!("the report differs from the committed one: {d}")).collect())
}

/// Reads a report.
///
/// # Errors
/// If it is not there, or no YAML.
pub fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("no report {}", file.display()))?;
    report::parse(&text)
}

/// Where the report for this version and channel is committed.
fn place(workspace: &Path, report: &Value) -> PathBuf {
    let channel = report.get("gatewayAPIChannel").and_then(Value::as_str).unwrap_or_default();
    let name = format!("{channel}-{}-default-report.yaml", suite::version());
    workspace.join("conformance/reports/v1.7/weft-mesh-weft").join(name)
}
