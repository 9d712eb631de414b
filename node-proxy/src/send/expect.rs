//! `Expect: 100-continue` from end to end (RFC 9110 §10.1.1). hyper tells a caller to continue as soon as its body is
//! asked for; so the body is not asked for before the next hop has said to continue.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::body::{Body, BodyError};

/// How long the body is kept back from a next hop that says nothing: it may not know the expectation (RFC 9110 §10.1.1
/// forbids to wait for ever).
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

const WAITING: u8 = 0;
const OPEN: u8 = 1;
const ANSWERED: u8 = 2;

/// Keeps a request's body back until the next hop wants it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Gate {
    /// Puts a gate before the body of a request that expects 100-continue.
    pub(crate) fn before(request: &mut Request<Body>) -> Option<Self> {
        if !expects_continue(request.headers()) || request.body().is_end_stream() {
            return None;
        }
        let gate = Self::default();
        let at_gate = gate.clone();
        let body = std::mem::replace(request.body_mut(), Body::Empty);
        let timer = Box::pin(tokio::time::sleep_until(Instant::now() + PATIENCE));
        *request.body_mut() = Body::boxed(Gated { body, gate: at_gate, timer });
        let opener = gate.clone();
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                opener.set(OPEN);
            }
        });
        Some(gate)
    }

    /// The final response is here: if the body has not been asked for, it never will be.
    pub(crate) fn answered(&self) {
        self.set(ANSWERED);
    }

    /// The request was not sent: the gate is no obstacle to another try.
    pub(crate) fn open(&self) {
        self.set(OPEN);
    }

    fn set(&self, state: u8) {
        let _ = self.0.state.compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire);
        self.0.waker.wake();
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

struct Gated {
    body: Body,
    gate: Gate,
    timer: Pin<Box<Sleep>>,
}

impl http_body::Body for Gated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.gate.0.waker.register(cx.waker());
        match this.gate.0.state.load(Ordering::Acquire) {
            OPEN => {}
            ANSWERED => return Poll::Ready(Some(Err("the next hop answered without the body".into()))),
            _ => {
                ready!(this.timer.as_mut().poll(cx));
                this.gate.set(OPEN);
            }
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
