//! `RequestMirror`: a copy of the request goes to another backend; its response is dropped. The body is copied as it
//! streams, bounded: a slow mirror loses its copy, the request itself never waits for it or changes by it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use ahash::HashMap;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use rand::Rng;
use weft_model::route::Mirror;

use crate::body::{Body, BodyError};

/// Bytes of a body that may wait for a slow mirror.
pub const PENDING: usize = 256 * 1024;
/// Filters whose turns are kept; those of routes gone by are dropped beyond it.
const KEPT_TURNS: usize = 4_096;

/// Whose turn it is: of `denominator` requests exactly `numerator` are copied, evenly spread.
#[derive(Debug, Default)]
pub struct Turns {
    /// By the filter's place in memory. One that is reused by another filter only shifts whose turn comes first.
    taken: RefCell<HashMap<usize, u64>>,
}

impl Turns {
    /// Whether this request is to be copied.
    pub fn is_due(&self, mirror: &Mirror) -> bool {
        let (share, whole) = (u64::from(mirror.numerator), u64::from(mirror.denominator));
        if share >= whole {
            return true;
        }
        let mut taken = self.taken.borrow_mut();
        if taken.len() >= KEPT_TURNS {
            taken.clear();
        }
        // Starts anywhere, so that callers of few requests are not all copied or all left out.
        let sum = taken
            .entry(std::ptr::from_ref(mirror) as usize)
            .or_insert_with(|| rand::rng().random_range(0..whole));
        // A place taken over from another filter may hold more than a whole of this one.
        *sum = *sum % whole + share;
        let due = *sum >= whole;
        if due {
            *sum -= whole;
        }
        due
    }
}

/// A piece of a body that can be kept.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    pub(crate) fn of(frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref().cloned().map(Self::Data);
        data.or_else(|| frame.trailers_ref().cloned().map(Self::Trailers))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }

    pub(crate) fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

/// Splits a body into itself and `count` copies, which follow it while it is read.
pub fn split(body: Body, count: usize) -> (Body, Vec<Body>) {
    if body.is_end_stream() {
        return (body, (0..count).map(|_| Body::Empty).collect());
    }
    let hint = body.size_hint();
    let queues: Vec<_> = (0..count).map(|_| Rc::<RefCell<Queue>>::default()).collect();
    let copies = queues.iter().map(|queue| Body::boxed(CopyBody { queue: Rc::clone(queue), hint }));
    let copies = copies.collect();
    (Body::boxed(Original { inner: body, queues }), copies)
}

/// What waits for one mirror.
#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    bytes: usize,
    end: Option<End>,
    /// The copy is no longer wanted.
    abandoned: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    /// The original was cut off, or the mirror was too slow.
    Broken,
}

impl Queue {
    fn push(&mut self, piece: Piece) {
        if self.end.is_some() || self.abandoned {
            return;
        }
        self.bytes += piece.len();
        if self.bytes > PENDING {
            self.pieces.clear();
            self.close(End::Broken);
            return;
        }
        self.pieces.push_back(piece);
        self.wake();
    }

    fn close(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The body that goes to the request's own backend.
struct Original {
    inner: Body,
    queues: Vec<Rc<RefCell<Queue>>>,
}

impl Original {
    fn close(&self, end: End) {
        self.queues.iter().for_each(|queue| queue.borrow_mut().close(end));
    }
}

impl http_body::Body for Original {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(piece) = Piece::of(frame) {
                    self.queues.iter().for_each(|queue| queue.borrow_mut().push(piece.clone()));
                }
                // Nobody asks again after the announced end.
                if self.inner.is_end_stream() {
                    self.close(End::Complete);
                }
            }
            Some(Err(_)) => self.close(End::Broken),
            None => self.close(End::Complete),
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

impl Drop for Original {
    fn drop(&mut self) {
        let end = if self.inner.is_end_stream() { End::Complete } else { End::Broken };
        self.close(end);
    }
}

/// The body that goes to the mirror.
struct CopyBody {
    queue: Rc<RefCell<Queue>>,
    hint: SizeHint,
}

/// The copy could not be completed.
#[derive(Debug, thiserror::Error)]
#[error("the mirrored body was cut off")]
struct Broken;

impl http_body::Body for CopyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut queue = self.queue.borrow_mut();
        if let Some(piece) = queue.pieces.pop_front() {
            queue.bytes -= piece.len();
            return Poll::Ready(Some(Ok(piece.into_frame())));
        }
        match queue.end {
            Some(End::Complete) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(Broken.into()))),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl Drop for CopyBody {
    fn drop(&mut self) {
        let mut queue = self.queue.borrow_mut();
        queue.abandoned = true;
        queue.pieces.clear();
    }
}
