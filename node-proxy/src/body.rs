//! The one body type of every request and response in the proxy. Bodies stream; nothing here buffers one.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use crate::telemetry::Recorded;

/// A body.
pub enum Body {
    /// None.
    Empty,
    /// A short text of the proxy's own.
    Full(Option<Bytes>),
    /// What hyper is receiving.
    Incoming(Incoming),
    /// As `Incoming`, with its bytes counted.
    Counted(Incoming, Rc<Cell<u64>>),
    /// A response's body that tells what became of the request when it ends.
    Recorded(Box<Recorded>),
    /// Anything else (a copied, replayed or guarded body). Not `Send`: a worker is one thread, and what is pooled with the
    /// body stays on it.
    Boxed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError>>>),
}

/// Why a body ended early.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl Body {
    /// A short text of the proxy's own.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::Full(Some(text.into()))
    }

    /// Wraps another body.
    pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self::Boxed(Box::pin(body))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Incoming(_) => "Incoming",
            Self::Counted(..) => "Counted",
            Self::Recorded(_) => "Recorded",
            Self::Boxed(_) => "Boxed",
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Self::Counted(incoming, count) => poll_counted(incoming, count, cx),
            Self::Recorded(body) => body.poll_frame(cx),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Incoming(incoming) | Self::Counted(incoming, _) => incoming.is_end_stream(),
            Self::Recorded(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Incoming(incoming) | Self::Counted(incoming, _) => incoming.size_hint(),
            Self::Recorded(body) => body.size_hint(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

fn poll_counted(
    incoming: &mut Incoming,
    count: &Cell<u64>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let polled = Pin::new(incoming).poll_frame(cx);
    if let Poll::Ready(Some(Ok(frame))) = &polled
        && let Some(data) = frame.data_ref()
    {
        count.set(count.get() + data.len() as u64);
    }
    polled.map_err(Into::into)
}
