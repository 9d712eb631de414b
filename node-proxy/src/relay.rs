//! Joins two byte streams until both directions have ended. A FIN is carried on as a FIN while the other direction
//! goes on; a reset is carried on as a reset. An idle connection holds no buffer.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;
/// Chunks moved before other connections of the worker get their turn.
const TURN: usize = 8;

/// A byte stream that can be ended by reset.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {
    /// Makes the coming drop of the stream a reset (RST, RST_STREAM) in the place of an orderly end.
    fn reset_on_drop(&mut self);
}

impl Duplex for TcpStream {
    fn reset_on_drop(&mut self) {
        // Only fails for what is no socket any more.
        let _ = self.set_zero_linger();
    }
}

/// How a relay ended, and what passed.
#[derive(Debug)]
pub struct RelayEnd {
    /// Bytes taken from the first stream and given to the second.
    pub from_first: u64,
    /// Bytes taken from the second stream and given to the first.
    pub from_second: u64,
    /// How.
    pub how: How,
}

/// How a relay ended.
#[derive(Debug)]
pub enum How {
    /// Both sides ended their direction in order.
    Finished,
    /// The first stream failed; the second was reset.
    FirstFailed(io::Error),
    /// The second stream failed; the first was reset.
    SecondFailed(io::Error),
    /// Nothing passed for the time allowed; both were closed.
    Idle,
    /// `stop` completed; both were closed.
    Stopped,
}

/// Relays until both directions have ended, one stream fails, nothing passes for `idle` (`None`: for ever), or
/// `stop` completes. Both streams are closed on return.
pub async fn relay<A: Duplex, B: Duplex>(
    mut first: A,
    mut second: B,
    idle: Option<Duration>,
    stop: impl Future<Output = ()>,
) -> RelayEnd {
    let (mut forth, mut back) = (Half::default(), Half::default());
    let mut silence = Silence::bounded(idle);
    let pump = std::future::poll_fn(|cx| {
        let before = forth.bytes + back.bytes;
        if let Poll::Ready(how) = pump(cx, (&mut first, &mut forth), (&mut second, &mut back)) {
            return Poll::Ready(how);
        }
        silence.poll(cx, forth.bytes + back.bytes != before)
    });
    let how = tokio::select! {
        biased;
        how = pump => how,
        () = stop => How::Stopped,
    };
    if matches!(how, How::FirstFailed(_) | How::SecondFailed(_)) {
        first.reset_on_drop();
        second.reset_on_drop();
    }
    RelayEnd { from_first: forth.bytes, from_second: back.bytes, how }
}

/// How long nothing has to pass.
struct Silence(Option<(Duration, Pin<Box<Sleep>>)>);

impl Silence {
    fn bounded(idle: Option<Duration>) -> Self {
        Self(idle.map(|idle| (idle, Box::pin(tokio::time::sleep(idle)))))
    }

    /// `broken`: something has passed since the last time.
    fn poll(&mut self, cx: &mut Context<'_>, broken: bool) -> Poll<How> {
        let Some((idle, sleep)) = &mut self.0 else { return Poll::Pending };
        if broken {
            sleep.as_mut().reset(Instant::now() + *idle);
        }
        sleep.as_mut().poll(cx).map(|()| How::Idle)
    }
}

/// One direction.
#[derive(Default)]
struct Half {
    /// What was read and could not be written yet.
    pending: Vec<u8>,
    written: usize,
    ended: bool,
    finished: bool,
    bytes: u64,
}

/// Which of a direction's two streams failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

fn pump<A: Duplex, B: Duplex>(
    cx: &mut Context<'_>,
    (first, forth): (&mut A, &mut Half),
    (second, back): (&mut B, &mut Half),
) -> Poll<How> {
    let forth = match forth.poll(cx, first, second) {
        Poll::Ready(Err(Failed::Reading(error))) => return Poll::Ready(How::FirstFailed(error)),
        Poll::Ready(Err(Failed::Writing(error))) => return Poll::Ready(How::SecondFailed(error)),
        Poll::Ready(Ok(())) => true,
        Poll::Pending => false,
    };
    let back = match back.poll(cx, second, first) {
        Poll::Ready(Err(Failed::Reading(error))) => return Poll::Ready(How::SecondFailed(error)),
        Poll::Ready(Err(Failed::Writing(error))) => return Poll::Ready(How::FirstFailed(error)),
        Poll::Ready(Ok(())) => true,
        Poll::Pending => false,
    };
    if forth && back { Poll::Ready(How::Finished) } else { Poll::Pending }
}

impl Half {
    /// Moves bytes until one side must be waited for; ready when the end has been carried on too.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURN {
            ready!(self.poll_pending(cx, to)).map_err(Failed::Writing)?;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Failed::Writing)?;
                self.finished = true;
                return Poll::Ready(Ok(()));
            }
            if self.poll_chunk(cx, from, to)?.is_pending() {
                // Nothing more comes for now: what the writer holds back must go out.
                return match Pin::new(&mut *to).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Failed::Writing(error))),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                };
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is left of an earlier chunk.
    fn poll_pending<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.pending.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            self.count(count)?;
            self.written += count;
        }
        self.pending = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads one chunk and writes as much of it as goes; the rest is kept. Pending: there is nothing to read.
    fn poll_chunk<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Result<Poll<()>, Failed>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; CHUNK].into());
        let mut chunk = ReadBuf::new(&mut scratch);
        let read = Pin::new(from).poll_read(cx, &mut chunk).map_err(Failed::Reading);
        let result = match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) if chunk.filled().is_empty() => {
                self.ended = true;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(())) => {
                self.write_chunk(cx, chunk.filled(), to).map(Poll::Ready).map_err(Failed::Writing)
            }
        };
        SCRATCH.set(Some(scratch));
        result
    }

    fn write_chunk<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &[u8],
        to: &mut W,
    ) -> io::Result<()> {
        let count = match Pin::new(to).poll_write(cx, chunk)? {
            Poll::Ready(count) => {
                self.count(count)?;
                count
            }
            Poll::Pending => 0,
        };
        self.pending = chunk.get(count..).unwrap_or_default().to_vec();
        Ok(())
    }

    fn count(&mut self, count: usize) -> io::Result<()> {
        self.bytes += count as u64;
        if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }
}

thread_local! {
    /// Where a worker's connections read into, one after the other, so that an idle one needs no buffer.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

#[cfg(test)]
mod tests;
