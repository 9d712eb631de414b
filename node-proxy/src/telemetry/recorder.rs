//! [`Recorder`]: carries a request's [`Outcome`] from its head to its last byte and tells it exactly once, whichever
//! way the request ends: answered, refused, cut off, or dropped half-way.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use weft_model::Reason;

use super::{Outcome, Protocol};
use crate::body::{Body, BodyError};
use crate::outbound::balance::InFlight;
use crate::worker::WorkerRef;

/// An outcome in the making. Dropped before its response has passed, it tells `downstream_reset`: the caller has left.
#[derive(Debug)]
pub struct Recorder {
    /// What is known so far; complete it on the way.
    pub outcome: Outcome,
    /// Keeps the endpoint counted as busy until the last byte.
    pub in_flight: Option<InFlight>,
    worker: WorkerRef,
    start: Instant,
    request_bytes: Option<Rc<Cell<u64>>>,
    /// The response's body is not sent, whatever it is: nobody will read it to its end.
    head_only: bool,
    told: bool,
}

impl Recorder {
    /// Begins an outcome at `start`.
    pub fn begin(worker: &WorkerRef, outcome: Outcome, start: Instant) -> Box<Self> {
        let worker = Rc::clone(worker);
        Box::new(Self {
            outcome,
            in_flight: None,
            worker,
            start,
            request_bytes: None,
            head_only: false,
            told: false,
        })
    }

    /// When the request's head had come.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Counts the bytes of the request's body as they pass. Costs nothing for a request without one.
    pub fn count_request(&mut self, request: &mut Request<Body>) {
        self.head_only = request.method() == http::Method::HEAD;
        if request.body().is_end_stream() {
            return;
        }
        let count = Rc::<Cell<u64>>::default();
        let body = std::mem::replace(request.body_mut(), Body::Empty);
        *request.body_mut() = match body {
            Body::Incoming(incoming) => {
                self.request_bytes = Some(Rc::clone(&count));
                Body::Counted(incoming, count)
            }
            // The caller's side of the same node counts already, and sends such a body once.
            Body::Counted(incoming, counted) => {
                self.request_bytes = Some(Rc::clone(&counted));
                Body::Counted(incoming, counted)
            }
            other => {
                self.request_bytes = Some(Rc::clone(&count));
                Body::boxed(Counting { inner: other, count })
            }
        };
    }

    /// Lets the response's body tell the outcome when it ends. With `deadline` the body is cut off then, for that reason.
    pub fn attach(
        mut self: Box<Self>,
        response: Response<Body>,
        deadline: Option<(Instant, Reason)>,
    ) -> Response<Body> {
        self.outcome.labels.code = response.status().as_u16();
        self.note_grpc_status(response.headers());
        let (head, body) = response.into_parts();
        if body.is_end_stream() {
            self.tell();
            return Response::from_parts(head, body);
        }
        let remaining = if self.head_only { Some(0) } else { body.size_hint().exact() };
        let deadline = deadline.map(|(at, reason)| (Box::pin(tokio::time::sleep_until(at)), reason));
        let recorded = Recorded { inner: body, recorder: self, remaining, deadline };
        Response::from_parts(head, Body::Recorded(Box::new(recorded)))
    }

    /// Tells the outcome as it is now, for what has no response to attach it to.
    pub fn finish(mut self: Box<Self>) {
        self.tell();
    }

    fn note_grpc_status(&mut self, fields: &HeaderMap) {
        if self.outcome.labels.protocol == Protocol::Grpc
            && let Some(status) = fields.get("grpc-status")
        {
            self.outcome.labels.grpc_code = status.to_str().ok().and_then(grpc_code);
        }
    }

    fn tell(&mut self) {
        self.told = true;
        self.outcome.duration = self.start.elapsed();
        if let Some(count) = &self.request_bytes {
            self.outcome.request_bytes = count.get();
        }
        self.worker.shared.telemetry.record(&self.outcome);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.told {
            self.outcome.labels.reason = Reason::DownstreamReset;
            self.tell();
        }
    }
}

/// The codes there are (0 to 16); an application's own number would make an unbounded label.
fn grpc_code(text: &str) -> Option<u16> {
    text.trim().parse().ok().map(|code: u16| if code <= 16 { code } else { 2 })
}

/// A request's body whose bytes are counted as they pass.
struct Counting {
    inner: Body,
    count: Rc<Cell<u64>>,
}

impl http_body::Body for Counting {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            this.count.set(this.count.get() + frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A response's body that tells the outcome at its end.
#[derive(Debug)]
pub struct Recorded {
    inner: Body,
    recorder: Box<Recorder>,
    /// Bytes still to come, where the length is known.
    remaining: Option<u64>,
    deadline: Option<(Pin<Box<Sleep>>, Reason)>,
}

/// The response was cut off by a deadline.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CutOff(Reason);

impl Recorded {
    /// As [`http_body::Body::poll_frame`].
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some((sleep, reason)) = &mut self.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            let reason = *reason;
            self.end(reason);
            return Poll::Ready(Some(Err(CutOff(reason).into())));
        }
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => self.passed(frame),
            Some(Err(error)) => {
                self.recorder.outcome.message = Some(error.to_string().into());
                self.end(Reason::UpstreamReset);
            }
            None => self.end(Reason::Ok),
        }
        Poll::Ready(polled)
    }

    fn passed(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            let length = data.len() as u64;
            self.recorder.outcome.response_bytes += length;
            self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(length));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.recorder.note_grpc_status(trailers);
        }
    }

    /// Tells the outcome, once. A reason found before the response began is kept.
    fn end(&mut self, reason: Reason) {
        if !self.recorder.told {
            if reason != Reason::Ok {
                self.recorder.outcome.labels.reason = reason;
            }
            self.recorder.tell();
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Recorded {
    /// A server stops asking once the announced length has passed, or when the body says that it has ended.
    fn drop(&mut self) {
        if self.remaining == Some(0) || self.inner.is_end_stream() {
            self.end(Reason::Ok);
        }
    }
}
