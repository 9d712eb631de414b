//! Stepping into a running cluster: its host's network, or one of its nodes.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::config::{Config, Node, State};

/// The configuration of a running cluster and its process 1.
pub(crate) fn running(name: &str) -> Result<(Config, u32)> {
    let state = State::locate(name);
    let Some(pid) = weft_runtime::process::running(&state.pid()) else {
        bail!("no cluster named {name:?} is running: cargo xtask cluster up --name {name}");
    };
    Ok((read_config(&state.config())?, pid))
}

pub(crate) fn read_config(file: &Path) -> Result<Config> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| {
        format!("{} is of another version of this program: take that cluster down first", file.display())
    })
}

/// Becomes a program in the cluster's host network namespace, with the caller's files, folder, terminal and processes.
pub(crate) fn exec_on_host(
    config: &Config,
    init: u32,
    program: &Path,
    called: &str,
    arguments: &[String],
) -> Result<u8> {
    let net = File::open(format!("/proc/{init}/ns/net")).context("the cluster has just ended")?;
    setns(net, CloneFlags::CLONE_NEWNET).context("cannot enter the cluster: run as root")?;
    let mut command = Command::new(program);
    command.arg0(called).args(arguments);
    for (name, value) in environment(&config.state) {
        command.env(name, value);
    }
    Err(command.exec()).with_context(|| format!("cannot run {}", program.display()))
}

/// What kubectl, helm and the like need to find the cluster.
pub(crate) fn environment(state: &State) -> [(&'static str, PathBuf); 2] {
    // Discovery is cached by address, and all clusters have the same.
    [("KUBECONFIG", state.kubeconfig()), ("KUBECACHEDIR", state.work().join("kubectl"))]
}

/// Steps into the cluster's outer namespaces and returns a node's process 1 as it is numbered there.
fn find(config: &Config, init: u32, node: Node) -> Result<u32> {
    if !config.all_nodes().any(|n| n == node) {
        bail!("cluster {:?} has node1 to node{}, and no {}", config.name, config.nodes, node.name());
    }
    let open =
        |kind: &str| File::open(format!("/proc/{init}/ns/{kind}")).context("the cluster has just ended");
    let (pid, mnt) = (open("pid")?, open("mnt")?);
    setns(pid, CloneFlags::CLONE_NEWPID).context("cannot enter the cluster: run as root")?;
    // From here on /proc counts processes as the cluster does, which is how the node's are written down.
    setns(mnt, CloneFlags::CLONE_NEWNS)?;
    weft_runtime::process::running(&config.state.node_pid(node))
        .with_context(|| format!("{} does not run; see {}", node.name(), config.state.logs().display()))
}

/// Ends a node at once, as a power failure does. It is started again.
pub(crate) fn end_node(config: &Config, init: u32, node: Node) -> Result<()> {
    let inner = find(config, init, node)?;
    // The number is the cluster's, so a child has to say it: it is in the cluster's PID namespace, and this process is not.
    let status =
        Command::new("kill").args(["-KILL", &inner.to_string()]).status().context("cannot run kill")?;
    if !status.success() {
        bail!("kill: {status}");
    }
    Ok(())
}

/// Runs a program on a node, as if logged in there; its exit code.
pub(crate) fn run_on_node(config: &Config, init: u32, node: Node, argv: &[String]) -> Result<u8> {
    let Some((program, arguments)) = argv.split_first() else { bail!("no command given") };
    let inner = find(config, init, node)?;
    let open = |pid: u32, kind: &str| {
        File::open(format!("/proc/{pid}/ns/{kind}")).context("the node has just ended")
    };
    let spaces = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let files = spaces.map(|(kind, flag)| open(inner, kind).map(|file| (file, flag)));
    for file in files {
        let (file, flag) = file?;
        setns(file, flag)?;
    }
    std::env::set_current_dir("/")?;
    let status = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .status()
        .with_context(|| format!("cannot run {program} on {}", node.name()))?;
    let code = status.code().or_else(|| status.signal().map(|s| s.saturating_add(128))).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}
