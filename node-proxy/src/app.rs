//! Builds every part of the proxy once, in reading order, and ends them in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_runtime::admin::Admin;
use weft_runtime::metrics::Metrics;
use weft_runtime::{logging, panic, shutdown};

use crate::agent::Agent;
use crate::certificates::{self, Certificates};
use crate::config::Config;
use crate::controller::Controller;
use crate::outbound::resilience::budget::RetryBudget;
use crate::pod::{Ends, LocalPods};
use crate::served::Served;
use crate::state::{self, Snapshot, State};
use crate::telemetry::Telemetry;
use crate::worker::{Crew, Shared};

/// How long an idle HTTP/1 connection is waited for when nobody has taken over: new connections wait meanwhile.
const LAST_REQUEST: Duration = Duration::from_millis(250);
/// How long what is still open gets after the drain, to be closed and told of.
const LAST: Duration = Duration::from_secs(1);

/// Runs the proxy until it is told to stop and has drained.
///
/// # Errors
/// What keeps it from starting: a flag or file that makes no sense, a port in use.
pub fn run(config: Config) -> anyhow::Result<()> {
    let level = logging::init(&config.log, config.log_format)?;
    panic::log_panics();
    let mut metrics = Metrics::new("weft");
    let shared = Arc::new(shared(config, &mut metrics)?);
    let (crew, threads) = Crew::start(&shared).context("cannot start the workers")?;
    // The control runtime is this thread: agent, controller, certificates and admin. No traffic passes here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(control(&shared, &crew, metrics, level))?;
    crew.stop();
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a worker ended by a panic");
        }
    }
    Ok(())
}

fn shared(config: Config, metrics: &mut Metrics) -> anyhow::Result<Shared> {
    let pods: Arc<ArcSwap<LocalPods>> = Arc::default();
    let telemetry = Telemetry::new(metrics.registry(), &config.access_log)
        .with_context(|| format!("--access-log {:?}", config.access_log))?;
    Ok(Shared {
        snapshot: State::new(Snapshot::empty(pods.clone(), config.same_node)),
        pods,
        certificates: Certificates::default(),
        telemetry,
        proofs: Default::default(),
        agent: Default::default(),
        served: Served::default(),
        retries: RetryBudget::new(Instant::now()),
        ends: Ends::default(),
        config,
    })
}

async fn control(
    shared: &Arc<Shared>,
    crew: &Arc<Crew>,
    metrics: Metrics,
    level: logging::Level,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    shutdown::cancel_on_signal(stop.clone())?;
    let listener = Admin::bind(shared.config.admin).await?;
    let controller = Controller::new(&shared.config)?;
    let agent = Agent::new(shared.clone(), crew.clone());
    let admin = admin(shared, metrics, level, agent.synced());
    tracing::info!(node = shared.config.node, workers = crew.len(), "started");
    tokio::select! {
        never = admin.serve(listener) => match never {},
        () = agent.run() => {}
        () = state::client::run(shared.clone(), controller.clone()) => {}
        () = certificates::driver::run(shared.clone(), controller.clone()) => {}
        () = async { stop.cancelled().await; drain(shared, crew).await } => {}
    }
    Ok(())
}

/// What the admin server shows. The agent and the configuration decide about readiness; certificates come on demand.
fn admin(shared: &Arc<Shared>, metrics: Metrics, level: logging::Level, synced: Arc<AtomicBool>) -> Admin {
    let mut admin = Admin::new();
    admin.serve_metrics(Arc::new(metrics));
    admin.serve_logging(level);
    crate::admin::register(&mut admin, shared);
    let configured = shared.clone();
    admin.ready_when("configuration from the controller", move || configured.snapshot.load().is_configured());
    admin.ready_when("pods from the agent", move || synced.load(Ordering::Relaxed));
    let draining = shared.clone();
    admin.ready_when("going on (the proxy is stopping)", move || !draining.ends.draining.is_cancelled());
    admin
}

/// Stops accepting, lets open connections end, and at the deadline ends them. Configuration, certificates and agent
/// are followed on meanwhile (rule 13). Idle HTTP/1 connections are waited for only while another proxy serves.
async fn drain(shared: &Shared, crew: &Crew) {
    let Ends { draining, succeeded, hurry, ended } = &shared.ends;
    draining.cancel();
    let until = Instant::now() + shared.config.drain;
    if tokio::time::timeout(LAST_REQUEST, succeeded.cancelled()).await.is_err() {
        hurry.cancel();
    }
    wait_for_none(crew, until).await;
    if !hurry.is_cancelled() {
        hurry.cancel();
        wait_for_none(crew, Instant::now() + LAST_REQUEST).await;
    }
    let left = crew.connections();
    if left > 0 {
        tracing::warn!(connections = left, "the drain has run out: closing what is open");
    }
    ended.cancel();
    wait_for_none(crew, Instant::now() + LAST).await;
    tracing::info!("stopped");
}

async fn wait_for_none(crew: &Crew, until: Instant) {
    while crew.connections() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
