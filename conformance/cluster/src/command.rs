//! `cargo xtask cluster …`: what each verb takes and does.

mod images;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use weft_runtime::process::instance_name;

use crate::config::{Channel, Config, Node, State};
use crate::report::{Phase, Report};
use crate::{artefacts, enter, node, stage, supervisor};

pub use images::{Images, LoadImages};
pub use up::{Down, Up};

/// A real Kubernetes cluster on this machine.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a cluster up and wait until its nodes are Ready and DNS answers.
    Up(Up),
    /// Take a cluster down and remove everything it made.
    Down(Down),
    /// Show which clusters there are and how they do.
    Status(Which),
    /// Build what a cluster runs, as `up` does when it is not there yet.
    Artefacts,
    /// Give images to every node's containerd.
    LoadImages(LoadImages),
    /// Make image archives of Weft's programs from a folder of built ones.
    #[command(hide = true)]
    Images(Images),
    /// Run kubectl against a cluster.
    Kubectl(Run),
    /// Run helm against a cluster.
    Helm(Run),
    /// Run a program in the cluster's host network namespace, or on one of its nodes.
    Exec(Exec),
    /// End a node at once, as a power failure does; it starts again.
    RestartNode(RestartNode),
    /// Steps that the cluster itself takes.
    #[command(hide = true)]
    Stage {
        /// Which.
        #[command(subcommand)]
        stage: Stage,
    },
}

/// A step in the life of the cluster's own processes.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "hidden; see `stage` and `node`")]
pub enum Stage {
    Start { config: PathBuf },
    Init { config: PathBuf },
    Supervise { config: PathBuf },
    NodeStart { config: PathBuf, node: u8 },
    NodeInit { config: PathBuf, node: u8 },
    NodeSupervise { node: u8 },
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The cluster's name.
    #[arg(long, default_value = "dev", value_parser = instance_name)]
    pub(crate) name: String,
}

/// Arguments of `kubectl` and `helm`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    which: Which,
    /// Arguments of the program.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    arguments: Vec<String>,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    which: Which,
    /// On this node (`node1`, …), in all of its namespaces, instead of in the cluster's host network namespace only.
    #[arg(long, value_parser = node_name)]
    node: Option<u8>,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Arguments of `restart-node`.
#[derive(Debug, Args)]
pub struct RestartNode {
    #[command(flatten)]
    which: Which,
    /// `node1`, …
    #[arg(value_parser = node_name)]
    node: u8,
}

fn node_name(text: &str) -> Result<u8, String> {
    text.strip_prefix("node")
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| "nodes are called node1, node2, …".to_owned())
}

/// Runs one verb. Must be called before any other thread exists: it changes namespaces.
#[must_use]
pub fn run(command: Command) -> ExitCode {
    match dispatch(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<u8> {
    match command {
        Command::Up(up) => up.run(),
        Command::Down(down) => down.run(),
        Command::Status(which) => status(&which),
        Command::Artefacts => {
            artefacts::Artefacts::obtain(Channel::Experimental)?;
            artefacts::helm().map(|_| 0)
        }
        Command::LoadImages(load) => load.run(),
        Command::Images(images) => images.run(),
        Command::Kubectl(run) => {
            let (config, init) = enter::running(&run.which.name)?;
            let kube = config.artefacts.kube.clone();
            enter::exec_on_host(&config, init, &kube, "kubectl", &run.arguments)
        }
        Command::Helm(run) => {
            let (config, init) = enter::running(&run.which.name)?;
            enter::exec_on_host(&config, init, &artefacts::helm()?, "helm", &run.arguments)
        }
        Command::Exec(exec) => exec.run(),
        Command::RestartNode(restart) => {
            let (config, init) = enter::running(&restart.which.name)?;
            enter::end_node(&config, init, Node(restart.node)).map(|()| 0)
        }
        Command::Stage { stage } => run_stage(stage),
    }
}

impl Exec {
    fn run(self) -> Result<u8> {
        let (config, init) = enter::running(&self.which.name)?;
        if let Some(node) = self.node {
            return enter::run_on_node(&config, init, Node(node), &self.command);
        }
        let (program, arguments) = self.command.split_first().context("no command given")?;
        enter::exec_on_host(&config, init, program.as_ref(), program, arguments)
    }
}

fn run_stage(stage: Stage) -> Result<u8> {
    match stage {
        Stage::Start { config } => stage::start(&enter::read_config(&config)?).map(|()| 0),
        Stage::Init { config } => stage::init(&enter::read_config(&config)?, &config),
        Stage::Supervise { config } => supervisor::run(&enter::read_config(&config)?),
        Stage::NodeStart { config, node } => node::start(&enter::read_config(&config)?, &config, Node(node)),
        Stage::NodeInit { config, node } => node::init(&enter::read_config(&config)?, Node(node)),
        Stage::NodeSupervise { node } => node::supervise(Node(node)),
    }
}

/// One line about every cluster, and the nodes and pods of the one that is meant.
fn status(which: &Which) -> Result<u8> {
    let state = State::locate(&which.name);
    for other in State::all() {
        println!("{}", describe(&other));
    }
    if !state.folder().exists() {
        println!("There is no cluster named {:?}.", which.name);
        return Ok(1);
    }
    let Some(pid) = weft_runtime::process::running(&state.pid()) else {
        println!("Its logs: {}", state.logs().display());
        return Ok(1);
    };
    println!("State in {}\n", state.folder().display());
    let config: Config = enter::read_config(&state.config())?;
    let kube = config.artefacts.kube.clone();
    let arguments = ["get", "nodes,pods", "--all-namespaces", "--output=wide"].map(str::to_owned);
    enter::exec_on_host(&config, pid, &kube, "kubectl", &arguments)
}

fn describe(state: &State) -> String {
    let name = state.folder().file_name().unwrap_or_default().display();
    let report = Report::read(&state.report()).unwrap_or_default();
    match (weft_runtime::process::running(&state.pid()), report.phase) {
        (Some(pid), Phase::Running) => format!("Cluster {name}: running, process {pid}"),
        (Some(pid), Phase::Starting) => format!("Cluster {name}: starting, process {pid}"),
        (_, Phase::Failed(why)) => format!("Cluster {name}: failed: {why}"),
        (None, _) => {
            format!("Cluster {name}: ended, `cargo xtask cluster down --name {name}` removes what is left")
        }
    }
}
