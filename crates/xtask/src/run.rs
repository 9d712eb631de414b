//! Running other programs: every step is shown before it runs, and a failure names the command.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root folder.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(&here).to_path_buf()
}

/// Where artefacts that are expensive to make are kept between checkouts; may vanish at any time.
pub(crate) fn cache_dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    base.join("weft")
}

/// `cargo` in the workspace's root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Says what runs, runs it with the terminal attached, and fails if it fails.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("== {what}");
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{what}: {command:?} ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output; fails if it fails, with its standard error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = capture(command)?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command and returns all that it printed, whatever its exit status.
pub(crate) fn capture(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start {command:?}"))
}

/// Builds every binary that the lab runs and returns their folder.
pub(crate) fn build_binaries(profile: &str) -> Result<PathBuf> {
    step(
        "building weft, weft-controller, weft-agent, weft-cni and weft-proxy",
        &mut cargo(&["build", "--workspace", "--bins", "--profile", profile]),
    )?;
    Ok(target_dir().join(if profile == "dev" { "debug" } else { profile }))
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
