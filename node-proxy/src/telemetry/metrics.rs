//! The counters. Label sets are bounded: after [`MAX_SERIES`] of them new ones are counted under `other`. Every worker
//! keeps its own handles by label set, so that a known one costs a look-up and a few atomic additions, no lock.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::HashMap;
use prometheus_client::encoding::{
    EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use weft_model::Reason;

use super::record::{AtListener, Labels, Outcome, Security};
use crate::call::Listener;

/// Label sets a proxy keeps apart.
pub const MAX_SERIES: usize = 5_000;

/// Upper bounds of the duration buckets, in seconds.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<SeriesLabels, Counter>,
    durations: Family<TrafficLabels, Durations>,
    request_bytes: Family<TrafficLabels, Counter>,
    response_bytes: Family<TrafficLabels, Counter>,
    connections: Family<SeriesLabels, Counter>,
    open: Family<ListenerLabels, Gauge>,
    overflowed: Counter,
    /// Access-log lines that were dropped.
    pub dropped_lines: Counter,
    /// Copies for mirrors that did not arrive whole.
    pub lost_copies: Counter,
    series: AtomicUsize,
    /// Tells the handles of this value from those of another in the same process (tests).
    id: usize,
}

/// The handles of one label set.
#[derive(Clone, Debug)]
struct Series {
    count: Counter,
    durations: Durations,
    request_bytes: Counter,
    response_bytes: Counter,
}

thread_local! {
    /// This worker's handles. Thread-local rather than a field of the worker, since outcomes are recorded
    /// where a body ends, by values that must be free to move between threads.
    static HANDLES: RefCell<(usize, HashMap<Labels, Series>)> = RefCell::default();
}

impl Metrics {
    /// Registers every metric. The registry's own prefix is `weft`.
    pub fn register(registry: &mut Registry) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let metrics = Self {
            requests: Family::default(),
            durations: Family::default(),
            request_bytes: Family::default(),
            response_bytes: Family::default(),
            connections: Family::default(),
            open: Family::default(),
            overflowed: Counter::default(),
            dropped_lines: Counter::default(),
            lost_copies: Counter::default(),
            series: AtomicUsize::new(0),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
        };
        registry.register("requests", "HTTP and gRPC requests that ended", metrics.requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From a request's head to the last byte of its response",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "request_bytes",
            "Bytes from callers: bodies and byte streams",
            metrics.request_bytes.clone(),
        );
        registry.register(
            "response_bytes",
            "Bytes to callers: bodies and byte streams",
            metrics.response_bytes.clone(),
        );
        registry.register(
            "connections",
            "Connections that ended and were not HTTP",
            metrics.connections.clone(),
        );
        registry.register("connections_open", "Accepted connections that are open", metrics.open.clone());
        registry.register(
            "series_overflow",
            "Outcomes counted under `other` since too many label sets exist",
            metrics.overflowed.clone(),
        );
        registry.register(
            "access_log_dropped",
            "Access-log lines dropped since the disk was slow or full",
            metrics.dropped_lines.clone(),
        );
        let help = "Copies of requests that a mirror did not get, or not whole";
        registry.register("mirrored_requests_lost", help, metrics.lost_copies.clone());
        metrics
    }

    /// Counts one outcome.
    pub fn count(&self, outcome: &Outcome) {
        HANDLES.with_borrow_mut(|(owner, handles)| {
            if *owner != self.id {
                handles.clear();
                *owner = self.id;
            }
            if let Some(series) = handles.get(&outcome.labels) {
                series.add(outcome);
                return;
            }
            let series = self.series(&outcome.labels);
            series.add(outcome);
            if handles.len() < MAX_SERIES {
                handles.insert(outcome.labels.clone(), series);
            }
        });
    }

    fn series(&self, labels: &Labels) -> Series {
        let counter = if labels.protocol.is_request() { &self.requests } else { &self.connections };
        let mut labels = SeriesLabels(Some(labels.clone()));
        if counter.get(&labels).is_none() && self.series.fetch_add(1, Ordering::Relaxed) >= MAX_SERIES {
            self.overflowed.inc();
            labels = SeriesLabels(None);
        }
        let traffic = TrafficLabels::of(&labels);
        Series {
            count: counter.get_or_create(&labels).clone(),
            durations: self.durations.get_or_create(&traffic).clone(),
            request_bytes: self.request_bytes.get_or_create(&traffic).clone(),
            response_bytes: self.response_bytes.get_or_create(&traffic).clone(),
        }
    }

    /// Counts an accepted connection as open until the guard is dropped.
    pub fn open(&self, listener: Listener) -> OpenConnection {
        let gauge = self.open.get_or_create(&ListenerLabels(listener)).clone();
        gauge.inc();
        OpenConnection(gauge)
    }
}

impl Series {
    fn add(&self, outcome: &Outcome) {
        self.count.inc();
        if outcome.labels.protocol.is_request() {
            self.durations.observe(outcome.duration);
        }
        self.request_bytes.inc_by(outcome.request_bytes);
        self.response_bytes.inc_by(outcome.response_bytes);
    }
}

/// Keeps an accepted connection counted as open.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A label set of the families; `None`: everything beyond [`MAX_SERIES`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SeriesLabels(Option<Labels>);

impl EncodeLabelSet for SeriesLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        let Some(labels) = &self.0 else { return encode_other(&NAMES, encoder) };
        encode_traffic(labels, encoder)?;
        label(encoder, "security", labels.security.as_str())?;
        display(encoder, "code", (labels.code != 0).then_some(labels.code))?;
        display(encoder, "grpc_code", labels.grpc_code)?;
        label(encoder, "reason", labels.reason.as_str())
    }
}

/// A label set without what became of the single request, for what takes many lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TrafficLabels(Option<Labels>);

impl TrafficLabels {
    fn of(labels: &SeriesLabels) -> Self {
        let neutral = |labels: &Labels| Labels {
            security: Security::None,
            code: 0,
            grpc_code: None,
            reason: Reason::Ok,
            ..labels.clone()
        };
        Self(labels.0.as_ref().map(neutral))
    }
}

impl EncodeLabelSet for TrafficLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(labels) => encode_traffic(labels, encoder),
            None => encode_other(NAMES.get(..TRAFFIC_NAMES).unwrap_or(&NAMES), encoder),
        }
    }
}

fn encode_traffic(labels: &Labels, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
    label(encoder, "reporter", labels.reporter.as_str())?;
    // A label that is not there is one without a value: none is written where there can be no listener.
    if let Some(AtListener(entry)) = &labels.listener {
        label(encoder, "gateway", &entry.gateway.to_string())?;
        label(encoder, "listener", &entry.listener.id.to_string())?;
    }
    label(encoder, "source_namespace", labels.source.namespace())?;
    label(encoder, "source_workload", labels.source.workload())?;
    label(encoder, "destination_namespace", labels.destination.namespace())?;
    label(encoder, "destination_workload", labels.destination.workload())?;
    display(encoder, "destination_service", labels.service.as_ref())?;
    display(encoder, "destination_port", labels.service_port())?;
    display(encoder, "route", labels.route.as_ref())?;
    display(encoder, "rule", labels.rule.as_ref())?;
    if let Some((route, rule)) = &labels.service_route {
        label(encoder, "service_route", &route.to_string())?;
        label(encoder, "service_rule", &rule.to_string())?;
    }
    display(encoder, "backend", labels.backend.as_ref().map(|(service, port)| format!("{service}:{port}")))?;
    label(encoder, "protocol", labels.protocol.as_str())
}

/// The label names, in the order they are written in; those of [`TrafficLabels`] first.
const NAMES: [&str; 15] = [
    "reporter",
    "source_namespace",
    "source_workload",
    "destination_namespace",
    "destination_workload",
    "destination_service",
    "destination_port",
    "route",
    "rule",
    "backend",
    "protocol",
    "security",
    "code",
    "grpc_code",
    "reason",
];

/// How many of [`NAMES`] are [`TrafficLabels`]'.
const TRAFFIC_NAMES: usize = 11;

fn encode_other(names: &[&'static str], encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
    names.iter().try_for_each(|name| label(encoder, name, "other"))
}

fn label(encoder: &mut LabelSetEncoder<'_>, name: &'static str, value: &str) -> std::fmt::Result {
    EncodeLabel::encode(&(name, value), encoder.encode_label())
}

fn display(
    encoder: &mut LabelSetEncoder<'_>,
    name: &'static str,
    value: Option<impl std::fmt::Display>,
) -> std::fmt::Result {
    label(encoder, name, &value.map(|v| v.to_string()).unwrap_or_default())
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ListenerLabels(Listener);

impl EncodeLabelSet for ListenerLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> std::fmt::Result {
        let name = match self.0 {
            Listener::Outbound => "outbound",
            Listener::InboundPlaintext => "inbound_plaintext",
            Listener::Tunnel => "tunnel",
            Listener::Gateway(_) => "gateway",
        };
        label(encoder, "listener", name)?;
        match self.0 {
            Listener::Gateway(port) => label(encoder, "port", &port.to_string()),
            Listener::Outbound | Listener::InboundPlaintext | Listener::Tunnel => Ok(()),
        }
    }
}

/// A histogram of durations without a lock (the client library's own takes one for each value).
#[derive(Clone, Debug, Default)]
struct Durations(Arc<DurationCounts>);

#[derive(Debug, Default)]
struct DurationCounts {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Durations {
    fn observe(&self, duration: std::time::Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.0.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds
            .zip(&self.0.buckets)
            .map(|(bound, count)| (bound, count.load(Ordering::Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        #[allow(clippy::cast_precision_loss, reason = "a sum of durations may lose its last microseconds")]
        let sum = self.0.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}
