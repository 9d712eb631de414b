//! A tunnel's bytes, for as long as the peer is to be trusted: a connection ends at the latest with the certificate that
//! its peer has shown last, on this connection or on a newer one of the same pair, and as soon as the roots trusted here
//! no longer lead to that certificate. Whatever holds the connection by then (a pool, a request, an upgrade) sees it fail.
//!
//! The calling side sees to it that both ends see each other's renewed certificates in time: see [`Renew`].

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_tls::{TlsStream, TrustBundle};

use super::proofs::{Proof, Shown};
use super::renew::Renew;

/// The roots trusted now; `None`: not known yet.
pub(crate) type Trust = watch::Receiver<Option<Arc<TrustBundle>>>;

/// The longest sleep towards a time of the wall clock, so that a jump of that clock is noticed.
const NAP: Duration = Duration::from_secs(60);

/// What errors of a connection begin with whose peer is trusted no longer. (h2 keeps an error's kind and words, not its
/// type.)
const ENDED: &str = "the peer is no longer to be trusted";

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
    /// Watches over `stream`, whose handshake was the last that `proof` was told of. Call it on a worker.
    /// `renew`: how to see the peer again; on the calling side only.
    pub(crate) fn new(stream: TlsStream<IO>, proof: Arc<Proof>, trust: Trust, renew: Option<Renew>) -> Self {
        let lost = Arc::<Lost>::default();
        let told = lost.clone();
        let watcher = tokio::task::spawn_local(async move {
            let why = distrust(&proof, trust, renew).await;
            let peer = proof.subscribe().borrow().peer.identity.clone();
            tracing::info!(%peer, why, "a tunnel ends: its peer is no longer to be trusted");
            let _ = told.why.set(format!("{ENDED}: {why}"));
            told.waker.wake();
        });
        Self { stream, lost, watcher }
    }

    fn poll_lost(&self, cx: &Context<'_>) -> io::Result<()> {
        self.lost.waker.register(cx.waker());
        match self.lost.why.get() {
            None => Ok(()),
            Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.as_str())),
        }
    }
}

/// Whether a connection, or a stream on it, failed because its peer is trusted no longer.
pub(crate) fn is_distrust(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted && error.to_string().contains(ENDED)
}

impl<IO> Drop for Trusted<IO> {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Completes when a handshake with the peer, by the certificate that it has shown last, would fail by now: with the reason.
async fn distrust(proof: &Proof, mut trust: Trust, mut renew: Option<Renew>) -> String {
    let mut news = proof.subscribe();
    let mut followed = true;
    loop {
        let shown: Shown = news.borrow_and_update().clone();
        let bundle = trust.borrow_and_update().clone().filter(|bundle| *bundle != shown.judged);
        if let Some(bundle) = bundle
            && let Err(error) = shown.peer.check(&bundle, SystemTime::now())
        {
            return error.to_string();
        }
        let renewed = async {
            match &mut renew {
                Some(renew) => renew.when_due(proof, &shown).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wall(shown.peer.not_after) => {
                return "its certificate has ended, and it has shown no newer one".to_owned();
            }
            changed = trust.changed(), if followed => followed = changed.is_ok(),
            // `proof` is held here, so it has news or none.
            _ = news.changed() => {}
            () = renewed => {}
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
