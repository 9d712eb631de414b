//! A byte stream to an application, over TCP or in a tunnel, with half-close and reset carried exactly.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use weft_model::Reason;

use super::pools::Hbone;
use crate::inbound::record::Record;
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
    /// A TCP connection to an application of this node; the callee's outcome is told when it is dropped.
    Recorded(Box<Recorded>),
}

/// A stream's place on its connection.
#[derive(Debug)]
pub struct PooledPlace(#[allow(dead_code, reason = "dropping it is its use")] pub(crate) Lease<Hbone>);

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            ByteStream::Tcp($stream) => $call,
            ByteStream::Hbone($stream, _) => $call,
            ByteStream::Recorded($stream) => $call,
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

/// A connection to an application of this node, counting for the callee's outcome.
#[derive(Debug)]
pub struct Recorded {
    stream: TcpStream,
    record: Record,
    /// Both directions must have ended in order for the outcome to be "ok".
    read_ended: bool,
    write_ended: bool,
}

impl Recorded {
    pub(crate) fn new(stream: TcpStream, record: Record) -> Self {
        Self { stream, record, read_ended: false, write_ended: false }
    }

    fn judge(&mut self) {
        if self.read_ended && self.write_ended {
            self.record.end(Reason::Ok, None);
        }
    }
}

impl Duplex for Box<Recorded> {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}

impl AsyncRead for Recorded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match ready!(Pin::new(&mut this.stream).poll_read(cx, buf)) {
            Ok(()) => {
                let count = buf.filled().len() - before;
                this.record.count(0, count as u64);
                this.read_ended |= count == 0;
                this.judge();
                Poll::Ready(Ok(()))
            }
            Err(error) => {
                this.record.end(Reason::UpstreamReset, Some(&error.to_string()));
                Poll::Ready(Err(error))
            }
        }
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.record.count(count as u64, 0);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        this.write_ended = true;
        this.judge();
        Poll::Ready(Ok(()))
    }
}
