//! Metrics of the watches and of what is written back.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use weft_runtime::metrics::Metrics;

use super::statuses::Done;
use crate::inputs::Kind;

/// How the watches are doing, by kind.
#[derive(Clone, Debug)]
pub struct WatchMetrics {
    working: Family<Label, Gauge>,
    errors: Family<Label, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    kind: &'static str,
}

impl WatchMetrics {
    /// Registers them.
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            working: metrics.register(
                "watch_working",
                "Whether a kind's watch works (1) or its last state is in force (0); absent for a kind that does not \
                 exist",
                Family::default(),
            ),
            errors: metrics.register(
                "watch_errors",
                "Lists and watches of a kind that failed",
                Family::default(),
            ),
        }
    }

    pub(crate) fn working(&self, kind: Kind) {
        self.working.get_or_create(&label(kind)).set(1);
    }

    pub(crate) fn failed(&self, kind: Kind) {
        self.working.get_or_create(&label(kind)).set(0);
        self.errors.get_or_create(&label(kind)).inc();
    }

    pub(crate) fn ended(&self, kind: Kind) {
        self.working.remove(&label(kind));
    }
}

/// Whether this replica leads.
#[derive(Clone, Debug)]
pub struct LeaderMetrics(Gauge);

impl LeaderMetrics {
    /// Registers it.
    pub fn register(metrics: &mut Metrics) -> Self {
        let help = "Whether this replica streams configuration and writes to the API server";
        Self(metrics.register("leader", help, Gauge::default()))
    }

    pub(super) fn leads(&self, leads: bool) {
        self.0.set(leads.into());
    }
}

/// How writing statuses is doing.
#[derive(Clone, Debug)]
pub struct StatusMetrics {
    writes: Family<Outcome, Counter>,
    waiting: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl StatusMetrics {
    /// Registers them.
    pub fn register(metrics: &mut Metrics) -> Self {
        Self {
            writes: metrics.register(
                "status_writes",
                "Statuses that were to be written to the API server, by what became of them",
                Family::default(),
            ),
            waiting: metrics.register(
                "statuses_waiting",
                "Statuses that wait to be written",
                Gauge::default(),
            ),
        }
    }

    pub(super) fn done(&self, done: &Done) {
        let outcome = match done {
            Done::Equal => "equal",
            Done::Written { .. } => "written",
            Done::Gone => "gone",
            Done::Failed { .. } => "failed",
        };
        self.writes.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn waiting(&self, count: usize) {
        self.waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

fn label(kind: Kind) -> Label {
    Label { kind: kind.as_str() }
}
