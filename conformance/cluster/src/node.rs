//! A node: network, mount, PID, UTS and IPC namespaces of its own inside the cluster's, with containerd, kubelet and
//! kube-proxy. Three steps again: `node-start` unshares, `node-init` is process 1, `node-supervise` runs the programs.
//! A node whose process 1 ends is started again, with an empty `/run` and a new network namespace, as after a reboot.

mod files;
mod root;

use std::fs::File;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::config::{Config, HOST_V4, Node};
use crate::keep::Program;
use crate::{cgroup, network};

pub(crate) use files::write;
pub(crate) use root::base_images;

/// Keeps a node running; called in the cluster's host namespace.
pub(crate) fn keep(config: &Config, node: Node) -> Result<()> {
    Program {
        name: node.name(),
        executable: "/proc/self/exe".into(),
        called: "weft-cluster".to_owned(),
        arguments: vec![
            "stage".to_owned(),
            "node-start".to_owned(),
            config.state.config().display().to_string(),
            node.0.to_string(),
        ],
        log: config.state.logs().join(format!("{}.log", node.name())),
    }
    .keep()
}

/// Unshares, starts the node's process 1 and waits for its end.
pub(crate) fn start(config: &Config, config_file: &Path, node: Node) -> Result<u8> {
    // What an earlier life of this node left: to the kubelet it would look like pods that run.
    let group = config.cgroup().join(node.name());
    cgroup::remove(&group)?;
    cgroup::create(&group)?;
    network::add_node(config, node)?;
    setns(File::open(node.netns())?, CloneFlags::CLONE_NEWNET)?;
    // Not yet the mounts: a change of the root would move this process along.
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
    let mut init = Command::new("/proc/self/exe")
        .args(["stage", "node-init"])
        .arg(config_file)
        .arg(node.0.to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .spawn()?;
    weft_runtime::process::remember(&config.state.node_pid(node), init.id())?;
    let status = init.wait()?;
    bail!("{} ended: {status}", node.name())
}

/// The node's process 1.
pub(crate) fn init(config: &Config, node: Node) -> Result<u8> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    root::enter(config, node).with_context(|| format!("cannot make the root of {}", node.name()))?;
    nix::unistd::sethostname(node.name())?;
    Ok(weft_runtime::init::run(
        // By this name, since the program's file may not be in the new root.
        Command::new("/proc/self/exe").args(["stage", "node-supervise", &node.0.to_string()]),
    )?)
}

/// Runs the node's programs. Everything it needs is in the node's own root.
pub(crate) fn supervise(node: Node) -> Result<u8> {
    weft_runtime::init::unblock_signals()?;
    let log = |name: &str| Path::new("/var/log").join(format!("{name}.log"));
    let program = |name: &str, path: &str, arguments: Vec<String>| Program {
        name: name.to_owned(),
        executable: path.into(),
        called: name.to_owned(),
        arguments,
        log: log(name),
    };
    program("containerd", "/usr/bin/containerd", vec!["--config=/etc/kubernetes/containerd.toml".to_owned()])
        .keep()?;
    import(Path::new(root::BASE_IMAGES))?;
    wait_for_api()?;
    program("kube-proxy", "/usr/local/bin/kube", vec!["--config=/etc/kubernetes/kube-proxy.json".to_owned()])
        .keep()?;
    let kubelet = vec![
        "--config=/etc/kubernetes/kubelet.json".to_owned(),
        "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig".to_owned(),
        format!("--hostname-override={}", node.name()),
        format!("--node-ip={}", std::fs::read_to_string("/etc/kubernetes/node-ip")?.trim()),
        format!(
            "--node-labels=topology.kubernetes.io/region=here,topology.kubernetes.io/zone=zone{}",
            node.0
        ),
    ];
    program("kubelet", "/usr/local/bin/kube", kubelet).keep()?;
    println!("{} is up", node.name());
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Gives containerd the images that the cluster itself needs, as soon as it answers.
fn import(archive: &Path) -> Result<()> {
    let mut said = String::new();
    for _ in 0..300 {
        let out = Command::new("ctr")
            .args(["--namespace=k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .context("cannot run ctr: install the Debian package containerd")?;
        if out.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        sleep(Duration::from_millis(200));
    }
    bail!("containerd does not take the cluster's own images: {said}; see containerd.log")
}

/// The kubelet gives up without an API server; so this waits first. Bounded by whoever waits for the cluster.
fn wait_for_api() -> Result<()> {
    for _ in 0..3000 {
        if TcpStream::connect((HOST_V4, 6443)).is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(200));
    }
    bail!("the API server does not answer")
}
