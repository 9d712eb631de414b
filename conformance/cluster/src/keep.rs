//! Programs that are to run for as long as the cluster: started again when they end, their output in a file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::Result;

/// One program.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// For its log.
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// What the program sees as its own name.
    pub(crate) called: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) log: PathBuf,
}

impl Program {
    /// Runs the program in a thread of its own, again and again. Never ends: the PID namespace does.
    pub(crate) fn keep(self) -> Result<()> {
        if let Some(parent) = self.log.parent() {
            fs::create_dir_all(parent)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        spawn(move || {
            loop {
                let told = match self.run(&log) {
                    Ok(status) => format!("{status}"),
                    Err(error) => format!("{error:#}"),
                };
                eprintln!("{}: {told}; starting it again", self.name);
                let _ = writeln!(&log, "== {}: {told}; starting it again", self.name);
                sleep(Duration::from_secs(1));
            }
        });
        Ok(())
    }

    fn run(&self, log: &File) -> Result<std::process::ExitStatus> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.executable);
        command.arg0(&self.called).args(&self.arguments).stdin(Stdio::null());
        Ok(command.stdout(log.try_clone()?).stderr(log.try_clone()?).status()?)
    }
}
