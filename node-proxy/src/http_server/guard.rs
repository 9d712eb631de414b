//! Refuses HTTP/1 requests that two readers could read in two ways (RFC 9112 §2.2, §5.2, §6.1, §7.1, §11.2), before
//! hyper reads them. hyper 1.12 accepts a bare LF as the end of a line and takes Transfer-Encoding over
//! Content-Length; both are legal to do, and both are how requests are smuggled past others.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pieces::poll_write_pieces;

/// A connection whose requests are scanned as they are read. At the first ambiguous byte a NUL takes its place, so that
/// hyper answers 400 and closes; what came before it is served.
#[derive(Debug)]
pub(super) struct Guarded<I> {
    io: I,
    scanner: Scanner,
    found: Arc<OnceLock<&'static str>>,
}

impl<I> Guarded<I> {
    /// `found` gets what was wrong.
    pub(super) fn new(io: I, head_limit: usize, found: Arc<OnceLock<&'static str>>) -> Self {
        Self { io, scanner: Scanner::new(head_limit), found }
    }
}

/// Follows the framing of the requests of one connection.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    line: Vec<u8>,
    head: Head,
    head_limit: usize,
}

#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    started: bool,
    length: Option<u64>,
    chunked: bool,
    /// Bytes of another protocol may follow.
    switches: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// Not HTTP any more, or hyper will refuse it itself.
    Opaque,
}

impl Scanner {
    pub(super) fn new(head_limit: usize) -> Self {
        Self { state: State::Head, line: Vec::new(), head: Head::default(), head_limit }
    }

    /// Reads on; the error is the place of the first byte that must not pass, and why.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(), (usize, &'static str)> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += match self.state {
                State::Opaque => return Ok(()),
                State::Body(left) => self.skip(rest, left, State::Body, State::Head),
                State::ChunkData(left) => self.skip(rest, left, State::ChunkData, State::ChunkEnd),
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |lf| lf + 1);
                    let taken = rest.get(..end).unwrap_or_default();
                    self.line_part(taken).map_err(|why| (at + end - 1, why))?;
                    end
                }
            };
        }
        Ok(())
    }

    fn skip(&mut self, rest: &[u8], left: u64, on: fn(u64) -> State, then: State) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left - taken as u64;
        self.state = if left == 0 { then } else { on(left) };
        taken
    }

    /// Part of a line, perhaps its end. Mostly lines come whole, and are not copied.
    fn line_part(&mut self, part: &[u8]) -> Result<(), &'static str> {
        let ends = part.ends_with(b"\n");
        if ends && self.line.is_empty() {
            return self.end_line(part);
        }
        self.line.extend_from_slice(part);
        if ends {
            let line = std::mem::take(&mut self.line);
            self.end_line(&line)?;
            // The buffer is kept for the next line.
            self.line = line;
            self.line.clear();
        } else if self.line.len() > self.head_limit {
            self.state = State::Opaque;
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), &'static str> {
        let Some(text) = line.strip_suffix(b"\r\n") else { return Err("a line that ends in a bare LF") };
        if text.contains(&b'\r') {
            return Err("a bare CR");
        }
        match self.state {
            State::ChunkSize => self.chunk_size(text)?,
            State::ChunkEnd if text.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err("a chunk longer than its size"),
            State::Trailers if text.is_empty() => self.state = State::Head,
            State::Head => self.head_line(text)?,
            State::Trailers | State::Body(_) | State::ChunkData(_) | State::Opaque => {}
        }
        Ok(())
    }

    fn head_line(&mut self, text: &[u8]) -> Result<(), &'static str> {
        self.head.bytes += text.len();
        if self.head.bytes > self.head_limit {
            self.state = State::Opaque;
        } else if !self.head.started {
            // Empty lines before a request are allowed (RFC 9112 §2.2).
            self.head.started = !text.is_empty();
            self.head.switches = text.starts_with(b"CONNECT ");
        } else if text.is_empty() {
            let head = std::mem::take(&mut self.head);
            self.state = match head {
                Head { chunked: true, length: Some(_), .. } => {
                    return Err("both Content-Length and Transfer-Encoding");
                }
                Head { switches: true, .. } => State::Opaque,
                Head { chunked: true, .. } => State::ChunkSize,
                Head { length: Some(length @ 1..), .. } => State::Body(length),
                Head { .. } => State::Head,
            };
        } else {
            self.field(text)?;
        }
        Ok(())
    }

    fn field(&mut self, text: &[u8]) -> Result<(), &'static str> {
        if matches!(text.first(), Some(b' ' | b'\t')) {
            return Err("a folded header line");
        }
        let Some(colon) = text.iter().position(|b| *b == b':') else {
            return Err("a header line without colon");
        };
        let (name, value) =
            (text.get(..colon).unwrap_or_default(), text.get(colon + 1..).unwrap_or_default());
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|v| v.parse().ok());
            let length = length.ok_or("a Content-Length that is no number")?;
            if self.head.length.replace(length).is_some() {
                return Err("more than one Content-Length");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || self.head.chunked {
                return Err("a Transfer-Encoding other than chunked");
            }
            self.head.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.head.switches = true;
        }
        Ok(())
    }

    fn chunk_size(&mut self, text: &[u8]) -> Result<(), &'static str> {
        let size = text.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
        let hex = (1..=15).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
        let size =
            std::str::from_utf8(size).ok().filter(|_| hex).and_then(|s| u64::from_str_radix(s, 16).ok());
        self.state = match size.ok_or("a chunk size that is no number")? {
            0 => State::Trailers,
            size => State::ChunkData(size),
        };
        Ok(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if let Err((at, why)) = this.scanner.scan(read) {
            // Nothing after it is looked at: the connection ends with the answer.
            this.scanner.state = State::Opaque;
            let _ = this.found.set(why);
            if let Some(byte) = buf.filled_mut().get_mut(before + at) {
                *byte = 0;
            }
            buf.set_filled(before + at + 1);
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        poll_write_pieces(&mut self.get_mut().io, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
