//! The controller's own metrics.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use weft_runtime::metrics::Metrics;

/// Metrics of the control loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    resources: Gauge,
    problems: Gauge,
    versions: Counter,
    status_errors: Counter,
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

    pub(crate) fn problems(&self, count: usize) {
        self.problems.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn status_errors(&self, count: usize) {
        self.status_errors.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
}
