//! Fetches and renews the certificates of the identities that run here, and follows the trust bundle.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ahash::{HashMap, HashSet};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;
use weft_api::proto::certificates_client::CertificatesClient;
use weft_api::proto::{SignRequest, WatchTrustBundleRequest};
use weft_model::{Identity, TrustDomain};
use weft_runtime::backoff::Backoff;
use weft_tls::renewal::{Now, Priority, Renewal};
use weft_tls::{BundleError, KeyRequest, Leaf, LeafError, TrustBundle, WorkloadTls};

use super::{Certificates, Certified};
use crate::controller::Controller;
use crate::worker::Shared;

/// Deadline of one signing call.
const SIGN: Duration = Duration::from_secs(10);
/// How long to sleep when nothing is due.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why there is no certificate or bundle.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The call failed.
    #[error("{}: {}", .0.code(), .0.message())]
    Call(#[from] tonic::Status),
    /// What came cannot be used.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// What came cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The authority did not answer.
    #[error("no answer within {SIGN:?}")]
    Silent,
    /// The authority ended the stream of bundles.
    #[error("the stream ended")]
    Ended,
}

/// Who signs: the controller, or what a test plays.
trait Authority {
    /// A leaf for `identity` with a fresh key.
    async fn sign(&self, identity: &Identity) -> Result<Leaf, FetchError>;
}

/// Fetches and renews for ever.
pub async fn run(shared: Arc<Shared>, controller: Controller) {
    let (bundles, bundle) = watch::channel(None);
    tokio::select! {
        never = follow_bundle(&controller, &bundles) => match never {},
        () = renew(&shared, &controller, SystemTime::now, bundle) => {}
    }
}

/// What the driver itself knows. `wall` reads the wall clock, which certificates end by.
struct Driver<'a, W> {
    certificates: &'a Certificates,
    renewal: Renewal,
    leaves: HashMap<Identity, Leaf>,
    bundle: Option<TrustBundle>,
    wall: W,
}

async fn renew(
    shared: &Shared,
    authority: &impl Authority,
    wall: impl Fn() -> SystemTime,
    mut bundle: watch::Receiver<Option<TrustBundle>>,
) {
    let certificates = &shared.certificates;
    let Some(mut needed) = certificates.wishes.lock().take() else { return };
    let renewal = Renewal::new(rand::random());
    let mut driver = Driver { certificates, renewal, leaves: HashMap::default(), bundle: None, wall };
    let mut calls = FuturesUnordered::new();
    loop {
        driver.follow_pods(&local_identities(shared));
        driver.drop_expired();
        let due = driver.renewal.poll(driver.now());
        calls.extend(due.into_iter().map(|identity| async {
            let signing = tokio::time::timeout(SIGN, authority.sign(&identity));
            let leaf = signing.await.unwrap_or(Err(FetchError::Silent));
            (identity, leaf)
        }));
        let wait = driver.wait();
        tokio::select! {
            () = certificates.pods.notified() => {}
            Some(identity) = needed.recv() => driver.need(&identity),
            Ok(()) = bundle.changed() => {
                let latest = bundle.borrow_and_update().clone();
                driver.follow_bundle(latest);
            }
            Some((identity, leaf)) = calls.next() => driver.finish(&identity, leaf),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl<W: Fn() -> SystemTime> Driver<'_, W> {
    fn now(&self) -> Now {
        // By way of tokio's, which stands still in tests.
        Now { monotonic: Instant::now().into_std(), wall: (self.wall)() }
    }

    /// Until something is to be asked for, or a certificate that could not be renewed ends.
    fn wait(&self) -> Duration {
        let now = self.now();
        let next = self.renewal.wait(now).unwrap_or(LONGEST_SLEEP);
        let ends =
            self.leaves.values().map(|leaf| leaf.not_after.duration_since(now.wall).unwrap_or_default());
        ends.min().map_or(next, |end| next.min(end))
    }

    /// Identities are wanted while a pod of theirs is here.
    fn follow_pods(&mut self, present: &HashSet<Identity>) {
        let gone: Vec<_> =
            self.leaves.keys().filter(|identity| !present.contains(*identity)).cloned().collect();
        self.renewal.retain(|identity| present.contains(identity));
        self.leaves.retain(|identity, _| present.contains(identity));
        if !gone.is_empty() {
            self.certificates.take(&gone);
        }
        let now = self.now();
        for identity in present.iter().filter(|identity| !self.leaves.contains_key(*identity)) {
            self.renewal.want(identity, Priority::WarmUp, now);
        }
    }

    /// A connection waits. If its pod has left in the meantime, [`Self::follow_pods`] forgets this before it is asked for.
    fn need(&mut self, identity: &Identity) {
        if !self.leaves.contains_key(identity) {
            self.renewal.want(identity, Priority::Needed, self.now());
        }
    }

    fn finish(&mut self, identity: &Identity, leaf: Result<Leaf, FetchError>) {
        match leaf {
            Ok(leaf) => {
                if self.renewal.succeeded(identity, leaf.not_before, leaf.not_after) {
                    tracing::info!(%identity, serial = leaf.serial, "certificate in force");
                    self.certificates.put(self.certified(&leaf));
                    self.leaves.insert(identity.clone(), leaf);
                }
            }
            Err(error) => {
                let now = self.now();
                self.renewal.failed(identity, now);
                let valid = self.renewal.is_valid(identity, now.wall);
                tracing::warn!(%identity, %error, old_still_valid = valid, "no certificate; trying again");
            }
        }
    }

    /// A stream of bundles has begun or brought another: then everything is built anew of it.
    fn follow_bundle(&mut self, latest: Option<TrustBundle>) {
        self.renewal.authority_is_back(self.now());
        if latest == self.bundle {
            return;
        }
        self.bundle = latest;
        self.certificates.put(self.leaves.values().filter_map(|leaf| self.certified(leaf)));
        if let Some(bundle) = &self.bundle {
            self.certificates.trust_in(Arc::new(bundle.clone()));
        }
    }

    fn certified(&self, leaf: &Leaf) -> Option<Certified> {
        match WorkloadTls::new(leaf, self.bundle.as_ref()?) {
            Ok(tls) => Some(Certified { leaf: leaf.clone(), tls: Arc::new(tls) }),
            Err(error) => {
                tracing::error!(identity = %leaf.identity, %error, "the certificate cannot be used");
                None
            }
        }
    }

    /// An expired certificate is none: peers would refuse it, and the reason would be theirs to guess.
    fn drop_expired(&mut self) {
        let wall = (self.wall)();
        let expired: Vec<_> = self
            .leaves
            .iter()
            .filter(|(_, leaf)| leaf.not_after <= wall)
            .map(|(identity, _)| identity.clone())
            .collect();
        if !expired.is_empty() {
            tracing::error!(identities = ?expired, "certificates have expired before they could be renewed");
            self.leaves.retain(|identity, _| !expired.contains(identity));
            self.certificates.take(&expired);
        }
    }
}

fn local_identities(shared: &Shared) -> HashSet<Identity> {
    let here = shared.pods.load();
    let expected = shared.certificates.expected(Instant::now());
    let parting = here.parting().map(|pod| pod.identity.clone());
    here.iter().map(|pod| pod.identity.clone()).chain(parting).chain(expected).collect()
}

impl Authority for Controller {
    async fn sign(&self, identity: &Identity) -> Result<Leaf, FetchError> {
        let key = KeyRequest::new(identity)?;
        let request = SignRequest { csr_der: key.csr_der().to_vec(), identity: identity.to_string() };
        let request = self.request(request)?;
        let mut client = CertificatesClient::new(self.channel.clone());
        Ok(key.into_leaf(client.sign(request).await?.into_inner().chain_der)?)
    }
}

/// Keeps the latest bundle in `bundles`, for ever; the last one stays while the authority is away.
async fn follow_bundle(controller: &Controller, bundles: &watch::Sender<Option<TrustBundle>>) -> Infallible {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let error = bundle_stream(controller, bundles, &mut backoff).await.err().unwrap_or(FetchError::Ended);
        let delay = backoff.next_delay();
        tracing::warn!(%error, ?delay, "no stream of trust bundles; the last one stays in force");
        tokio::time::sleep(delay).await;
    }
}

async fn bundle_stream(
    controller: &Controller,
    bundles: &watch::Sender<Option<TrustBundle>>,
    backoff: &mut Backoff,
) -> Result<(), FetchError> {
    let request = controller.request(WatchTrustBundleRequest {})?;
    let mut client = CertificatesClient::new(controller.channel.clone());
    let mut stream = client.watch_trust_bundle(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let bundle = TrustBundle::new(TrustDomain(message.trust_domain.into()), message.roots_der)?;
        backoff.reset();
        tracing::info!(trust_domain = %bundle.trust_domain(), "trust bundle in force");
        bundles.send_replace(Some(bundle));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
