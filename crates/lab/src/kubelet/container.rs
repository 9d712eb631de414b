//! The containers of one pod: started, probed, restarted by policy, stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::prober::{Probed, Probes, Verdict};
use super::{Kubelet, Order, PodSpec, PodState, Reporter, environment, leftovers, volumes};
use crate::config::GATEWAY_IMAGE;
use crate::files;
use crate::launch::Launch;
use crate::output::Log;
use crate::report::ContainerReport;
use crate::rootfs::Rootfs;

/// Exit code of the launcher when it could not become the program.
pub(crate) const LAUNCH_FAILED: i32 = 125;

/// Runs every container until the pod is to end and all have ended.
pub(crate) async fn run_all(
    kubelet: &Arc<Kubelet>,
    spec: &Arc<PodSpec>,
    mut state: PodState,
    order: watch::Receiver<Order>,
    reporter: Reporter,
) {
    let containers = spec.pod.spec.as_ref().map(|s| s.containers.clone()).unwrap_or_default();
    state.containers = containers
        .iter()
        .map(|c| ContainerReport { name: c.name.clone(), ..ContainerReport::default() })
        .collect();
    let (sender, mut changes) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for (index, container) in containers.into_iter().enumerate() {
        let task = ContainerTask {
            kubelet: Arc::clone(kubelet),
            spec: Arc::clone(spec),
            report: ContainerReport { name: container.name.clone(), ..ContainerReport::default() },
            container,
            env: BTreeMap::new(),
            index,
            addresses: state.addresses.clone(),
            changes: sender.clone(),
        };
        tasks.spawn(task.run(order.clone()));
    }
    drop(sender);
    while let Some((index, report)) = changes.recv().await {
        if let Some(slot) = state.containers.get_mut(index) {
            *slot = report;
        }
        reporter.tell(&state);
    }
    while tasks.join_next().await.is_some() {}
    state.finished = true;
    reporter.tell(&state);
    let mut order = order;
    // A pod that ran to its end stays until it is deleted.
    while *order.borrow_and_update() == Order::Run {
        if order.changed().await.is_err() {
            break;
        }
    }
}

struct ContainerTask {
    kubelet: Arc<Kubelet>,
    spec: Arc<PodSpec>,
    container: Container,
    index: usize,
    addresses: Vec<std::net::IpAddr>,
    /// Environment of the last start, for probes.
    env: BTreeMap<String, String>,
    report: ContainerReport,
    changes: mpsc::UnboundedSender<(usize, ContainerReport)>,
}

impl ContainerTask {
    async fn run(mut self, mut order: watch::Receiver<Order>) {
        let policy = self
            .spec
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.restart_policy.clone())
            .unwrap_or_else(|| "Always".to_owned());
        let mut pause = Duration::from_millis(500);
        let path = format!("pods/{}_{}/{}.log", self.spec.namespace, self.spec.name, self.container.name);
        let log = Log::open(&self.kubelet.config.state.logs().join(path)).await;
        while *order.borrow() == Order::Run {
            let code = match self.start(&log).await {
                Ok(child) => self.watch(child, &mut order, &log).await,
                Err(message) => {
                    self.report.message = message;
                    None
                }
            };
            self.report.pid = None;
            self.report.ready = false;
            self.report.exit_code = code;
            self.tell();
            let over = policy == "Never" || (policy == "OnFailure" && code == Some(0));
            if (over && code.is_some_and(|c| c != LAUNCH_FAILED)) || *order.borrow() != Order::Run {
                break;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = order.changed() => {}
            }
            pause = pause.saturating_mul(2).min(Duration::from_secs(30));
            if code.is_some() {
                self.report.restarts = self.report.restarts.saturating_add(1);
            }
        }
    }

    fn tell(&self) {
        let _ = self.changes.send((self.index, self.report.clone()));
    }

    async fn start(&mut self, log: &Log) -> Result<Child, String> {
        let launch = self.launch()?;
        self.env.clone_from(&launch.env);
        let file = self.kubelet.launches(&self.spec).join(format!("{}.json", self.container.name));
        let text = serde_json::to_vec(&launch).map_err(|e| e.to_string())?;
        files::write_atomic(&file, &text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        let mut child = self
            .kubelet
            .command(&launch)
            .map_err(|e| e.to_string())?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start the launcher: {e}"))?;
        if let Some(out) = child.stdout.take() {
            log.follow(out);
        }
        if let Some(err) = child.stderr.take() {
            log.follow(err);
        }
        Ok(child)
    }

    fn launch(&self) -> Result<Launch, String> {
        let (spec, config) = (&self.spec, &self.kubelet.config);
        let data = Arc::clone(&self.kubelet.data.borrow());
        let folders = volumes::prepare(&self.kubelet, spec, &data)?;
        volumes::write_etc(config, spec, &self.addresses)
            .map_err(|e| format!("cannot write the pod's /etc files: {e}"))?;
        let env = environment::environment(spec, &self.container, &self.addresses, &data)?;
        let parts = [&self.container.command, &self.container.args];
        let mut argv: Vec<String> =
            parts.into_iter().flatten().flatten().map(|a| environment::expand(a, &env)).collect();
        if self.container.command.as_ref().is_none_or(Vec::is_empty) {
            return Err("command: Required by the lab: images are not pulled, the command is a program of this machine".to_owned());
        }
        if self.container.image.as_deref() == Some(GATEWAY_IMAGE)
            && let Some(program) = argv.first_mut()
            && let Some(name) = Path::new(program.as_str()).file_name()
        {
            *program = config.bin_dir.join(name).display().to_string();
        }
        let layer = spec.folder().join("containers").join(&self.container.name);
        // A restarted container starts from a clean filesystem.
        let _ = std::fs::remove_dir_all(&layer);
        Ok(Launch {
            netns: Some(spec.netns()),
            rootfs: Some(Rootfs {
                layer,
                volumes: volumes::mounts(spec, &self.container, &folders)?,
                userxattr: !config.privileged,
            }),
            hostname: Some(spec.name.clone()),
            workdir: self.container.working_dir.as_ref().map(PathBuf::from),
            env,
            argv,
            session: true,
            ..Launch::default()
        })
    }

    /// Waits for the end of the program; probes it and stops it meanwhile. Its exit code.
    async fn watch(
        &mut self,
        mut child: Child,
        order: &mut watch::Receiver<Order>,
        log: &Log,
    ) -> Option<i32> {
        let pid = child.id().and_then(|p| i32::try_from(p).ok());
        self.report.pid = pid;
        self.report.exit_code = None;
        self.report.message.clear();
        let mut data = self.kubelet.data.clone();
        let probed = Probed {
            kubelet: &self.kubelet,
            spec: &self.spec,
            container: &self.container,
            env: &self.env,
            pid,
            ip: self.addresses.first().copied(),
        };
        let mut probes = Probes::new(&probed);
        self.report.ready = probes.ready_at_once();
        self.tell();
        let grace =
            self.spec.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = order.changed() => {
                    let now = *order.borrow();
                    if let Order::Stop(grace) = now {
                        break self.end(stop(&mut child, pid, grace), &mut probes).await;
                    }
                }
                Ok(()) = data.changed() => {
                    let data = Arc::clone(&data.borrow_and_update());
                    if let Err(error) = volumes::prepare(&self.kubelet, &self.spec, &data) {
                        tracing::warn!(pod = %self.spec.name, %error, "volumes stay as they were");
                    }
                }
                verdict = probes.next() => match verdict {
                    Verdict::Ready(outcome) => self.probed(outcome),
                    Verdict::Stop(why) => {
                        self.probed(Err(why));
                        break stop(&mut child, pid, grace).await;
                    }
                },
            }
        };
        leftovers::end(&self.spec, pid);
        let code = status.ok().map(exit_code);
        self.report.message = match code {
            Some(0) => String::new(),
            Some(code) => {
                // The output may still be on its way through the pipe.
                sleep(Duration::from_millis(50)).await;
                format!("exit code {code}: {}", log.last_line().await)
            }
            None => "lost".to_owned(),
        };
        code
    }

    /// While it ends, readiness goes on being probed: it may serve still. Whether it lives no longer counts.
    async fn end(
        &mut self,
        stopped: impl Future<Output = std::io::Result<std::process::ExitStatus>>,
        probes: &mut Probes,
    ) -> std::io::Result<std::process::ExitStatus> {
        let mut stopped = pin!(stopped);
        loop {
            tokio::select! {
                status = &mut stopped => return status,
                verdict = probes.next() => if let Verdict::Ready(outcome) = verdict {
                    self.probed(outcome);
                },
            }
        }
    }

    fn probed(&mut self, outcome: Result<(), String>) {
        let (ready, message) = (outcome.is_ok(), outcome.err().unwrap_or_default());
        if ready != self.report.ready || message != self.report.message {
            self.report.ready = ready;
            self.report.message = message;
            self.tell();
        }
    }
}

/// SIGTERM, then after the grace period SIGKILL.
async fn stop(
    child: &mut Child,
    pid: Option<i32>,
    grace: Duration,
) -> std::io::Result<std::process::ExitStatus> {
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
        return status;
    }
    child.start_kill()?;
    child.wait().await
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|s| s.saturating_add(128))).unwrap_or(-1)
}
