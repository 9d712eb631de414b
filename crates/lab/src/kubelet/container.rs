//! The containers of one pod: started, probed, restarted by policy, stopped.

use std::collections::BTreeMap;
use std::path::PathBuf;
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

use super::probe::{Check, probe_network};
use super::{Kubelet, Order, PodSpec, PodState, Reporter, environment, leftovers, volumes};
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
        let maps = Arc::clone(&self.kubelet.config_maps.borrow());
        let folders = volumes::prepare(spec, &maps)?;
        volumes::write_etc(config, spec, &self.addresses)
            .map_err(|e| format!("cannot write the pod's /etc files: {e}"))?;
        let env = environment::environment(spec, &self.container, &self.addresses, &maps)?;
        let parts = [&self.container.command, &self.container.args];
        let argv: Vec<String> =
            parts.into_iter().flatten().flatten().map(|a| environment::expand(a, &env)).collect();
        if self.container.command.as_ref().is_none_or(Vec::is_empty) {
            return Err("command: Required by the lab: images are not pulled, the command is a program of this machine".to_owned());
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
        let mut maps = self.kubelet.config_maps.clone();
        let mut probe = Prober::new(self, pid);
        self.report.ready = probe.is_none();
        self.tell();
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                _ = order.changed() => {
                    let now = *order.borrow();
                    if let Order::Stop(grace) = now {
                        self.report.ready = false;
                        self.tell();
                        break stop(&mut child, pid, grace).await;
                    }
                }
                Ok(()) = maps.changed() => {
                    let maps = Arc::clone(&maps.borrow_and_update());
                    if let Err(error) = volumes::prepare(&self.spec, &maps) {
                        tracing::warn!(pod = %self.spec.name, %error, "volumes stay as they were");
                    }
                }
                outcome = next(&mut probe) => self.probed(outcome),
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

    fn probed(&mut self, outcome: Result<(), String>) {
        let (ready, message) = (outcome.is_ok(), outcome.err().unwrap_or_default());
        if ready != self.report.ready || message != self.report.message {
            self.report.ready = ready;
            self.report.message = message;
            self.tell();
        }
    }
}

async fn next(probe: &mut Option<Prober>) -> Result<(), String> {
    match probe {
        Some(probe) => probe.next().await,
        None => std::future::pending().await,
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

/// The schedule of a readiness probe (thresholds as in Kubernetes).
struct Prober {
    check: Arc<Result<Check, String>>,
    netns: PathBuf,
    kubelet: Arc<Kubelet>,
    join: Launch,
    period: Duration,
    timeout: Duration,
    delay: Duration,
    succeed_after: i32,
    fail_after: i32,
    successes: i32,
    failures: i32,
    ready: bool,
}

impl Prober {
    fn new(task: &ContainerTask, pid: Option<i32>) -> Option<Self> {
        let probe = task.container.readiness_probe.as_ref()?;
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
        };
        Some(Self {
            check: Arc::new(Check::of(&task.container, probe)),
            netns: task.spec.netns(),
            kubelet: Arc::clone(&task.kubelet),
            join: Launch { join: pid, env: task.env.clone(), ..Launch::default() },
            period: seconds(probe.period_seconds.filter(|p| *p > 0), 10),
            timeout: seconds(probe.timeout_seconds.filter(|t| *t > 0), 1),
            delay: seconds(probe.initial_delay_seconds, 0),
            succeed_after: probe.success_threshold.unwrap_or(1).max(1),
            fail_after: probe.failure_threshold.unwrap_or(3).max(1),
            successes: 0,
            failures: 0,
            ready: false,
        })
    }

    /// Waits for the next probe and says what the container's readiness is after it. Until the
    /// first success a failed probe is repeated quickly, as the kubelet does on start.
    async fn next(&mut self) -> Result<(), String> {
        sleep(self.delay).await;
        let outcome = self.once().await;
        match &outcome {
            Ok(()) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                self.ready |= self.successes >= self.succeed_after;
            }
            Err(_) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                self.ready &= self.failures < self.fail_after;
            }
        }
        self.delay = if self.ready { self.period } else { self.period.min(Duration::from_millis(250)) };
        match (self.ready, outcome) {
            (true, _) => Ok(()),
            (false, Err(error)) => Err(format!("readiness probe failed: {error}")),
            (false, Ok(())) => Err("readiness probe has not succeeded often enough".to_owned()),
        }
    }

    async fn once(&self) -> Result<(), String> {
        let check = Arc::clone(&self.check);
        match check.as_ref() {
            Err(error) => Err(error.clone()),
            Ok(Check::Exec(argv)) => self.exec(argv.clone()).await,
            Ok(_) => {
                let (netns, timeout) = (self.netns.clone(), self.timeout);
                let work = move || match check.as_ref() {
                    Ok(check) => probe_network(&netns, check, timeout),
                    Err(error) => Err(error.clone()),
                };
                tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
            }
        }
    }

    async fn exec(&self, argv: Vec<String>) -> Result<(), String> {
        let launch = Launch { argv, ..self.join.clone() };
        let mut command = self.kubelet.command(&launch).map_err(|e| e.to_string())?;
        let run = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status();
        match tokio::time::timeout(self.timeout, run).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("exec: {status}")),
            Ok(Err(error)) => Err(format!("exec: {error}")),
            Err(_) => Err("exec: timed out".to_owned()),
        }
    }
}
