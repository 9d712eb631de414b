//! A tunnel's bytes, for as long as the peer is to be trusted: a connection ends at the latest with its peer's
//! certificate, and as soon as the roots trusted here no longer lead to it. Whatever holds the connection by then
//! (a pool, a request, an upgrade) sees it fail.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_tls::{Peer, TlsError, TlsStream, TrustBundle, WorkloadTls};

/// The roots trusted now; `None`: not known yet.
pub(crate) type Trust = watch::Receiver<Option<Arc<TrustBundle>>>;

/// The longest sleep towards a time of the wall clock, so that a jump of that clock is noticed.
const NAP: Duration = Duration::from_secs(60);

/// A TLS connection that ends with the trust in its peer.
#[derive(Debug)]
pub(crate) struct Trusted<IO> {
    stream: TlsStream<IO>,
    lost: Arc<Lost>,
    watcher: JoinHandle<()>,
}

/// Set once, when trust has ended.
#[derive(Debug, Default)]
struct Lost {
    why: OnceLock<String>,
    waker: AtomicWaker,
}

impl<IO> Trusted<IO> {
    /// Watches over `stream`, whose handshake `tls` made. Call it on a worker.
    ///
    /// # Errors
    /// What the peer presented cannot be read.
    pub(crate) fn new(stream: TlsStream<IO>, tls: &WorkloadTls, trust: Trust) -> Result<Self, TlsError> {
        let (peer, judged, lost) = (stream.peer()?, tls.bundle().clone(), Arc::<Lost>::default());
        let told = lost.clone();
        let watcher = tokio::task::spawn_local(async move {
            let why = distrust(&peer, judged, trust).await;
            tracing::info!(peer = %peer.identity, why, "a tunnel ends: its peer is no longer to be trusted");
            let _ = told.why.set(why);
            told.waker.wake();
        });
        Ok(Self { stream, lost, watcher })
    }

    fn poll_lost(&self, cx: &Context<'_>) -> io::Result<()> {
        self.lost.waker.register(cx.waker());
        match self.lost.why.get() {
            None => Ok(()),
            Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.as_str())),
        }
    }
}

impl<IO> Drop for Trusted<IO> {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Completes when a handshake with `peer` would fail by now: with the reason.
async fn distrust(peer: &Peer, mut judged: Arc<TrustBundle>, mut trust: Trust) -> String {
    let mut end = std::pin::pin!(wall(peer.not_after));
    let mut followed = true;
    loop {
        let bundle = trust.borrow_and_update().clone().filter(|bundle| *bundle != judged);
        if let Some(bundle) = bundle {
            if let Err(error) = peer.check(&bundle, SystemTime::now()) {
                return error.to_string();
            }
            judged = bundle;
        }
        tokio::select! {
            () = &mut end => return "its certificate has ended".to_owned(),
            changed = trust.changed(), if followed => followed = changed.is_ok(),
        }
    }
}

/// Completes when the wall clock shows `at`.
pub(crate) async fn wall(at: SystemTime) {
    while let Some(left) = at.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero()) {
        tokio::time::sleep(left.min(NAP)).await;
    }
}

/// When to begin to send peers elsewhere: before the certificate's end, since whoever renews in time has another one
/// by then; but never at once, so that a connection made late still carries something.
pub(crate) fn drain_at(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> SystemTime {
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    let left = not_after.duration_since(now).unwrap_or_default();
    not_after - (lifetime / 10).min(left / 2)
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Trusted<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_lost(cx)?;
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Trusted<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_lost(cx)?;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_lost(cx)?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_lost(cx)?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
