//! Generated code is formatted like all other code, so that `cargo fmt` leaves it alone.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Formats `text` by the workspace's `rustfmt.toml`.
pub(crate) fn rustfmt(text: &str, root: &Path) -> Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--emit", "stdout", "--config-path"])
        .arg(root.join("rustfmt.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take();
    let text = text.to_owned();
    let writer =
        std::thread::spawn(move || stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(text.as_bytes())));
    let output = child.wait_with_output()?;
    match writer.join() {
        Ok(written) => written?,
        Err(_) => bail!("the thread that feeds rustfmt panicked"),
    }
    if !output.status.success() {
        bail!("rustfmt failed: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
