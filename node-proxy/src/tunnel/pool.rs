//! Connections kept for the next request. Two kinds: [`Idle`] holds connections that carry one request at a time,
//! [`Shared`] those that carry many. Both are state machines of one worker: no locks, `now` is passed in.

use std::cell::Cell;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use ahash::HashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Idle connections kept under one key.
    pub(crate) per_key: usize,
    /// Idle connections kept in all.
    pub(crate) total: usize,
    /// How long one is kept unused.
    pub(crate) idle: Duration,
}

/// A connection, as a pool looks at it.
pub(crate) trait Pooled {
    /// It may carry a request now.
    fn is_ready(&self) -> bool;
    /// It will never carry one again.
    fn is_closed(&self) -> bool;
}

/// Connections that carry one request at a time, while they carry none.
#[derive(Debug)]
pub(crate) struct Idle<K, C> {
    bounds: Bounds,
    by_key: HashMap<K, Vec<Kept<C>>>,
    len: usize,
}

#[derive(Debug)]
struct Kept<C> {
    connection: C,
    since: Instant,
    closing: CancellationToken,
}

impl<K: Eq + Hash, C: Pooled> Idle<K, C> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, by_key: HashMap::default(), len: 0 }
    }

    /// The connection that was used last, if one is fit for use: so that those that are too many grow old.
    pub(crate) fn take(&mut self, key: &K, now: Instant) -> Option<C> {
        let kept = self.by_key.get_mut(key)?;
        // From the end, and mostly no further: what is unfit below goes when its turn comes, or by `expire`. An empty
        // list stays until then too, since the connection will soon be back.
        for place in (0..kept.len()).rev() {
            let candidate = kept.get(place)?;
            let fit = candidate.is_fit(now, self.bounds.idle);
            if !fit || candidate.connection.is_ready() {
                let taken = kept.remove(place);
                self.len -= 1;
                if fit {
                    return Some(taken.connection);
                }
            }
        }
        None
    }

    /// Keeps a connection whose exchange has ended, unless its pod is closing or there are enough.
    pub(crate) fn put(&mut self, key: K, connection: C, closing: &CancellationToken, now: Instant) {
        if self.len >= self.bounds.total || closing.is_cancelled() || connection.is_closed() {
            return;
        }
        let kept = self.by_key.entry(key).or_default();
        if kept.len() < self.bounds.per_key {
            kept.push(Kept { connection, since: now, closing: closing.clone() });
            self.len += 1;
        }
    }

    /// Drops what is closed, too old, or of a pod that is closing.
    pub(crate) fn expire(&mut self, now: Instant) {
        let idle = self.bounds.idle;
        self.by_key.retain(|_, kept| {
            kept.retain(|k| k.is_fit(now, idle));
            !kept.is_empty()
        });
        self.len = self.by_key.values().map(Vec::len).sum();
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<C: Pooled> Kept<C> {
    fn is_fit(&self, now: Instant, idle: Duration) -> bool {
        !self.connection.is_closed() && !self.closing.is_cancelled() && now.duration_since(self.since) < idle
    }
}

/// A connection that carries many requests at a time.
#[derive(Debug)]
pub(crate) struct Multiplexed<C> {
    /// What requests are sent with.
    pub(crate) sender: C,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    closing: CancellationToken,
}

/// A place on a connection, given back on drop.
#[derive(Debug)]
pub(crate) struct Lease<C> {
    pub(crate) connection: Rc<Multiplexed<C>>,
}

impl<C> Drop for Lease<C> {
    fn drop(&mut self) {
        let left = self.connection.streams.get().saturating_sub(1);
        self.connection.streams.set(left);
        if left == 0 {
            self.connection.idle_since.set(Instant::now());
        }
    }
}

/// Connections that carry many requests at a time, busy or not.
#[derive(Debug)]
pub(crate) struct Shared<K, C> {
    idle: Duration,
    streams: usize,
    by_key: HashMap<K, Vec<Rc<Multiplexed<C>>>>,
}

impl<K: Eq + Hash, C: Pooled> Shared<K, C> {
    /// At most `streams` requests at a time on one connection; one without any is kept for `idle`.
    pub(crate) fn new(streams: usize, idle: Duration) -> Self {
        Self { idle, streams, by_key: HashMap::default() }
    }

    /// A place on a connection that has one.
    pub(crate) fn take(&mut self, key: &K) -> Option<Lease<C>> {
        let connections = self.by_key.get_mut(key)?;
        connections.retain(|c| !c.sender.is_closed());
        let connection =
            connections.iter().find(|c| c.streams.get() < self.streams && c.sender.is_ready())?;
        connection.streams.set(connection.streams.get() + 1);
        Some(Lease { connection: connection.clone() })
    }

    /// Adds a new connection.
    pub(crate) fn add(&mut self, key: K, sender: C, closing: &CancellationToken, now: Instant) {
        self.by_key.entry(key).or_default().push(Rc::new(Multiplexed {
            sender,
            streams: Cell::new(0),
            idle_since: Cell::new(now),
            closing: closing.clone(),
        }));
    }

    /// Forgets a connection that turned out to be of no use: what it still carries goes on.
    pub(crate) fn forget(&mut self, key: &K, connection: &Rc<Multiplexed<C>>) {
        if let Some(connections) = self.by_key.get_mut(key) {
            connections.retain(|c| !Rc::ptr_eq(c, connection));
        }
    }

    /// Drops what is closed, or unused for too long: not at all if its pod is closing.
    pub(crate) fn expire(&mut self, now: Instant) {
        let idle = self.idle;
        self.by_key.retain(|_, connections| {
            connections.retain(|c| {
                let old = c.closing.is_cancelled() || now.duration_since(c.idle_since.get()) >= idle;
                let unused = c.streams.get() == 0 && old;
                !unused && !c.sender.is_closed()
            });
            !connections.is_empty()
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests;
