//! Small file operations that must be exact: atomic replacement and process liveness.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::config::State;

/// Replaces a file in one step, so that a reader sees the old or the new content.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(parent)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.new"));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// When the process started, in the kernel's ticks: tells a reused pid from the same process.
pub(crate) fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    if fields.next() == Some("Z") {
        return None;
    }
    // Field 22 of the line; the state above was field 3.
    fields.nth(18)?.parse().ok()
}

/// Remembers process 1, by number and start. A process that is gone already is remembered as such.
pub(crate) fn write_pid(state: &State, pid: u32) -> io::Result<()> {
    let started = process_start(pid).unwrap_or(0);
    write_atomic(&state.pid(), format!("{pid} {started}\n").as_bytes())
}

/// The running lab's process 1 as seen from outside, if it runs.
pub(crate) fn running(state: &State) -> Option<u32> {
    let text = fs::read_to_string(state.pid()).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let (pid, started): (u32, u64) = (pid.parse().ok()?, started.parse().ok()?);
    (process_start(pid)? == started).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_pid_and_start() {
        let folder = tempfile::tempdir().unwrap();
        let state = State(folder.path().to_path_buf());
        let me = std::process::id();
        let started = process_start(me).unwrap();
        fs::write(state.pid(), format!("{me} {started}\n")).unwrap();
        assert_eq!(running(&state), Some(me));
        fs::write(state.pid(), format!("{me} {}\n", started + 1)).unwrap();
        assert_eq!(running(&state), None);
    }
}
