//! Telemetry: one [`Outcome`] per request or connection makes the access-log line and the counters.

pub mod access_log;
pub mod metrics;
pub mod record;
pub mod recorder;

use prometheus_client::registry::Registry;

pub use access_log::{AccessLog, AccessLogTarget};
pub use metrics::OpenConnection;
pub use record::{
    AtListener, HttpLine, Labels, Named, Outcome, Party, Protocol, Reporter, RuleName, Security,
};

pub use recorder::{Recorded, Recorder};

use crate::call::Listener;
use metrics::Metrics;

/// Counters and the access log. Shared by all workers; recording takes no lock in the common case.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    access_log: AccessLog,
}

impl Telemetry {
    /// Registers the metrics in `registry` (whose prefix is `weft`) and opens the access log.
    ///
    /// # Errors
    /// The access log's file cannot be opened for appending.
    pub fn new(registry: &mut Registry, access_log: &AccessLogTarget) -> std::io::Result<Self> {
        let metrics = Metrics::register(registry);
        let access_log = AccessLog::open(access_log, metrics.dropped_lines.clone())?;
        Ok(Self { metrics, access_log })
    }

    /// Counts and logs what became of a request or connection.
    pub fn record(&self, outcome: &Outcome) {
        self.metrics.count(outcome);
        self.access_log.write(outcome);
    }

    /// Whether requests are logged one by one, so that [`Outcome::http`] is of use.
    pub fn logs_requests(&self) -> bool {
        self.access_log.is_on()
    }

    /// Counts a copy of a request that its mirror did not get, or not whole.
    pub fn lost_copy(&self) {
        self.metrics.lost_copies.inc();
    }

    /// Counts a connection as open on `listener` until the guard is dropped.
    #[must_use]
    pub fn open_connection(&self, listener: Listener) -> OpenConnection {
        self.metrics.open(listener)
    }
}

impl Default for Telemetry {
    /// Counters that nobody reads and no access log.
    fn default() -> Self {
        let metrics = Metrics::register(&mut Registry::default());
        Self { metrics, access_log: AccessLog::off() }
    }
}

#[cfg(test)]
mod tests;
