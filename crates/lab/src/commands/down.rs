//! `weft lab down`.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Which;
use crate::config::State;
use crate::files;

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    which: Which,
}

/// A supervisor gets this long to end its pods in order.
const PATIENCE: Duration = Duration::from_secs(15);

impl Down {
    pub(super) fn run(self) -> Result<u8> {
        let state = self.which.state();
        if !state.0.exists() {
            println!("There is no lab named {:?}.", self.which.name);
            return Ok(0);
        }
        stop(&state)?;
        println!("Lab {:?} is down.", self.which.name);
        Ok(0)
    }
}

/// Ends a lab, kindly first, and removes its state.
pub(super) fn stop(state: &State) -> Result<()> {
    if let Some(pid) = files::running(state) {
        let process = Pid::from_raw(i32::try_from(pid)?);
        if let Some(link) = super::read_config(&state.config()).ok().map(|config| config.uplink)
            && link.exists()
            && let Err(error) = link.remove()
        {
            eprintln!("weft lab: {error}; the link goes with the lab");
        }
        // It may have ended by itself in between.
        let _ = kill(process, Signal::SIGTERM);
        if !ended(state, PATIENCE) {
            let _ = kill(process, Signal::SIGKILL);
            if !ended(state, Duration::from_secs(5)) {
                bail!("process {pid} does not end: look at {}", state.logs().display());
            }
        }
    }
    remove(state)
}

fn ended(state: &State, patience: Duration) -> bool {
    let pause = Duration::from_millis(20);
    let rounds = patience.as_millis() / pause.as_millis();
    (0..rounds).any(|_| {
        sleep(pause);
        files::running(state).is_none()
    })
}

/// Removes the state folder, and its parent if no other lab uses it.
pub(super) fn remove(state: &State) -> Result<()> {
    if state.0.exists() {
        fs::remove_dir_all(&state.0).with_context(|| format!("cannot remove {}", state.0.display()))?;
    }
    if let Some(parent) = state
        .0
        .parent()
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("weft-lab")))
    {
        // Not empty: another lab is there.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}
