//! Certificates of the identities that run on this node, kept in memory only, and the trust bundle.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use weft_model::Identity;
use weft_tls::WorkloadTls;

/// The store that workers read; filled by a task on the control runtime.
#[derive(Debug)]
pub struct Certificates {
    /// Built once per change of a leaf or of the bundle.
    ready: ArcSwap<ahash::HashMap<Identity, Arc<WorkloadTls>>>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
    /// Pods have come or gone.
    pods: Notify,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { ready: ArcSwap::default(), changes: watch::Sender::new(0), pods: Notify::new() }
    }
}

impl Certificates {
    /// Both sides of mutual TLS for `identity`, if there is a certificate.
    pub fn for_identity(&self, identity: &Identity) -> Option<Arc<WorkloadTls>> {
        self.ready.load().get(identity).cloned()
    }

    /// As [`Self::for_identity`], waiting at most `patience` for the certificate; `None`: refuse as `no_certificate`.
    pub async fn wait_for(&self, identity: &Identity, patience: Duration) -> Option<Arc<WorkloadTls>> {
        let mut changed = self.changes.subscribe();
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

    /// Puts `tls` in the place of what its identity had; `None` takes an identity's certificate away.
    pub fn put(&self, identity: &Identity, tls: Option<Arc<WorkloadTls>>) {
        self.ready.rcu(|now| {
            let mut next = ahash::HashMap::clone(now);
            match &tls {
                Some(tls) => next.insert(identity.clone(), tls.clone()),
                None => next.remove(identity),
            };
            next
        });
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Says that pods have come or gone.
    pub fn pods_changed(&self) {
        self.pods.notify_one();
    }

    /// Told when anything has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
