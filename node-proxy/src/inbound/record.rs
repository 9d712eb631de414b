//! The callee's telling of a request or connection: one [`Outcome`] when its last byte has passed, also when it is
//! dropped half-way.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::workload::{Workload, WorkloadProtocol};

use crate::body::{Body, BodyError};
use crate::call::Caller;
use crate::http_server::HttpVersion;
use crate::pod::LocalPod;
use crate::send::SendError;
use crate::state::Snapshot;
use crate::telemetry::{HttpLine, Labels, Named, Outcome, Party, Protocol, Reporter};
use crate::worker::WorkerRef;

/// An outcome in the making. Told when dropped; until [`Record::end`] has said otherwise, the caller went away.
pub(crate) struct Record {
    worker: WorkerRef,
    started: Instant,
    outcome: Outcome,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.outcome.fmt(f)
    }
}

impl Record {
    /// A connection of `caller` to `pod`.
    pub(crate) fn connection(worker: &WorkerRef, pod: &LocalPod, to: SocketAddr, caller: &Caller) -> Self {
        Self::new(worker, pod, to, caller, Protocol::Tcp)
    }

    /// A request of `caller` to `pod`.
    pub(crate) fn request(
        worker: &WorkerRef,
        pod: &LocalPod,
        to: SocketAddr,
        caller: &Caller,
        request: &Request<Body>,
    ) -> Self {
        let mut record = Self::new(worker, pod, to, caller, protocol(request));
        record.outcome.http = Some(HttpLine {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(header::HOST).cloned(),
        });
        record
    }

    fn new(worker: &WorkerRef, pod: &LocalPod, to: SocketAddr, caller: &Caller, protocol: Protocol) -> Self {
        let snapshot = worker.shared.snapshot.load();
        let source = source(&snapshot, caller);
        let mut labels = Labels::new(Reporter::Destination, source, protocol, caller.security);
        labels.destination = Party::of(snapshot.workload(&pod.enrolled.uid));
        if let Some(claimed) = &caller.claimed {
            labels.service = claimed.service.clone().map(Named::Claimed);
            labels.route = claimed.route.clone().map(Named::Claimed);
        }
        labels.reason = Reason::DownstreamReset;
        let mut outcome = Outcome::new(labels);
        outcome.source_address = Some(caller.address);
        outcome.destination_address = Some(to);
        outcome.attempts = 1;
        Self { worker: worker.clone(), started: Instant::now(), outcome }
    }

    /// How it ended.
    pub(crate) fn end(&mut self, reason: Reason, message: Option<&str>) {
        self.outcome.labels.reason = reason;
        self.outcome.message = message.map(Into::into);
    }

    /// It was refused: the application never heard of it.
    pub(crate) fn refuse(mut self, reason: Reason, message: &str) {
        self.end(reason, Some(message));
        self.outcome.attempts = 0;
    }

    /// It failed before the application answered.
    pub(crate) fn failed(&mut self, error: &SendError) {
        self.end(error.reason, Some(&error.message));
        if error.not_established {
            self.outcome.attempts = 0;
        }
    }

    /// Bytes that passed.
    pub(crate) fn count(&mut self, from_caller: u64, to_caller: u64) {
        self.outcome.request_bytes += from_caller;
        self.outcome.response_bytes += to_caller;
    }

    /// Tells the rest when the response's body has ended. `sent`: bytes of the request's body so far.
    pub(crate) fn follow(mut self, response: Response<Body>, sent: Rc<Cell<u64>>) -> Response<Body> {
        self.outcome.labels.code = response.status().as_u16();
        self.outcome.labels.grpc_code = grpc_status(response.headers());
        response.map(|body| {
            let mut followed = Followed { body, record: self, sent, ended: false };
            if !followed.body.is_end_stream() {
                return Body::boxed(followed);
            }
            followed.finish(Reason::Ok, None);
            std::mem::replace(&mut followed.body, Body::Empty)
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.outcome.duration = self.started.elapsed();
        self.worker.shared.telemetry.record(&self.outcome);
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

fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

struct Followed {
    body: Body,
    record: Record,
    sent: Rc<Cell<u64>>,
    ended: bool,
}

impl Followed {
    fn finish(&mut self, reason: Reason, message: Option<&str>) {
        if !self.ended {
            self.ended = true;
            self.record.end(reason, message);
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.record.count(self.sent.get(), 0);
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                this.record.count(0, frame.data_ref().map_or(0, |data| data.len() as u64));
                if let Some(status) = frame.trailers_ref().and_then(grpc_status) {
                    this.record.outcome.labels.grpc_code = Some(status);
                }
                if this.body.is_end_stream() {
                    this.finish(Reason::Ok, None);
                }
            }
            Some(Err(error)) => this.finish(Reason::UpstreamReset, Some(&error.to_string())),
            None => this.finish(Reason::Ok, None),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request's body as it passes.
pub(crate) fn counted(request: Request<Body>) -> (Request<Body>, Rc<Cell<u64>>) {
    let sent = Rc::new(Cell::new(0));
    if request.body().is_end_stream() {
        return (request, sent);
    }
    let counter = sent.clone();
    (request.map(|body| Body::boxed(Counted { body, sent: counter })), sent)
}

struct Counted {
    body: Body,
    sent: Rc<Cell<u64>>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            this.sent.set(this.sent.get() + frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
