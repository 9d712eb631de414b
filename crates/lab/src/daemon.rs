//! Runs Weft's own processes: an agent and a proxy in every node's network namespace, and one
//! controller in the lab's. A process that ends is started again, with a growing pause.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};

use crate::config::{
    GATEWAY_IMAGE, LAB_V4, LabConfig, Node, POD_RANGE_V4, POD_RANGE_V6, SERVICE_RANGE_V4, SERVICE_RANGE_V6,
};
use crate::kubelet::cni::node_binds;
use crate::kubelet::{Kubelet, Order};
use crate::launch::{Launch, PATH};
use crate::output::Log;
use crate::report::DaemonReport;
use crate::secrets;

/// Where the controller answers proxies.
const CONTROLLER_PORT: u16 = 15010;
/// The name in the controller's certificate.
const CONTROLLER_NAME: &str = "weft-controller.weft-system.svc";

/// One process to keep running.
pub(crate) struct Daemon {
    pub(crate) name: String,
    launch: Launch,
    /// A file that has to be there before the first start.
    needs: Option<PathBuf>,
}

/// All of them, in the order of starting.
pub(crate) fn all(config: &LabConfig) -> Vec<Daemon> {
    let mut daemons = vec![controller(config)];
    for node in config.all_nodes() {
        daemons.push(agent(config, node));
        daemons.push(proxy(config, node));
    }
    daemons
}

fn program(config: &LabConfig, name: &str) -> String {
    config.bin_dir.join(name).display().to_string()
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|a| (*a).to_owned()).collect()
}

fn controller(config: &LabConfig) -> Daemon {
    let state = &config.state;
    let mut argv = vec![program(config, "weft-controller")];
    let path = |p: PathBuf| p.display().to_string();
    argv.extend(strings(&["--listen", &format!("{LAB_V4}:{CONTROLLER_PORT}")]));
    argv.extend(strings(&["--folder", &path(state.cluster()), "--status-dir", &path(state.status())]));
    argv.extend(strings(&[
        "--ca-dir",
        &path(ca_folder(config)),
        "--node-secrets",
        &path(secrets::list(&config.state)),
    ]));
    argv.extend(strings(&["--infrastructure-dir", &path(state.infrastructure())]));
    argv.extend(strings(&["--gateway-image", GATEWAY_IMAGE, "--serving-name", CONTROLLER_NAME]));
    argv.extend(strings(&["--gateway-controller", &format!("{LAB_V4}:{CONTROLLER_PORT}")]));
    let (pods, services) = if config.ipv6 {
        (format!("{POD_RANGE_V4},{POD_RANGE_V6}"), format!("{SERVICE_RANGE_V4},{SERVICE_RANGE_V6}"))
    } else {
        (POD_RANGE_V4.to_owned(), SERVICE_RANGE_V4.to_owned())
    };
    argv.extend(strings(&["--pod-ranges", &pods, "--service-ranges", &services]));
    let launch = Launch { argv, env: environment(config), ..Launch::default() };
    Daemon { name: "controller".to_owned(), launch, needs: None }
}

/// What the daemons find in their environment: `WEFT_…` of whoever started the lab.
fn environment(config: &LabConfig) -> BTreeMap<String, String> {
    let mut env = config.environment.clone();
    env.insert("PATH".to_owned(), PATH.to_owned());
    env
}

fn ca_folder(config: &LabConfig) -> PathBuf {
    config.state.0.join("ca")
}

fn agent(config: &LabConfig, node: Node) -> Daemon {
    let mut argv = vec![program(config, "weft-agent")];
    argv.extend(strings(&["--node", &node.name(), "--runtime-dir", "/run/weft"]));
    argv.extend(strings(&["--folder", &config.state.cluster().display().to_string()]));
    for range in config.cluster_ranges() {
        argv.extend(strings(&["--cluster-range", range]));
    }
    // The lab makes no cgroups for pods, and may run in a pod itself.
    argv.extend(strings(&["--pod-cgroup", "weft-lab-pods"]));
    on_node(config, node, "agent", argv, None)
}

fn on_node(config: &LabConfig, node: Node, name: &str, argv: Vec<String>, needs: Option<PathBuf>) -> Daemon {
    let mut launch = Launch::on_node(node.netns(), node_binds(config, node), argv);
    launch.env = environment(config);
    Daemon { name: format!("{}/{name}", node.name()), launch, needs }
}

fn proxy(config: &LabConfig, node: Node) -> Daemon {
    let root = ca_folder(config).join("root.crt");
    let mut argv = vec![program(config, "weft-proxy")];
    argv.extend(strings(&["--node", &node.name(), "--agent-socket", "/run/weft/agent.sock"]));
    argv.extend(strings(&[
        "--controller",
        &format!("{LAB_V4}:{CONTROLLER_PORT}"),
        "--controller-name",
        CONTROLLER_NAME,
    ]));
    argv.extend(strings(&["--controller-ca", &root.display().to_string()]));
    argv.extend(strings(&[
        "--node-secret-file",
        &secrets::of_node(&config.state, node).display().to_string(),
    ]));
    let mut proxy = on_node(config, node, "proxy", argv, Some(root));
    // On a cluster it is a pod, which has the cluster's DNS.
    let names = config.state.node(node).join("resolv.conf");
    match std::fs::write(&names, format!("nameserver {LAB_V4}\n")) {
        Ok(()) => proxy.launch.binds.push((names, PathBuf::from("/etc/resolv.conf"))),
        Err(error) => tracing::warn!(%error, "the node's proxy has the machine's DNS"),
    }
    proxy
}

impl Daemon {
    /// Keeps the process running until told to stop.
    pub(crate) async fn run(
        self,
        kubelet: Arc<Kubelet>,
        mut order: watch::Receiver<Order>,
        reports: mpsc::UnboundedSender<DaemonReport>,
    ) {
        let log = Log::open(&kubelet.config.state.logs().join(format!("{}.log", self.name))).await;
        let mut report = DaemonReport { name: self.name.clone(), ..DaemonReport::default() };
        let _ = reports.send(report.clone());
        if let Some(file) = &self.needs {
            wait_for(file, &mut order).await;
        }
        let mut pause = Duration::from_millis(100);
        while *order.borrow() == Order::Run {
            match self.once(&kubelet, &log, &mut order, &mut report, &reports).await {
                Ok(long) => {
                    if long {
                        pause = Duration::from_millis(100)
                    }
                }
                Err(error) => report.message = format!("{error:#}"),
            }
            report.pid = None;
            log.line(&format!("[lab] {} ended: {}", self.name, report.message)).await;
            let _ = reports.send(report.clone());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = order.changed() => {}
            }
            pause = pause.saturating_mul(2).min(Duration::from_secs(5));
            report.restarts = report.restarts.saturating_add(1);
        }
    }

    /// One life of the process; whether it was a long one.
    async fn once(
        &self,
        kubelet: &Kubelet,
        log: &Log,
        order: &mut watch::Receiver<Order>,
        report: &mut DaemonReport,
        reports: &mpsc::UnboundedSender<DaemonReport>,
    ) -> Result<bool> {
        let mut child = kubelet
            .command(&self.launch)?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok());
        report.pid = pid;
        let _ = reports.send(report.clone());
        if let Some(out) = child.stdout.take() {
            log.follow(out);
        }
        if let Some(err) = child.stderr.take() {
            log.follow(err);
        }
        let started = tokio::time::Instant::now();
        let status = tokio::select! {
            status = child.wait() => status?,
            _ = order.changed() => {
                if let Some(pid) = pid {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
                match tokio::time::timeout(Duration::from_secs(1), child.wait()).await {
                    Ok(status) => status?,
                    Err(_) => {
                        child.start_kill()?;
                        child.wait().await?
                    }
                }
            }
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        report.message = match status.code() {
            Some(_) => format!("{status}: {}", log.last_line().await),
            None => status.to_string(),
        };
        Ok(started.elapsed() > Duration::from_secs(10))
    }
}

async fn wait_for(file: &Path, order: &mut watch::Receiver<Order>) {
    while !file.exists() && *order.borrow() == Order::Run {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            _ = order.changed() => {}
        }
    }
}
