//! Builds every part of the proxy once, in reading order, and ends them in order.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use futures_util::future::LocalBoxFuture;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_runtime::admin::Admin;
use weft_runtime::metrics::Metrics;
use weft_runtime::{logging, panic, shutdown};

use crate::agent::Agent;
use crate::certificates::{self, Certificates};
use crate::config::{Config, GatewayPod, Role};
use crate::controller::Controller;
use crate::gateway;
use crate::gateway::ports::Ports;
use crate::lookup;
use crate::memory::{self, Memory};
use crate::outbound::resilience::budget::RetryBudget;
use crate::pod::LocalPods;
use crate::scope::Ends;
use crate::served::Served;
use crate::state::{self, Snapshot, State};
use crate::telemetry::Telemetry;
use crate::worker::{Crew, Shared};

/// How long an idle HTTP/1 connection is waited for when nobody has taken over: new connections wait meanwhile.
const LAST_REQUEST: Duration = Duration::from_millis(250);
/// How long a Gateway's proxy goes on as before once it is told to stop: until then callers are still sent to it.
const WITHDRAWAL: Duration = Duration::from_secs(3);
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
    // A lookup under way cannot be ended, and is not waited for.
    runtime.shutdown_background();
    Ok(())
}

fn shared(config: Config, metrics: &mut Metrics) -> anyhow::Result<Shared> {
    let pods: Arc<ArcSwap<LocalPods>> = Arc::default();
    let telemetry = Telemetry::new(metrics.registry(), &config.access_log)
        .with_context(|| format!("--access-log {:?}", config.access_log))?;
    Ok(Shared {
        snapshot: State::new(Snapshot::empty(pods.clone(), config.same_node).on_node(&config.node)),
        pods,
        certificates: Certificates::default(),
        telemetry,
        proofs: Default::default(),
        agent: Default::default(),
        served: Served::default(),
        retries: RetryBudget::default(),
        memory: Memory::new(config.memory_limit),
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
    let public = match shared.config.public_admin {
        Some(address) => Some(Admin::bind(address).await?),
        None => None,
    };
    let controller = Controller::new(&shared.config)?;
    let mut admin = admin(shared, metrics, level);
    let role: LocalBoxFuture<'_, ()> = match shared.config.gateway()? {
        None => Box::pin(node(shared, crew, &controller, &mut admin)),
        Some(own) => Box::pin(gateway(shared, crew, &controller, &own)),
    };
    tokio::select! {
        never = serve_admin(admin, listener, public) => match never {},
        () = role => {}
        () = certificates::driver::run(shared.clone(), controller.clone()) => {}
        never = lookup::run(shared) => match never {},
        never = memory::watch(&shared.memory) => match never {},
        () = async { stop.cancelled().await; drain(shared, crew).await } => {}
    }
    Ok(())
}

/// Role `node`: pods come and go by the agent's word.
fn node(
    shared: &Arc<Shared>,
    crew: &Arc<Crew>,
    controller: &Controller,
    admin: &mut Admin,
) -> impl Future<Output = ()> + use<> {
    let agent = Agent::new(shared.clone(), crew.clone());
    let synced = agent.synced();
    admin.ready_when("pods from the agent", move || synced.load(Ordering::Relaxed));
    tracing::info!(node = shared.config.node, workers = crew.len(), "started");
    let client = state::client::run(shared.clone(), controller.clone(), |_| Vec::new());
    async move {
        tokio::select! {
            () = agent.run() => {}
            () = client => {}
        }
    }
}

/// Role `gateway`: the one pod is the process's own, and its sockets are opened as the configuration says.
fn gateway(
    shared: &Arc<Shared>,
    crew: &Arc<Crew>,
    controller: &Controller,
    own: &GatewayPod,
) -> impl Future<Output = ()> + use<> {
    let pod = gateway::own_pod(shared, own);
    shared.pods.rcu(|pods| pods.with(pod.clone()));
    shared.certificates.pods_changed();
    let mut ports = Ports::new(shared.clone(), crew.clone(), pod);
    tracing::info!(gateway = %own.gateway, workers = crew.len(), "started");
    state::client::run(shared.clone(), controller.clone(), move |snapshot| ports.follow(snapshot))
}

async fn serve_admin(admin: Admin, listener: TcpListener, public: Option<TcpListener>) -> Infallible {
    match public {
        Some(public) => admin.serve_apart(listener, public).await,
        None => admin.serve(listener).await,
    }
}

/// What the admin server shows. The configuration decides about readiness; certificates come on demand.
fn admin(shared: &Arc<Shared>, metrics: Metrics, level: logging::Level) -> Admin {
    let mut admin = Admin::new();
    admin.serve_metrics(Arc::new(metrics));
    admin.serve_logging(level);
    crate::admin::register(&mut admin, shared);
    let configured = shared.clone();
    admin.ready_when("configuration from the controller", move || configured.snapshot.load().is_configured());
    let draining = shared.clone();
    admin.ready_when("going on (the proxy is stopping)", move || !draining.ends.stopping.is_cancelled());
    admin
}

/// Stops accepting, lets open connections end, and at the deadline ends them. Configuration, certificates and agent
/// are followed on meanwhile, and the node's budgets shared with the successor (rule 13). Idle HTTP/1 connections are waited for only while another proxy serves.
async fn drain(shared: &Shared, crew: &Crew) {
    let Ends { stopping, draining, succeeded, hurry, ended } = &shared.ends;
    stopping.cancel();
    if shared.config.role == Role::Gateway {
        tokio::time::sleep(WITHDRAWAL).await;
        // Whoever calls again is sent to another pod, if there is one: nothing here takes a listener over.
        succeeded.cancel();
    }
    draining.cancel();
    if shared.config.role == Role::Node {
        shared.halve_budgets();
    }
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
