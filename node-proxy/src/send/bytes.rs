//! A byte stream to or from an application, over TCP or in a tunnel, with half-close and reset carried exactly.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tunnel::hbone::HboneStream;

/// A byte stream. Reading 0 bytes is the peer's FIN (END_STREAM); an error of kind `ConnectionReset` its RST
/// (RST_STREAM). `shutdown` sends FIN (END_STREAM) and leaves reading open; [`ByteStream::reset`] sends RST (RST_STREAM).
#[derive(Debug)]
pub enum ByteStream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A stream of an HBONE connection.
    Hbone(HboneStream),
}

impl ByteStream {
    /// Ends both directions at once, by RST or RST_STREAM.
    pub fn reset(self) {
        match self {
            Self::Tcp(stream) => {
                // With linger 0 close sends RST instead of FIN.
                let _ = stream.set_zero_linger();
            }
            Self::Hbone(stream) => stream.reset(),
        }
    }
}

impl From<TcpStream> for ByteStream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Hbone(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Hbone(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Hbone(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Hbone(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
