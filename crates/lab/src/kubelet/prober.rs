//! When a container is probed, and what follows from the outcomes (thresholds as in Kubernetes).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::probe::{Check, SERVING, probe_network};
use super::{Kubelet, PodSpec};
use crate::launch::Launch;

/// How quickly a probe that has not succeeded yet is repeated.
const QUICK: Duration = Duration::from_millis(250);

/// One of a container's probes.
struct Prober {
    check: Arc<Result<Check, String>>,
    netns: PathBuf,
    ip: Option<IpAddr>,
    kubelet: Arc<Kubelet>,
    join: Launch,
    period: Duration,
    timeout: Duration,
    due: Instant,
    succeed_after: i32,
    fail_after: i32,
    successes: i32,
    failures: i32,
    good: bool,
    /// Until the first success a failed probe is repeated quickly, as the kubelet does on start.
    quick: bool,
}

/// What is probed.
pub(super) struct Probed<'a> {
    pub(super) kubelet: &'a Arc<Kubelet>,
    pub(super) spec: &'a PodSpec,
    pub(super) container: &'a Container,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) pid: Option<i32>,
    pub(super) ip: Option<IpAddr>,
}

impl Prober {
    /// A probe that is good at first (`liveness`), or has to succeed first.
    fn new(probed: &Probed<'_>, probe: Option<&Probe>, good: bool) -> Option<Self> {
        let probe = probe?;
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default))
        };
        Some(Self {
            check: Arc::new(Check::of(probed.container, probe)),
            netns: probed.spec.node.netns(),
            ip: probed.ip,
            kubelet: Arc::clone(probed.kubelet),
            join: Launch { join: probed.pid, env: probed.env.clone(), ..Launch::default() },
            period: seconds(probe.period_seconds.filter(|p| *p > 0), 10),
            timeout: seconds(probe.timeout_seconds.filter(|t| *t > 0), 1),
            due: Instant::now() + seconds(probe.initial_delay_seconds, 0),
            succeed_after: probe.success_threshold.unwrap_or(1).max(1),
            fail_after: probe.failure_threshold.unwrap_or(3).max(1),
            successes: 0,
            failures: 0,
            good,
            quick: !good,
        })
    }

    /// Waits for the next probe and says how the container stands after it.
    async fn next(&mut self) -> Result<(), String> {
        sleep_until(self.due).await;
        let outcome = self.once().await;
        match &outcome {
            Ok(()) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                self.good |= self.successes >= self.succeed_after;
            }
            Err(_) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                self.good &= self.failures < self.fail_after;
            }
        }
        let quick = self.quick && !self.good;
        self.due = Instant::now() + if quick { self.period.min(QUICK) } else { self.period };
        match (self.good, outcome) {
            (true, _) => Ok(()),
            (false, Err(error)) => Err(format!("probe failed: {error}")),
            (false, Ok(())) => Err("probe has not succeeded often enough".to_owned()),
        }
    }

    /// It has failed as often as it may.
    const fn is_exhausted(&self) -> bool {
        self.failures >= self.fail_after
    }

    /// A container that is to be watched for its start may take all its periods, not the quick ones.
    const fn patient(mut self) -> Self {
        self.quick = false;
        self
    }

    async fn once(&self) -> Result<(), String> {
        let check = Arc::clone(&self.check);
        let ip = self.ip.ok_or("the pod has no address")?;
        match check.as_ref() {
            Err(error) => Err(error.clone()),
            Ok(Check::Exec(argv)) => self.exec(argv.clone()).await,
            Ok(check) if check.curl(ip, self.timeout).is_some() => self.curl(check, ip).await,
            Ok(_) => {
                let (netns, timeout) = (self.netns.clone(), self.timeout);
                let work = move || match check.as_ref() {
                    Ok(check) => probe_network(&netns, ip, check, timeout),
                    Err(error) => Err(error.clone()),
                };
                tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
            }
        }
    }

    async fn exec(&self, argv: Vec<String>) -> Result<(), String> {
        let launch = Launch { argv, ..self.join.clone() };
        self.run(&launch, Vec::new()).await.map(drop).map_err(|error| format!("exec: {error}"))
    }

    async fn curl(&self, check: &Check, ip: IpAddr) -> Result<(), String> {
        let Some((arguments, input)) = check.curl(ip, self.timeout) else { return Ok(()) };
        let argv = std::iter::once("curl".to_owned()).chain(arguments).collect();
        let printed = self.run(&Launch::on_node(self.netns.clone(), Vec::new(), argv), input).await?;
        match check {
            Check::Grpc { .. } if printed != SERVING => {
                Err("the health check does not say SERVING".to_owned())
            }
            _ => Ok(()),
        }
    }

    async fn run(&self, launch: &Launch, input: Vec<u8>) -> Result<Vec<u8>, String> {
        let mut command = self.kubelet.command(launch).map_err(|e| e.to_string())?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let work = async {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A program that does not read has ended, which says more.
                let _ = stdin.write_all(&input).await;
            }
            child.wait_with_output().await
        };
        // The program has the probe's time, and the launcher some of its own.
        match timeout(self.timeout + Duration::from_millis(500), work).await {
            Ok(Ok(output)) if output.status.success() => Ok(output.stdout),
            Ok(Ok(output)) => Err(output.status.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("timed out".to_owned()),
        }
    }
}

/// What an outcome means for the container.
pub(super) enum Verdict {
    /// It is ready, or why it is not.
    Ready(Result<(), String>),
    /// It is to be stopped, and why.
    Stop(String),
}

/// All probes of a container.
pub(super) struct Probes {
    startup: Option<Prober>,
    liveness: Option<Prober>,
    readiness: Option<Prober>,
    started: bool,
}

impl Probes {
    /// The probes that the container declares.
    pub(super) fn new(probed: &Probed<'_>) -> Self {
        let container = probed.container;
        let startup = Prober::new(probed, container.startup_probe.as_ref(), false).map(Prober::patient);
        Self {
            started: startup.is_none(),
            startup,
            liveness: Prober::new(probed, container.liveness_probe.as_ref(), true),
            readiness: Prober::new(probed, container.readiness_probe.as_ref(), false),
        }
    }

    /// The container is ready before anything has been probed.
    pub(super) const fn ready_at_once(&self) -> bool {
        self.started && self.readiness.is_none()
    }

    /// Probes until an outcome means something for the container. Dropped half-way, the probe is made again.
    pub(super) async fn next(&mut self) -> Verdict {
        while !self.started {
            match next(&mut self.startup).await {
                Ok(()) if self.readiness.is_none() => {
                    self.started = true;
                    return Verdict::Ready(Ok(()));
                }
                Ok(()) => self.started = true,
                Err(error) => {
                    let error = format!("startup {error}");
                    let exhausted = self.startup.as_ref().is_some_and(Prober::is_exhausted);
                    return if exhausted { Verdict::Stop(error) } else { Verdict::Ready(Err(error)) };
                }
            }
        }
        loop {
            tokio::select! {
                outcome = next(&mut self.liveness) => if let Err(error) = outcome {
                    return Verdict::Stop(format!("liveness {error}"));
                },
                outcome = next(&mut self.readiness) => {
                    return Verdict::Ready(outcome.map_err(|error| format!("readiness {error}")));
                }
            }
        }
    }
}

/// The next outcome of a probe, if there is one.
async fn next(probe: &mut Option<Prober>) -> Result<(), String> {
    match probe {
        Some(probe) => probe.next().await,
        None => std::future::pending().await,
    }
}
