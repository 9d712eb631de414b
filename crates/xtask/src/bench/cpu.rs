//! CPU time and memory of a running process, from `/proc`.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// `USER_HZ`: the unit of the times in `/proc/PID/stat`, the same on every Linux architecture that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process of the lab, by its PID in this namespace.
#[derive(Clone)]
pub(super) struct Process(u32);

impl Process {
    /// The one process whose program's name ends with the first of `words`, and whose command line holds them all.
    /// Waits a little for it: a wrapper script may have to start it first.
    pub(super) fn find(words: &[&str]) -> Result<Self> {
        (0..50)
            .find_map(|_| Self::find_now(words).inspect_err(|_| sleep(Duration::from_millis(100))).ok())
            .map_or_else(|| Self::find_now(words), Ok)
    }

    fn find_now(words: &[&str]) -> Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let program = line.split(' ').next().unwrap_or_default();
            let is_it =
                words.first().is_some_and(|w| program.ends_with(w)) && words.iter().all(|w| line.contains(w));
            if is_it {
                found.push(pid);
            }
        }
        match found.as_slice() {
            [pid] => Ok(Self(*pid)),
            [] => bail!("no process runs whose command line holds {words:?}"),
            several => bail!("several processes have {words:?} in their command line: {several:?}"),
        }
    }

    /// User and system time of all threads so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.0)).context("a measured process has ended")?;
        // The second field is the name in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has changed its form")?;
        let ticks = |index: usize| rest.split_whitespace().nth(index).and_then(|t| t.parse::<f64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("/proc/PID/stat has changed its form")?;
        Ok((user + system) / TICKS_PER_SECOND)
    }

    /// Resident memory, MiB.
    pub(super) fn resident_mebibytes(&self) -> Result<f64> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.0)).context("a measured process has ended")?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes / 1024.0)
    }
}
