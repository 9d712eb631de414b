//! A request body that can be sent again: what the first try reads is kept as it streams, up to [`KEPT`] bytes.
//! A longer body streams on but cannot be sent again.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{Body, BodyError};
use crate::outbound::filter::mirror::Piece;

/// Bytes of a body that are kept for another try.
pub const KEPT: usize = 64 * 1024;

/// The source of every try's body.
#[derive(Debug)]
pub struct Replay {
    state: Rc<RefCell<State>>,
}

#[derive(Debug)]
struct State {
    inner: Body,
    /// The length of the whole body, where it is known.
    length: Option<u64>,
    pieces: Vec<Piece>,
    bytes: usize,
    ended: bool,
    /// More than [`KEPT`] bytes have passed.
    lost: bool,
    /// Which try reads now: an earlier one that is not yet dropped may not take the body away from it.
    turn: u32,
}

impl Replay {
    /// Keeps what passes of `body`.
    pub fn new(body: Body) -> Self {
        let ended = body.is_end_stream();
        let length = body.size_hint().exact();
        let state = State { inner: body, length, pieces: Vec::new(), bytes: 0, ended, lost: false, turn: 0 };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// Whether another try could still read the body from its first byte.
    pub fn is_whole(&self) -> bool {
        !self.state.borrow().lost
    }

    /// The body for the next try, from its first byte; `None`: too much has passed.
    pub fn next_try(&self) -> Option<Body> {
        let mut state = self.state.borrow_mut();
        if state.lost {
            return None;
        }
        if state.ended && state.pieces.is_empty() {
            return Some(Body::Empty);
        }
        state.turn += 1;
        let (turn, remaining) = (state.turn, state.length);
        Some(Body::boxed(Try { state: Rc::clone(&self.state), next: 0, turn, remaining }))
    }
}

/// One try's body.
struct Try {
    state: Rc<RefCell<State>>,
    /// The piece to give next.
    next: usize,
    turn: u32,
    remaining: Option<u64>,
}

/// A later try has taken over.
#[derive(Debug, thiserror::Error)]
#[error("another try has taken over")]
struct Superseded;

impl State {
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => self.keep(frame),
            // What the caller did not finish cannot be sent again.
            Some(Err(_)) => self.lose(),
            None => self.ended = true,
        }
        Poll::Ready(polled)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(piece) = Piece::of(frame) else { return };
        self.bytes += piece.len();
        if self.lost || self.bytes > KEPT {
            self.lose();
        } else {
            self.pieces.push(piece);
        }
    }

    fn lose(&mut self) {
        self.lost = true;
        self.pieces = Vec::new();
    }
}

impl http_body::Body for Try {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let mut state = this.state.borrow_mut();
        if state.turn != this.turn {
            return Poll::Ready(Some(Err(Superseded.into())));
        }
        let polled = match state.pieces.get(this.next) {
            Some(piece) => Some(Ok(piece.clone().into_frame())),
            None if state.ended => None,
            None => ready!(state.poll_inner(cx)),
        };
        this.next += 1;
        if let (Some(remaining), Some(Ok(frame))) = (&mut this.remaining, &polled) {
            *remaining = remaining.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.borrow();
        self.next >= state.pieces.len() && (state.ended || state.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
