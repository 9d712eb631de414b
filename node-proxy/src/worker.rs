//! The workers: N single-threaded runtimes that carry traffic. What one worker uses alone is in [`Worker`]
//! (no locks); what all share is in [`Shared`] (immutable snapshots and counters).

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::certificates::Certificates;
use crate::config::Config;
use crate::outbound::balance::Balancer;
use crate::outbound::filter::mirror::Turns;
use crate::outbound::resilience::budget::RetryBudget;
use crate::pod::LocalPods;
use crate::send::Pools;
use crate::state::State;
use crate::telemetry::Telemetry;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The process's configuration.
    pub config: Config,
    /// What the controller published last.
    pub snapshot: State,
    /// The pods served here.
    pub pods: Arc<ArcSwap<LocalPods>>,
    /// Certificates of their identities, and the trust bundle.
    pub certificates: Certificates,
    /// Counters and the access log.
    pub telemetry: Telemetry,
    /// How many retries the node may make.
    pub retries: RetryBudget,
    /// Cancelled when the process begins to drain: nothing is accepted any more, every pod's `closing` follows.
    pub draining: CancellationToken,
    /// Cancelled when the drain has run out: every pod's `ended` follows.
    pub ended: CancellationToken,
}

/// What one worker uses alone. Cloned as `Rc<Worker>` into every task of its runtime.
#[derive(Debug)]
pub struct Worker {
    /// 0 to N-1.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Pooled connections to peers and applications.
    pub pools: Pools,
    /// What it knows of the endpoints it called.
    pub balancer: Balancer,
    /// Whose turn it is to be mirrored.
    pub mirrors: Turns,
}

/// How every task of a worker holds it.
pub type WorkerRef = Rc<Worker>;
