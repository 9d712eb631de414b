//! A byte stream to an application, over TCP or in a tunnel, with half-close and reset carried exactly.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use weft_tls::TlsStream;

use super::pools::Hbone;
use crate::relay::Duplex;
use crate::tunnel::hbone::HboneStream;
use crate::tunnel::pool::Lease;

/// A byte stream. Reading 0 bytes is the peer's FIN (END_STREAM); an error of kind `ConnectionReset` its RST
/// (RST_STREAM). `shutdown` sends FIN (END_STREAM) and leaves reading open.
#[derive(Debug)]
pub enum ByteStream {
    /// A TCP connection out of the mesh.
    Tcp(TcpStream),
    /// A stream of a pooled HBONE connection.
    Hbone(HboneStream, PooledPlace),
    /// TLS to a backend on one of the others.
    Tls(Box<TlsStream<Self>>),
    /// To an application of this node, through the callee's side of this same process.
    Local(Pipe),
}

/// A stream's place on its connection.
#[derive(Debug)]
pub struct PooledPlace(#[allow(dead_code, reason = "dropping it is its use")] pub(crate) Lease<Hbone>);

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            ByteStream::Tcp($stream) => $call,
            ByteStream::Hbone($stream, _) => $call,
            ByteStream::Tls($stream) => $call,
            ByteStream::Local($stream) => $call,
        }
    };
}

impl Duplex for ByteStream {
    fn reset_on_drop(&mut self) {
        each!(self, stream => stream.reset_on_drop());
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl Duplex for TlsStream<ByteStream> {
    fn reset_on_drop(&mut self) {
        self.transport_mut().reset_on_drop();
    }
}

/// One end of a byte stream inside the process. Dropping it is FIN, unless it was to be a reset.
#[derive(Debug)]
pub struct Pipe {
    stream: DuplexStream,
    /// This end was dropped as a reset.
    reset: Arc<AtomicBool>,
    /// The other was.
    was_reset: Arc<AtomicBool>,
}

impl Pipe {
    /// Two ends.
    pub(crate) fn pair() -> (Self, Self) {
        let (one, other) = tokio::io::duplex(64 * 1024);
        let (a, b) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let first = Self { stream: one, reset: a.clone(), was_reset: b.clone() };
        (first, Self { stream: other, reset: b, was_reset: a })
    }

    fn check_reset(&self) -> io::Result<()> {
        if self.was_reset.load(Ordering::Acquire) {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }
}

impl Duplex for Pipe {
    fn reset_on_drop(&mut self) {
        self.reset.store(true, Ordering::Release);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        // Both wake this end only by the drop that follows the mark.
        Poll::Ready(if buf.filled().len() == before { this.check_reset() } else { Ok(()) })
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf));
        Poll::Ready(written.or_else(|error| this.check_reset().and(Err(error))))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
