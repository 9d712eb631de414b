//! The pools of one worker, the making of connections for them, and the task that empties them.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared as SharedFuture, WeakShared};
use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use crate::body::Body;
use crate::pod::LocalPod;
use crate::relay::relay;
use crate::seldom::seldom;
use crate::send::bytes::Pipe;
use crate::tunnel::dial::{Deadlines, Dial, Failure, Io, Key, Way};
use crate::tunnel::hbone;
use crate::tunnel::pool::{Bounds, Idle, Lease, Pooled, Shared};

/// HTTP/1 connections to other pods: as many to each as one HTTP/2 connection has streams ([`Limits`](crate::http_server::Limits)),
/// which at a Gateway become as many connections.
const TUNNELS: Bounds = Bounds { per_key: 200, total: 4096, idle: Duration::from_secs(60) };
/// HTTP/1 connections to applications. As many as a caller uses at a time: fewer would be closed and made anew all the
/// while. Short, since many servers close idle connections after 5 s (Node.js does), and a request sent into such a
/// close is lost.
const APPLICATIONS: Bounds = Bounds { per_key: 64, total: 4096, idle: Duration::from_secs(4) };
/// Requests at a time on one HTTP/2 connection; more get another one.
const STREAMS: usize = 100;
/// How long an HTTP/2 connection without requests is kept.
const SHARED_IDLE: Duration = Duration::from_secs(60);

/// How often a request tries to get a place when others are quicker, or the peer closes what it accepted.
const ROUNDS: usize = 16;

/// An HTTP/1 connection between two requests.
pub(crate) type Http1 = http1::SendRequest<Body>;
/// An HTTP/2 connection.
pub(crate) type Http2 = http2::SendRequest<Body>;

impl Pooled for Http1 {
    fn is_ready(&self) -> bool {
        Self::is_ready(self)
    }
    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }
}

impl Pooled for Http2 {
    fn is_ready(&self) -> bool {
        Self::is_ready(self)
    }
    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }
}

/// The sending side of an HBONE connection.
#[derive(Clone, Debug)]
pub(crate) struct Hbone {
    pub(crate) sender: h2::client::SendRequest<Bytes>,
    pub(crate) closed: Rc<Cell<bool>>,
}

impl Pooled for Hbone {
    fn is_ready(&self) -> bool {
        !self.closed.get()
    }
    fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

/// Pooled connections of one worker.
#[derive(Clone, Debug, Default)]
pub struct Pools(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    deadlines: Deadlines,
    tunnels: RefCell<Idle<Key, Http1>>,
    applications: RefCell<Idle<Key, Http1>>,
    http2: Multiplex<Http2>,
    hbone: Multiplex<Hbone>,
    sweeping: Cell<bool>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            tunnels: RefCell::new(Idle::new(TUNNELS)),
            applications: RefCell::new(Idle::new(APPLICATIONS)),
            http2: Multiplex::new(),
            hbone: Multiplex::new(),
            sweeping: Cell::new(false),
        }
    }
}

/// The result that everyone who waits for one connection gets.
type Dialing = LocalBoxFuture<'static, Result<(), Failure>>;

/// Connections with many requests each, and those being made: at most one at a time per key, by whoever came first.
#[derive(Debug)]
struct Multiplex<C> {
    ready: RefCell<Shared<Key, C>>,
    dialing: RefCell<HashMap<Key, WeakShared<Dialing>>>,
}

impl<C: Pooled> Multiplex<C> {
    fn new() -> Self {
        Self { ready: RefCell::new(Shared::new(STREAMS, SHARED_IDLE)), dialing: RefCell::default() }
    }

    /// The dial under way for `key`, or else `dial`. When nobody waits for it any more it is dropped.
    fn dial_once(&self, key: &Key, dial: impl FnOnce() -> Dialing) -> SharedFuture<Dialing> {
        let mut dialing = self.dialing.borrow_mut();
        if let Some(under_way) = dialing.get(key).and_then(WeakShared::upgrade)
            && under_way.peek().is_none()
        {
            return under_way;
        }
        let new = dial().shared();
        if let Some(weak) = new.downgrade() {
            dialing.insert(key.clone(), weak);
        }
        new
    }

    fn expire(&self, now: Instant) -> usize {
        self.dialing.borrow_mut().retain(|_, weak| weak.upgrade().is_some_and(|d| d.peek().is_none()));
        let mut ready = self.ready.borrow_mut();
        ready.expire(now);
        ready.len()
    }
}

impl Pools {
    /// Pools with deadlines of choice.
    pub fn new(deadlines: Deadlines) -> Self {
        Self(Rc::new(Inner { deadlines, ..Inner::default() }))
    }

    pub(crate) fn deadlines(&self) -> &Deadlines {
        &self.0.deadlines
    }

    /// A kept HTTP/1 connection.
    pub(crate) fn take_http1(&self, key: &Key) -> Option<Http1> {
        self.idle(key).borrow_mut().take(key, Instant::now())
    }

    /// Keeps an HTTP/1 connection for the next request.
    pub(crate) fn put_http1(&self, key: Key, connection: Http1, pod: &LocalPod) {
        self.idle(&key).borrow_mut().put(key, connection, &pod.scope.closing, Instant::now());
        self.sweep();
    }

    fn idle(&self, key: &Key) -> &RefCell<Idle<Key, Http1>> {
        if key.is_application() { &self.0.applications } else { &self.0.tunnels }
    }

    /// Makes an HTTP/1 connection.
    pub(crate) async fn connect_http1(&self, dial: &Dial) -> Result<Http1, Failure> {
        let io = self.make(dial).await?;
        let handshake = http1::Builder::new().handshake(hyper_util::rt::TokioIo::new(io)).await;
        let (sender, connection) = handshake.map_err(|e| dial.no_http(&e))?;
        // An error shows at the request it concerns.
        self.carry(dial, async { drop(connection.with_upgrades().await) });
        Ok(sender)
    }

    /// Makes a connection for HTTP: directly, or inside a tunnel.
    async fn make(&self, dial: &Dial) -> Result<Io, Failure> {
        let Way::Backend { policy, carries, tunnel: Some(tunnel) } = &dial.way else {
            return dial.run(&self.0.deadlines).await;
        };
        // Whoever is called for first is not who is called for next: the connection is the pod's own.
        let own = dial.pod.enrolled.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let stream = hbone::open(self, tunnel, dial.to, SocketAddr::new(own, 0)).await?;
        // hyper wants what can move between threads, a stream of a tunnel cannot.
        let (near, far) = Pipe::pair();
        self.carry(dial, async { drop(relay(far, stream, None, std::future::pending()).await) });
        let stream = dial.secure(policy, near, *carries, &self.0.deadlines).await?;
        Ok(Io::Inner(Box::new(stream)))
    }

    /// A place on an HTTP/2 connection, kept or new.
    pub(crate) async fn http2(&self, key: &Key, dial: &Dial) -> Result<Lease<Http2>, Failure> {
        for _ in 0..ROUNDS {
            if let Some(lease) = self.0.http2.ready.borrow_mut().take(key) {
                return Ok(lease);
            }
            self.sweep();
            let (pools, key, dial) = (self.clone(), key.clone(), dial.clone());
            let connect = |k: Key| async move { pools.connect_http2(k, dial).await }.boxed_local();
            let dialing = self.0.http2.dial_once(&key, || connect(key.clone()));
            dialing.await?;
        }
        Err(dial.no_http(&"connections end as soon as they are made"))
    }

    async fn connect_http2(self, key: Key, dial: Dial) -> Result<(), Failure> {
        let io = self.make(&dial).await?;
        let mut builder = http2::Builder::new(crate::http_server::LocalExecutor);
        builder
            .timer(hyper_util::rt::TokioTimer::new())
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(8 * 1024 * 1024)
            .max_header_list_size(128 * 1024)
            .max_send_buf_size(crate::http_server::SEND_BUFFER)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(20));
        let handshake = builder.handshake(hyper_util::rt::TokioIo::new(io)).await;
        let (sender, connection) = handshake.map_err(|e| dial.no_http(&e))?;
        self.carry(&dial, async { drop(connection.await) });
        self.0.http2.ready.borrow_mut().add(key, sender, &dial.pod.scope.closing, Instant::now());
        Ok(())
    }

    /// No new request goes to this connection.
    pub(crate) fn forget_http2(&self, key: &Key, lease: &Lease<Http2>) {
        self.0.http2.ready.borrow_mut().forget(key, &lease.connection);
    }

    /// A place on an HBONE connection, kept or new.
    pub(crate) async fn hbone(&self, key: &Key, dial: &Dial) -> Result<Lease<Hbone>, Failure> {
        for _ in 0..ROUNDS {
            if let Some(lease) = self.0.hbone.ready.borrow_mut().take(key) {
                return Ok(lease);
            }
            self.sweep();
            let (pools, key, dial) = (self.clone(), key.clone(), dial.clone());
            let connect = |k: Key| async move { pools.connect_hbone(k, dial).await }.boxed_local();
            let dialing = self.0.hbone.dial_once(&key, || connect(key.clone()));
            dialing.await?;
        }
        Err(dial.no_http(&"connections end as soon as they are made"))
    }

    async fn connect_hbone(self, key: Key, dial: Dial) -> Result<(), Failure> {
        let io = dial.run(&self.0.deadlines).await?;
        let (hbone, connection) = hbone::client(io, &dial, &self.0.deadlines).await?;
        self.carry(&dial, connection);
        self.0.hbone.ready.borrow_mut().add(key, hbone, &dial.pod.scope.closing, Instant::now());
        Ok(())
    }

    /// No new stream goes to this connection.
    pub(crate) fn forget_hbone(&self, key: &Key, lease: &Lease<Hbone>) {
        self.0.hbone.ready.borrow_mut().forget(key, &lease.connection);
    }

    /// Carries a connection until it or its pod ends. The pod's end waits for that, so that the last packets leave while
    /// there is a link to leave by (`dataplane.md` rule 26).
    fn carry(&self, dial: &Dial, connection: impl Future<Output = ()> + 'static) {
        let (pod, weak) = (Arc::clone(&dial.pod), Rc::downgrade(&self.0));
        tokio::task::spawn_local(async move {
            let mut connection = pin!(pod.scope.until_ended(connection));
            tokio::select! {
                _ = &mut connection => return,
                () = seldom(pod.scope.closing.cancelled()) => {}
            }
            // What is not in use goes now, not with the next sweep: the pod's end waits.
            if let Some(inner) = weak.upgrade() {
                inner.expire(Instant::now());
            }
            connection.await;
        });
    }

    /// Starts the task that empties the pools, if it does not run. It ends when they are empty.
    fn sweep(&self) {
        if self.0.sweeping.replace(true) {
            return;
        }
        let weak = Rc::downgrade(&self.0);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(inner) = weak.upgrade() else { return };
                if inner.expire(Instant::now()) == 0 {
                    inner.sweeping.set(false);
                    return;
                }
            }
        });
    }
}

impl Inner {
    /// How many connections are left.
    fn expire(&self, now: Instant) -> usize {
        let idle: usize = [&self.tunnels, &self.applications]
            .map(|pool| {
                let mut pool = pool.borrow_mut();
                pool.expire(now);
                pool.len()
            })
            .iter()
            .sum();
        idle + self.http2.expire(now) + self.hbone.expire(now)
    }
}

#[cfg(test)]
mod tests;
