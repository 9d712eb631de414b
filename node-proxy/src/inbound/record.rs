//! The callee's telling of a request or connection: what is known of it when it comes, and the ways it ends.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, header};
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::workload::{Workload, WorkloadProtocol};

use crate::body::Body;
use crate::call::Caller;
use crate::http_server::HttpVersion;
use crate::pod::LocalPod;
use crate::send::SendError;
use crate::state::Snapshot;
use crate::telemetry::{HttpLine, Labels, Named, Outcome, Party, Protocol, Recorder, Reporter};
use crate::worker::WorkerRef;

/// Begins the outcome of a connection of `caller` to `pod`.
pub(crate) fn connection(
    worker: &WorkerRef,
    pod: &LocalPod,
    to: SocketAddr,
    caller: &Caller,
) -> Box<Recorder> {
    Recorder::begin(worker, outcome(worker, pod, to, caller, Protocol::Tcp), Instant::now())
}

/// Begins the outcome of a request of `caller` to `pod`.
pub(crate) fn request(
    worker: &WorkerRef,
    pod: &LocalPod,
    to: SocketAddr,
    caller: &Caller,
    request: &Request<Body>,
) -> Box<Recorder> {
    let mut outcome = outcome(worker, pod, to, caller, protocol(request));
    if worker.shared.telemetry.logs_requests() {
        outcome.http = Some(HttpLine {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(header::HOST).cloned(),
            client: None,
        });
    }
    Recorder::begin(worker, outcome, Instant::now())
}

fn outcome(
    worker: &WorkerRef,
    pod: &LocalPod,
    to: SocketAddr,
    caller: &Caller,
    protocol: Protocol,
) -> Outcome {
    let snapshot = worker.shared.snapshot.load();
    let source = source(&snapshot, caller);
    let mut labels = Labels::new(Reporter::Destination, source, protocol, caller.security);
    labels.destination = Party::of(snapshot.workload(&pod.enrolled.uid));
    if let Some(claimed) = &caller.claimed {
        labels.service = claimed.service.clone().map(Named::Claimed);
        labels.route = claimed.route.clone().map(Named::Claimed);
    }
    let mut outcome = Outcome::new(labels);
    outcome.source_address = Some(caller.address);
    outcome.destination_address = Some(to);
    outcome.attempts = 1;
    outcome
}

impl Recorder {
    /// Tells how it ended.
    pub(crate) fn end(mut self: Box<Self>, reason: Reason, message: Option<&str>) {
        self.outcome.labels.reason = reason;
        self.outcome.message = message.map(Into::into);
        self.finish();
    }

    /// Tells that it was refused: the application never heard of it.
    pub(crate) fn refuse(mut self: Box<Self>, reason: Reason, message: &str) {
        self.outcome.attempts = 0;
        self.end(reason, Some(message));
    }

    /// Tells that it failed before the application answered.
    pub(crate) fn failed(mut self: Box<Self>, error: &SendError) {
        if error.not_established {
            self.outcome.attempts = 0;
        }
        self.end(error.reason, Some(&error.message));
    }
}

/// A plaintext caller is named by its address only where that is no mesh pod's: an address proves nothing.
fn source(snapshot: &Snapshot, caller: &Caller) -> Party {
    let at: Option<&Arc<Workload>> = snapshot.workload_at(caller.address.ip());
    match &caller.identity {
        Some(identity) => match at.filter(|workload| workload.identity == *identity) {
            Some(workload) => Party::Workload(workload.clone()),
            None => Party::Identity(identity.clone()),
        },
        None => Party::of(at.filter(|workload| workload.protocol == WorkloadProtocol::Plaintext).cloned()),
    }
}

fn protocol(request: &Request<Body>) -> Protocol {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    match HttpVersion::of(request.version()) {
        HttpVersion::Http2 if grpc => Protocol::Grpc,
        HttpVersion::Http2 => Protocol::Http2,
        HttpVersion::Http1 => Protocol::Http1,
    }
}
