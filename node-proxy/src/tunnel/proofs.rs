//! What peers have shown of themselves last. A connection lives as long as the trust in its peer, and a certificate
//! that the same peer shows on a newer connection is as good for the older ones: so a renewal cuts nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use ahash::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_model::{Identity, Text};
use weft_tls::{Peer, TrustBundle, WorkloadTls};

/// From so many pairs on, those without a connection are forgotten.
const SWEEP_AT: usize = 1024;

/// The two ends of tunnels, as one pod of this node sees them. Two connections of one pair have the same peer: the same
/// identity at the same address. Nobody who took either one elsewhere prolongs it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pair {
    /// A pod of this node called.
    Calling { pod: Text, to: SocketAddr, to_pod: Option<Text>, expected: Identity },
    /// A pod of this node was called.
    Called { pod: Text, from: IpAddr, caller: Identity },
}

/// The pairs that have connections; shared by all workers, asked once per connection.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_pair: HashMap<Pair, Weak<Proof>>,
    sweep_at: usize,
}

/// What is known of one pair; lives as long as its connections.
#[derive(Debug)]
pub(crate) struct Proof {
    shown: watch::Sender<Shown>,
    /// When a connection was made last for no other purpose than to see the peer again.
    pub(super) tried: tokio::sync::Mutex<Option<Instant>>,
}

/// The longest-lived certificates that a pair has shown each other.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// The peer's.
    pub(crate) peer: Arc<Peer>,
    /// The roots that it was judged by.
    pub(crate) judged: Arc<TrustBundle>,
    /// The end of our own.
    pub(crate) ours_until: SystemTime,
}

impl Proofs {
    /// A handshake of `tls` with `peer` has succeeded.
    pub(crate) fn shown(&self, pair: Pair, peer: Peer, tls: &WorkloadTls) -> Arc<Proof> {
        let fresh =
            Shown { peer: Arc::new(peer), judged: tls.bundle().clone(), ours_until: tls.validity().1 };
        let mut known = self.0.lock();
        if let Some(proof) = known.by_pair.get(&pair).and_then(Weak::upgrade) {
            drop(known);
            proof.shown.send_if_modified(|shown| shown.improve(fresh));
            return proof;
        }
        if known.by_pair.len() >= known.sweep_at.max(SWEEP_AT) {
            known.by_pair.retain(|_, proof| proof.strong_count() > 0);
            known.sweep_at = 2 * known.by_pair.len();
        }
        let proof =
            Arc::new(Proof { shown: watch::Sender::new(fresh), tried: tokio::sync::Mutex::default() });
        known.by_pair.insert(pair, Arc::downgrade(&proof));
        proof
    }
}

impl Proof {
    /// What was shown last, and news of it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }
}

impl Shown {
    /// When the first of both ends stops to trust the other.
    pub(crate) fn until(&self) -> SystemTime {
        self.peer.not_after.min(self.ours_until)
    }

    /// Takes over what lives longer; whether anything did.
    fn improve(&mut self, fresh: Self) -> bool {
        let mut improved = false;
        if fresh.peer.not_after > self.peer.not_after {
            (self.peer, self.judged) = (fresh.peer, fresh.judged);
            improved = true;
        }
        if fresh.ours_until > self.ours_until {
            self.ours_until = fresh.ours_until;
            improved = true;
        }
        improved
    }
}
