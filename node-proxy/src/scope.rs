//! What the connections that come in by one way share (those of one pod, or of one listening port of a Gateway): when
//! they end, and how many there may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderValue, Response, StatusCode, header};
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::http_server::HttpVersion;
use crate::seldom::seldom;

/// The life of a set of connections.
#[derive(Debug)]
pub struct Scope {
    /// Cancelled when the connections shall end well: HTTP/2 gets GOAWAY, HTTP/1 `Connection: close`, pooled
    /// and idle connections are closed, nothing new begins. Also cancelled when the process drains.
    pub closing: CancellationToken,
    /// Cancelled when the pod has left the mesh, or the listener the Gateway; `closing` is too. Callers were told before,
    /// so that idle tunnels can go.
    pub(crate) released: CancellationToken,
    /// Cancelled when that shall be now, for the pod ends or the process is about to: idle HTTP/1 connections, which
    /// wait for a last request otherwise, are closed.
    pub(crate) hurry: CancellationToken,
    /// Cancelled when whatever is still open must be dropped at once. [`Self::until_ended`]
    /// does that for a future; also cancelled when the process's drain has run out.
    pub ended: CancellationToken,
    /// Cancelled when the listening sockets shall be closed; also when `closing` is.
    pub(crate) accepting: CancellationToken,
    connections: AtomicUsize,
}

impl Scope {
    /// A scope with children of these tokens, the process's own.
    pub fn new(process: &Ends) -> Self {
        let closing = process.draining.child_token();
        Self {
            accepting: closing.child_token(),
            closing,
            released: CancellationToken::new(),
            hurry: process.hurry.child_token(),
            ended: process.ended.child_token(),
            connections: AtomicUsize::new(0),
        }
    }

    /// Runs `future` until it is done or everything must end; then it is dropped with all its sockets.
    pub async fn until_ended<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = seldom(self.ended.cancelled()) => None,
            done = future => Some(done),
        }
    }

    /// Completes when an HTTP connection is to be shut down, whose peer is to go elsewhere since `closing`. Over HTTP/1
    /// nothing but a response can announce that ([`say_goodbye`]), and a request that meets the closing of an idle
    /// connection is lost: unless there is no time, it is kept for a last request, as long as any idle connection is.
    pub(crate) async fn parted(&self, version: HttpVersion, closing: &CancellationToken) {
        closing.cancelled().await;
        if version == HttpVersion::Http1 {
            self.hurry.cancelled().await;
        }
    }

    /// The pod has left the mesh, or the listener the Gateway: the connections end as they can.
    pub(crate) fn release(&self) {
        self.released.cancel();
        self.closing.cancel();
    }

    /// The connections end now, in order.
    pub(crate) fn hurry(&self) {
        self.closing.cancel();
        self.hurry.cancel();
    }

    /// Keeps to half of `limit` connections from now on, as far as nothing is broken by it: with more than that open,
    /// idle HTTP/1 connections are not waited for.
    pub(crate) fn halve(&self, limit: usize) {
        if self.connections() > limit / 2 {
            self.hurry();
        }
    }

    /// Counts one more connection, unless there are `limit` already.
    pub fn admit(self: &Arc<Self>, limit: usize) -> Option<Admission> {
        let add = |n: usize| (n < limit).then_some(n + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Admission { scope: self.clone() })
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Makes a response the last one of its HTTP/1 connection, if `closing` is cancelled.
pub(crate) fn say_goodbye(closing: &CancellationToken, version: HttpVersion, response: &mut Response<Body>) {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if version == HttpVersion::Http1 && !switches && closing.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// How the process ends; each scope has children of these.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Cancelled when the process is told to stop: it is not ready any more.
    pub stopping: CancellationToken,
    /// Cancelled when the process begins to drain: nothing is accepted any more, every scope's `closing` follows.
    pub draining: CancellationToken,
    /// Cancelled when another proxy serves the node's pods, so that there is time to drain.
    pub succeeded: CancellationToken,
    /// Cancelled when idle connections are not to be waited for any longer: every scope's `hurry` follows.
    pub hurry: CancellationToken,
    /// Cancelled when the drain has run out: every scope's `ended` follows.
    pub ended: CancellationToken,
}

/// A connection's place in its scope; given back on drop.
#[derive(Debug)]
pub struct Admission {
    scope: Arc<Scope>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.scope.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
