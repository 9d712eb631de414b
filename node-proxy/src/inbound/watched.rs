//! A caller's byte stream whose first line took too long to wait for: its bytes pass as they come, and it breaks off
//! should the line turn out to begin an HTTP request after all, before the application has seen the whole of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tcp::{Spoken, spoken};
use crate::relay::Duplex;

/// `stream`, watched until it is clear that it is not HTTP.
pub(super) struct Watched<S> {
    /// What was read so far; `None`: nothing more to watch for.
    line: Option<Vec<u8>>,
    stream: S,
}

impl<S> Watched<S> {
    /// Goes on after `first`, which was read already.
    pub(super) fn new(first: &[u8], stream: S) -> Self {
        let mut watched = Self { line: Some(Vec::new()), stream };
        // What is clear by now is the caller's to act upon.
        let _ = watched.watch(first);
        watched
    }

    fn watch(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(line) = &mut self.line else { return Ok(()) };
        // Empty lines before a request are skipped by every server, however many there are.
        let skipped =
            if line.is_empty() { bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count() } else { 0 };
        line.extend_from_slice(bytes.get(skipped..).unwrap_or_default());
        match spoken(line) {
            Spoken::Unclear => Ok(()),
            Spoken::Bytes => {
                self.line = None;
                Ok(())
            }
            Spoken::Http(_) => {
                let message = "an HTTP request whose first line came too slowly; declare the port's appProtocol as http";
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

impl<S: Duplex> Duplex for Watched<S> {
    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.watch(buf.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // An application that answers before the first line has ended does not speak HTTP.
        this.line = None;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pass(first: &[u8], pieces: &[&[u8]]) -> io::Result<Vec<u8>> {
        let (mut caller, ours) = tokio::io::duplex(1 << 16);
        let mut watched = Watched::new(first, ours);
        let mut passed = Vec::new();
        for piece in pieces {
            caller.write_all(piece).await?;
            let mut buffer = vec![0; piece.len()];
            watched.read_exact(&mut buffer).await?;
            passed.extend(buffer);
        }
        Ok(passed)
    }

    #[tokio::test]
    async fn bytes_pass_until_their_first_line_is_that_of_a_request() {
        assert_eq!(pass(b"x", &[b"y", b"z GET / HTTP/1.1 and more\n", b"more"]).await.unwrap().len(), 31);
        assert_eq!(pass(b"PASS", &[b"WORD", b"\n", b"GET / HTTP/1.1\r\n"]).await.unwrap().len(), 21);
        assert!(pass(b"GE", &[b"T / ", b"HTTP/1.1", b"\r\n"]).await.is_err());
        assert!(pass(b"", &[b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.0\n"]).await.is_err());
    }
}
