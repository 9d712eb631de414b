//! A connection of which the first bytes were already read: they come again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::http_server::HttpVersion;
use crate::relay::Duplex;

/// How every HTTP/2 connection begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection with its first bytes in hand.
#[derive(Debug)]
pub struct Prefixed<I> {
    prefix: Bytes,
    io: I,
}

impl<I> Prefixed<I> {
    /// `io`, with `prefix` to be read first.
    pub fn new(prefix: Bytes, io: I) -> Self {
        Self { prefix, io }
    }

    /// The connection below.
    pub fn io(&self) -> &I {
        &self.io
    }

    /// The connection below.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }
}

impl<I: AsyncRead + Unpin> Prefixed<I> {
    /// Reads on until the bytes tell which version is spoken; they stay to be read.
    ///
    /// # Errors
    /// The connection failed, or ended before.
    pub async fn http_version(&mut self) -> io::Result<HttpVersion> {
        loop {
            let compared = self.prefix.len().min(PREFACE.len());
            if self.prefix.get(..compared) != PREFACE.get(..compared) {
                return Ok(HttpVersion::Http1);
            }
            if compared == PREFACE.len() {
                return Ok(HttpVersion::Http2);
            }
            let mut read = bytes::BytesMut::from(self.prefix.as_ref());
            read.reserve(1024);
            if self.io.read_buf(&mut read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.prefix = read.freeze();
        }
    }
}

impl<I: Duplex> Duplex for Prefixed<I> {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(self.prefix.get(..length).unwrap_or_default());
        self.prefix.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
