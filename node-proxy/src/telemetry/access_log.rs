//! The access log: one JSON object per line, written by a thread of its own behind a bounded queue. A slow or full
//! disk costs lines (counted in `weft_access_log_dropped_total`), never a request's time.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::record::{Outcome, Party};

/// Lines that may wait for the disk.
const QUEUE: usize = 4096;

/// Where the access log goes: `off`, `-` for standard output, or a file to append to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

impl FromStr for AccessLogTarget {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" => Self::Off,
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

/// The writing end, shared by the workers.
#[derive(Debug)]
pub struct AccessLog {
    queue: Option<SyncSender<Entry>>,
    dropped: Counter,
}

#[derive(Debug)]
struct Entry {
    at: SystemTime,
    outcome: Box<Outcome>,
}

impl AccessLog {
    /// No access log.
    pub fn off() -> Self {
        Self { queue: None, dropped: Counter::default() }
    }

    /// Opens the target and starts the writing thread, which ends when this value is dropped.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or the thread not be started.
    pub fn open(target: &AccessLogTarget, dropped: Counter) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match target {
            AccessLogTarget::Off => return Ok(Self { queue: None, dropped }),
            AccessLogTarget::Stdout => Box::new(io::stdout()),
            AccessLogTarget::File(path) => Box::new(append_to(path)?),
        };
        Self::start(out, dropped)
    }

    fn start(out: Box<dyn Write + Send>, dropped: Counter) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE);
        let lost = dropped.clone();
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_lines(&entries, out, &lost))?;
        Ok(Self { queue: Some(queue), dropped })
    }

    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues the outcome's line, or counts it as dropped when the queue is full.
    pub fn write(&self, outcome: &Outcome) {
        let Some(queue) = &self.queue else { return };
        let entry = Entry { at: SystemTime::now(), outcome: Box::new(outcome.clone()) };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(entry) {
            self.dropped.inc();
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path).map_err(|error| {
        let advice = format!(
            "cannot append to the access log {}: {error}; choose another --access-log",
            path.display()
        );
        io::Error::new(error.kind(), advice)
    })
}

/// Writes until every sender is gone. Lines are flushed whenever nothing more is waiting.
fn write_lines(entries: &Receiver<Entry>, out: Box<dyn Write + Send>, lost: &Counter) {
    let mut writer = BatchWriter { out, batch: Vec::new(), lines: 0, torn: false };
    while let Ok(first) = entries.recv() {
        writer.add(&first);
        while let Ok(more) = entries.try_recv() {
            writer.add(&more);
            if writer.batch.len() > 64 * 1024 {
                break;
            }
        }
        lost.inc_by(writer.flush());
    }
}

/// Whole lines are gathered and written at once; a batch that fails is dropped as a whole, so that the
/// next one starts on a fresh line.
struct BatchWriter {
    out: Box<dyn Write + Send>,
    batch: Vec<u8>,
    lines: u64,
    /// The last write may have stopped in the middle of a line.
    torn: bool,
}

impl BatchWriter {
    fn add(&mut self, entry: &Entry) {
        let start = self.batch.len();
        if serde_json::to_writer(&mut self.batch, entry).is_ok() {
            self.batch.push(b'\n');
            self.lines += 1;
        } else {
            self.batch.truncate(start);
        }
    }

    /// Returns how many lines were lost.
    fn flush(&mut self) -> u64 {
        if self.torn {
            self.batch.insert(0, b'\n');
        }
        let written = self.out.write_all(&self.batch).and_then(|()| self.out.flush());
        self.torn = written.is_err();
        let lost = if self.torn { self.lines } else { 0 };
        self.batch.clear();
        self.lines = 0;
        lost
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("time", &Time(self.at))?;
        who(&self.outcome, &mut line)?;
        what(&self.outcome, &mut line)?;
        result(&self.outcome, &mut line)?;
        line.end()
    }
}

/// The two ends.
fn who<M: SerializeMap>(outcome: &Outcome, line: &mut M) -> Result<(), M::Error> {
    let labels = &outcome.labels;
    line.serialize_entry("reporter", labels.reporter.as_str())?;
    entry("gateway", labels.listener.as_ref().map(|at| Shown(&at.0.gateway)), line)?;
    entry("listener", labels.listener.as_ref().map(|at| Shown(&at.0.listener.id)), line)?;
    party("source", &labels.source, outcome.source_address, line)?;
    party("destination", &labels.destination, outcome.destination_address, line)?;
    entry("service", labels.service.as_ref().map(Shown), line)?;
    entry("port", labels.service_port(), line)?;
    entry("route", labels.route.as_ref().map(Shown), line)?;
    entry("rule", labels.rule.as_ref().map(Shown), line)?;
    entry("service_route", labels.service_route.as_ref().map(|(route, _)| Shown(route)), line)?;
    entry("service_rule", labels.service_route.as_ref().map(|(_, rule)| Shown(rule)), line)?;
    let backend = labels.backend.as_ref().map(|(service, port)| format!("{service}:{port}"));
    entry("backend", backend, line)?;
    line.serialize_entry("security", labels.security.as_str())
}

fn party<M: SerializeMap>(
    end: &'static str,
    party: &Party,
    address: Option<SocketAddr>,
    line: &mut M,
) -> Result<(), M::Error> {
    let pod = match party {
        Party::Workload(workload) => Some(Shown(&workload.pod)),
        Party::Identity(_) | Party::Unknown => None,
    };
    let [address_key, pod_key, workload_key, identity_key] = match end {
        "source" => ["source", "source_pod", "source_workload", "source_identity"],
        _ => ["destination", "destination_pod", "destination_workload", "destination_identity"],
    };
    entry(address_key, address, line)?;
    entry(pod_key, pod, line)?;
    entry(workload_key, Some(party.workload()).filter(|name| !name.is_empty()), line)?;
    entry(identity_key, party.identity().map(Shown), line)
}

/// The request.
fn what<M: SerializeMap>(outcome: &Outcome, line: &mut M) -> Result<(), M::Error> {
    line.serialize_entry("protocol", outcome.labels.protocol.as_str())?;
    let Some(http) = &outcome.http else { return Ok(()) };
    let host = http.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()));
    entry("client", http.client, line)?;
    line.serialize_entry("method", http.method.as_str())?;
    entry("authority", http.uri.authority().map(|a| a.as_str().into()).or(host), line)?;
    entry("path", http.uri.path_and_query().map(http::uri::PathAndQuery::as_str), line)
}

/// What became of it.
fn result<M: SerializeMap>(outcome: &Outcome, line: &mut M) -> Result<(), M::Error> {
    let labels = &outcome.labels;
    entry("code", (labels.code != 0).then_some(labels.code), line)?;
    entry("grpc_code", labels.grpc_code, line)?;
    line.serialize_entry("reason", labels.reason.as_str())?;
    entry("message", outcome.message.as_deref(), line)?;
    line.serialize_entry("attempts", &outcome.attempts)?;
    line.serialize_entry("request_bytes", &outcome.request_bytes)?;
    line.serialize_entry("response_bytes", &outcome.response_bytes)?;
    line.serialize_entry("duration_ms", &(outcome.duration.as_micros() as f64 / 1e3))
}

fn entry<M: SerializeMap>(
    key: &'static str,
    value: Option<impl Serialize>,
    line: &mut M,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| line.serialize_entry(key, &value))
}

/// Serialised as it is displayed.
struct Shown<'a, T>(&'a T);

impl<T: fmt::Display> Serialize for Shown<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

struct Time(SystemTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let nanoseconds = self.0.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let time =
            jiff::Timestamp::from_nanosecond(i128::try_from(nanoseconds).unwrap_or(0)).unwrap_or_default();
        serializer.collect_str(&format_args!("{time:.6}"))
    }
}
