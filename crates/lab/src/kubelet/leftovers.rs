//! Processes that a container's program left behind: found by the pod's network namespace, and
//! by the session that the launcher opened for the container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::PodSpec;

/// Kills what is left of one container (`session`), or of the whole pod.
pub(super) fn end(spec: &PodSpec, session: Option<i32>) {
    let Ok(netns) = fs::metadata(spec.netns()).map(|m| m.ino()) else { return };
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let here = fs::metadata(entry.path().join("ns/net")).is_ok_and(|m| m.ino() == netns);
        if here && !is_daemon(&entry.path()) && session.is_none_or(|s| session_of(&entry.path()) == Some(s)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Agent and proxy step into pods' namespaces for a moment; they are no leftovers.
fn is_daemon(process: &Path) -> bool {
    fs::read_link(process.join("exe")).is_ok_and(|exe| {
        exe.file_name().is_some_and(|n| {
            n.to_string_lossy().starts_with("weft-proxy") || n.to_string_lossy().starts_with("weft-agent")
        })
    })
}

fn session_of(process: &Path) -> Option<i32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(3)?.parse().ok()
}
