//! Other processes: remembering one in a file, so that another program can tell later whether it still runs; starting
//! one that stays when this one leaves; naming the sets of processes that a user starts.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// When the process started, in the kernel's ticks: tells a reused pid from the same process.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    if fields.next() == Some("Z") {
        return None;
    }
    // Field 22 of the line; the state above was field 3.
    fields.nth(18)?.parse().ok()
}

/// Remembers a process, by number and start. A process that is gone already is remembered as such.
///
/// # Errors
/// When the file cannot be written.
pub fn remember(file: &Path, pid: u32) -> io::Result<()> {
    let started = started(pid).unwrap_or(0);
    write_atomic(file, format!("{pid} {started}\n").as_bytes())
}

/// The remembered process, if it still runs.
#[must_use]
pub fn running(file: &Path) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    let (pid, then) = text.trim().split_once(' ')?;
    let (pid, then): (u32, u64) = (pid.parse().ok()?, then.parse().ok()?);
    (started(pid)? == then).then_some(pid)
}

/// Replaces a file in one step, so that a reader sees the old or the new content.
///
/// # Errors
/// When the file or its folder cannot be written.
pub fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(parent)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.new"));
    let mut file = fs::File::create(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// Starts a program that stays when this process leaves: in `/`, with no input, and `log` (made anew) for all it says.
/// Returns its number.
///
/// # Errors
/// When the log cannot be made or the program not be started.
pub fn start_apart(program: &mut Command, log: &Path) -> io::Result<u32> {
    let log = fs::File::create(log)?;
    let program = program.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(program.spawn()?.id())
}

/// Whether `text` can name a lab or a cluster: it becomes part of file, device and host names.
///
/// # Errors
/// In words for the user.
pub fn instance_name(text: &str) -> Result<String, String> {
    let ok = !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-');
    if ok {
        Ok(text.to_owned())
    } else {
        Err("use up to 32 lower-case letters, digits and hyphens".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_pid_and_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let me = std::process::id();
        remember(&file, me).unwrap();
        assert_eq!(running(&file), Some(me));
        fs::write(&file, format!("{me} {}\n", started(me).unwrap() + 1)).unwrap();
        assert_eq!(running(&file), None);
    }

    #[test]
    fn names_of_instances_are_fit_for_devices_and_hosts() {
        for (name, good) in
            [("a", true), ("my-lab2", true), ("", false), ("-a", false), ("A", false), ("a b", false)]
        {
            assert_eq!(instance_name(name).is_ok(), good, "{name:?}");
        }
        assert!(instance_name(&"a".repeat(33)).is_err());
    }
}
