//! Certificates of the identities that run on this node, kept in memory only, and the trust bundle.

pub mod driver;

use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use weft_model::Identity;
use weft_tls::{Leaf, TrustBundle, WorkloadTls};

/// An identity is expected for so long after it was said last.
const EXPECTED: Duration = Duration::from_secs(60);

/// The store that workers read; filled by [`driver::run`] on the control runtime.
#[derive(Debug)]
pub struct Certificates {
    /// Built once per change of a leaf or of the bundle.
    ready: ArcSwap<HashMap<Identity, Certified>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
    /// The roots in force.
    trust: watch::Sender<Option<Arc<TrustBundle>>>,
    /// Pods have come or gone.
    pods: Notify,
    /// Connections wait for these.
    needed: mpsc::UnboundedSender<Identity>,
    /// Identities of pods that are about to be served, and when that was said last.
    expected: Mutex<HashMap<Identity, Instant>>,
    /// The driver's end of `needed`, until it takes it.
    wishes: Mutex<Option<mpsc::UnboundedReceiver<Identity>>>,
}

/// A certificate and what is made of it.
#[derive(Clone, Debug)]
pub struct Certified {
    /// Identity, validity and serial number.
    pub leaf: Leaf,
    /// Both sides of mutual TLS.
    pub tls: Arc<WorkloadTls>,
}

impl Default for Certificates {
    fn default() -> Self {
        let (needed, wishes) = mpsc::unbounded_channel();
        Self {
            ready: ArcSwap::default(),
            changes: watch::Sender::new(0),
            trust: watch::Sender::new(None),
            pods: Notify::new(),
            needed,
            expected: Mutex::default(),
            wishes: Mutex::new(Some(wishes)),
        }
    }
}

impl Certificates {
    /// Both sides of mutual TLS for `identity`, if there is a certificate.
    pub fn for_identity(&self, identity: &Identity) -> Option<Arc<WorkloadTls>> {
        self.ready.load().get(identity).map(|certified| certified.tls.clone())
    }

    /// As [`Self::for_identity`], waiting at most `patience` for the certificate; `None`: refuse as `no_certificate`.
    pub async fn wait_for(&self, identity: &Identity, patience: Duration) -> Option<Arc<WorkloadTls>> {
        if let Some(tls) = self.for_identity(identity) {
            return Some(tls);
        }
        let mut changed = self.changes.subscribe();
        // Without a driver nobody hears it, and the wait ends without a certificate.
        let _ = self.needed.send(identity.clone());
        let search = async {
            loop {
                changed.borrow_and_update();
                if let Some(tls) = self.for_identity(identity) {
                    return Some(tls);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, search).await.ok().flatten()
    }

    /// Every certificate in force, by identity.
    pub fn list(&self) -> Vec<Certified> {
        let mut all: Vec<_> = self.ready.load().values().cloned().collect();
        all.sort_by(|a, b| a.leaf.identity.cmp(&b.leaf.identity));
        all
    }

    /// Puts these in the place of what their identities had.
    pub fn put(&self, certified: impl IntoIterator<Item = Certified>) {
        let fresh: Vec<_> = certified.into_iter().collect();
        self.change(|all| {
            all.extend(fresh.iter().map(|one| (one.leaf.identity.clone(), one.clone())));
        });
    }

    /// Takes away what these identities had.
    pub fn take(&self, identities: &[Identity]) {
        self.change(|all| all.retain(|identity, _| !identities.contains(identity)));
    }

    fn change(&self, change: impl Fn(&mut HashMap<Identity, Certified>)) {
        self.ready.rcu(|now| {
            let mut next = HashMap::clone(now);
            change(&mut next);
            next
        });
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The roots in force, and news of them; `None`: not known yet.
    pub fn trust(&self) -> watch::Receiver<Option<Arc<TrustBundle>>> {
        self.trust.subscribe()
    }

    /// Judges all open tunnels by this bundle from now on. Certificates made for it come first ([`Self::put`]), so that
    /// whoever connects anew does so by it.
    pub fn trust_in(&self, bundle: Arc<TrustBundle>) {
        self.trust.send_replace(Some(bundle));
    }

    /// Says that pods have come or gone.
    pub fn pods_changed(&self) {
        self.pods.notify_one();
    }

    /// Says that a pod of this identity is about to be served here: a certificate is fetched before it is.
    pub fn expect(&self, identity: &Identity) {
        let before = self.expected.lock().insert(identity.clone(), Instant::now());
        if before.is_none() {
            self.pods.notify_one();
        }
    }

    /// The identities that are expected, as of `now`.
    pub fn expected(&self, now: Instant) -> Vec<Identity> {
        let mut expected = self.expected.lock();
        expected.retain(|_, said| now.saturating_duration_since(*said) < EXPECTED);
        expected.keys().cloned().collect()
    }

    /// Told when anything has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
