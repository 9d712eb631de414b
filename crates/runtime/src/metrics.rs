//! The process's metrics, in the OpenMetrics text format: a registry that any part may add to.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::registry::{Metric, Registry};

/// What `/metrics` is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A registry whose names all begin with a prefix. Filled while the process starts, then only read.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// An empty registry; every name gets `prefix` and an underscore.
    pub fn new(prefix: &str) -> Self {
        Self { registry: Registry::with_prefix(prefix) }
    }

    /// Adds a metric: `help` is a sentence without its full stop. Returns the metric's shared handle.
    pub fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// Adds something that makes its metrics at the moment they are asked for.
    pub fn register_collector(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// The registry itself, for sub-registries.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// When a metric cannot be written (its own encoder says so).
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn a_registered_counter_is_in_the_text_with_its_prefix() {
        let mut metrics = Metrics::new("weft");
        let pods: Counter =
            metrics.register("pods_added", "Pods taken over from the agent", Counter::default());
        pods.inc_by(2);
        let text = metrics.encode().unwrap();
        assert!(text.contains("weft_pods_added_total 2\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
