//! The controller's own metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use weft_model::Text;
use weft_runtime::metrics::Metrics;

use crate::enrolment::{NamespaceState, Phase};

/// How far a namespace is.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Phased {
    phase: &'static str,
}

/// Metrics of the control loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    resources: Gauge,
    problems: Gauge,
    versions: Counter,
    status_errors: Counter,
    namespaces: Family<Phased, Gauge>,
    not_meshed: Gauge,
    load: Histogram,
    translate: Histogram,
}

impl ControlMetrics {
    /// Registers them.
    pub fn register(metrics: &mut Metrics) -> Self {
        let durations = || Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        Self {
            resources: metrics.register("resources", "Resources published", Gauge::default()),
            problems: metrics.register(
                "problems",
                "Things wrong with objects that no status can say; the log has them",
                Gauge::default(),
            ),
            versions: metrics.register("versions", "Versions published", Counter::default()),
            status_errors: metrics.register(
                "status_write_errors",
                "Statuses that could not be written",
                Counter::default(),
            ),
            namespaces: metrics.register(
                "namespaces",
                "Namespaces by how far their enrolment is",
                Family::default(),
            ),
            not_meshed: metrics.register(
                "pods_not_meshed",
                "Running pods that are to be in the mesh and are not",
                Gauge::default(),
            ),
            load: metrics.register("load_seconds", "Time to read what changed", durations()),
            translate: metrics.register("translate_seconds", "Time to translate everything", durations()),
        }
    }

    pub(crate) fn published(&self, resources: usize, load: Duration, translate: Duration) {
        self.resources.set(i64::try_from(resources).unwrap_or(i64::MAX));
        self.versions.inc();
        self.load.observe(load.as_secs_f64());
        self.translate.observe(translate.as_secs_f64());
    }

    pub(crate) fn enrolment(&self, namespaces: &BTreeMap<Text, NamespaceState>) {
        for phase in Phase::ALL {
            let count = namespaces.values().filter(|state| state.phase == phase).count();
            let gauge = self.namespaces.get_or_create(&Phased { phase: phase.as_str() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let missing: usize = namespaces.values().map(|state| state.missing.len()).sum();
        self.not_meshed.set(i64::try_from(missing).unwrap_or(i64::MAX));
    }

    pub(crate) fn problems(&self, count: usize) {
        self.problems.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn status_errors(&self, count: usize) {
        self.status_errors.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
}
