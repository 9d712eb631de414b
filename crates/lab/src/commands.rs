//! `weft lab …`: what each verb takes and does.

mod down;
mod exec;
mod logs;
mod status;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use weft_runtime::process::instance_name;

use crate::config::{LabConfig, State};
use crate::kubelet::LAUNCH_FAILED;
use crate::launch::Launch;
use crate::report::LabReport;
use crate::{files, stage, supervisor};

/// The lab: a cluster of network namespaces on this machine.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Bring a lab up from a folder of Kubernetes YAML and wait until every pod is ready.
    Up(up::Up),
    /// Run a program in a pod. `NAMESPACE/POD`, `NAMESPACE/PREFIX` if only one pod matches,
    /// `NAMESPACE/deploy/NAME`, or `node/node1` for a node.
    Exec(exec::Exec),
    /// Watch the wire between the nodes: runs tcpdump on the bridge with the given arguments.
    Capture(exec::Capture),
    /// Show pods, Weft's processes and refused objects.
    Status(status::Status),
    /// Show what a pod, `node1/proxy`, `node1/agent`, `controller` or the `lab` itself wrote.
    Logs(logs::Logs),
    /// Take a lab down and remove everything it made.
    Down(down::Down),
    /// Become a program in its place (used by the lab itself).
    #[command(hide = true)]
    Launch {
        /// JSON description.
        description: String,
    },
    /// Step into new namespaces (used by the lab itself).
    #[command(hide = true)]
    Start {
        /// The lab's configuration file.
        config: PathBuf,
    },
    /// Be process 1 (used by the lab itself).
    #[command(hide = true)]
    Init {
        /// The lab's configuration file.
        config: PathBuf,
    },
    /// Be the supervisor (used by the lab itself).
    #[command(hide = true)]
    Supervise {
        /// The lab's configuration file.
        config: PathBuf,
    },
}

/// Which lab.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The lab's name.
    #[arg(long, default_value = "default", value_parser = instance_name)]
    name: String,
    /// Folder that labs keep their state in [default: /run/weft-lab for root, else below $XDG_RUNTIME_DIR or /tmp].
    #[arg(long, env = "WEFT_LAB_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Which {
    fn state(&self) -> State {
        State::locate(self.state_dir.as_deref(), &self.name)
    }

    /// The running lab's process 1 and its last report.
    fn running(&self) -> Result<(State, u32, LabReport)> {
        let state = self.state();
        let Some(pid) = files::running(&state) else {
            bail!(
                "no lab named {:?} is running: start one with `weft lab up -f FOLDER{}`",
                self.name,
                self.flag()
            );
        };
        let report = LabReport::read(&state.report())
            .context("the lab has not said anything yet: try again in a moment")?;
        Ok((state, pid, report))
    }

    /// ` --name NAME`, when it is not the default.
    fn flag(&self) -> String {
        if self.name == "default" { String::new() } else { format!(" --name {}", self.name) }
    }
}

/// Runs one verb. Must be called before any other thread exists: it changes namespaces.
pub fn run(command: LabCommand) -> ExitCode {
    // A launcher's failure has an exit code of its own, so that it is not taken for the program's.
    if let LabCommand::Launch { description } = command {
        let Err(error) =
            serde_json::from_str::<Launch>(&description).context("bad description").and_then(Launch::exec);
        eprintln!("{error:#}");
        return ExitCode::from(u8::try_from(LAUNCH_FAILED).unwrap_or(1));
    }
    match dispatch(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: LabCommand) -> Result<u8> {
    match command {
        LabCommand::Up(up) => up.run(),
        LabCommand::Exec(exec) => exec.run(),
        LabCommand::Capture(capture) => capture.run(),
        LabCommand::Status(status) => status.run(),
        LabCommand::Logs(logs) => logs.run(),
        LabCommand::Down(down) => down.run(),
        LabCommand::Start { config } => stage::start(&read_config(&config)?).map(|()| 0),
        LabCommand::Init { config } => stage::init(&read_config(&config)?, &config),
        LabCommand::Supervise { config } => supervise(read_config(&config)?),
        LabCommand::Launch { .. } => Ok(0),
    }
}

fn read_config(file: &std::path::Path) -> Result<LabConfig> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", file.display()))
}

fn supervise(config: LabConfig) -> Result<u8> {
    // Without its supervisor nothing of the lab may go on.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    weft_runtime::init::unblock_signals()?;
    // One thread: children ask to die with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(supervisor::run(config));
    runtime.shutdown_timeout(std::time::Duration::from_millis(100));
    outcome.map(|()| 0)
}
