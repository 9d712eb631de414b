//! Gathers what an HTTP/2 connection writes while it is asked once, and sends it in one piece. h2 writes and flushes behind
//! each DATA frame of 256 bytes or more, so that ten small responses that are ready together would cost ten system calls
//! and, inside TLS, ten records.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most: a TLS record's content. What is larger passes behind it, uncopied.
const ROOM: usize = 16 * 1024;

/// A connection whose writes wait for [`Gathered::carry`].
#[derive(Debug)]
pub(super) struct Gathered<I>(Rc<RefCell<Inner<I>>>);

#[derive(Debug)]
struct Inner<I> {
    io: I,
    waiting: Vec<u8>,
    /// How much of `waiting` has been written.
    written: usize,
    /// What has been written may be held back below, as by TLS.
    unflushed: bool,
    /// Sending failed while the connection was not asked.
    failed: Option<io::ErrorKind>,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Gathered<I> {
    pub(super) fn new(io: I) -> Self {
        let inner = Inner { io, waiting: Vec::new(), written: 0, unflushed: false, failed: None };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// Another handle of the same connection.
    pub(super) fn handle(&self) -> Self {
        Self(Rc::clone(&self.0))
    }

    /// Asks `connection`, which has another handle of this, until it ends, and each time sends what it has written.
    pub(super) async fn carry<T>(&self, mut connection: Pin<&mut impl Future<Output = T>>) -> T {
        poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            let mut inner = self.0.borrow_mut();
            if let Poll::Ready(Err(error)) = inner.poll_send(cx) {
                // The connection meets it at its next step.
                inner.failed = Some(error.kind());
                cx.waker().wake_by_ref();
            }
            polled
        })
        .await
    }
}

impl<I: AsyncWrite + Unpin> Inner<I> {
    /// Sends all that waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        while let Some(left) = self.waiting.get(self.written..).filter(|left| !left.is_empty()) {
            match ready!(Pin::new(&mut self.io).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
            self.unflushed = true;
        }
        self.waiting.clear();
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I> Inner<I> {
    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Gathered<I> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        inner.check()?;
        Pin::new(&mut inner.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gathered<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        let length = slices.iter().map(|slice| slice.len()).sum();
        if inner.waiting.len() + length > ROOM {
            ready!(inner.poll_send(cx))?;
        }
        if length > ROOM {
            inner.unflushed = true;
            return Pin::new(&mut inner.io).poll_write_vectored(cx, slices);
        }
        slices.iter().for_each(|slice| inner.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: `carry` sends.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
