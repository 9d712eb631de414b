//! Fetches and renews the certificates of the identities that run here, and follows the trust bundle.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ahash::{HashMap, HashSet};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
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

/// Fetches and renews for ever.
pub async fn run(shared: Arc<Shared>, controller: Controller) {
    let (bundles, bundle) = watch::channel(None);
    tokio::select! {
        never = follow_bundle(&controller, &bundles) => match never {},
        () = renew(&shared, &controller, bundle) => {}
    }
}

/// What the driver itself knows.
struct Driver<'a> {
    certificates: &'a Certificates,
    renewal: Renewal,
    leaves: HashMap<Identity, Leaf>,
    bundle: Option<TrustBundle>,
}

async fn renew(shared: &Shared, controller: &Controller, mut bundle: watch::Receiver<Option<TrustBundle>>) {
    let certificates = &shared.certificates;
    let Some(mut needed) = certificates.wishes.lock().take() else { return };
    let renewal = Renewal::new(rand::random());
    let mut driver = Driver { certificates, renewal, leaves: HashMap::default(), bundle: None };
    let mut calls = FuturesUnordered::new();
    loop {
        driver.follow_pods(&local_identities(shared));
        driver.drop_expired();
        let due = driver.renewal.poll(now());
        calls.extend(due.into_iter().map(|identity| async {
            let leaf = sign(controller, &identity).await;
            (identity, leaf)
        }));
        let wait = driver.renewal.wait(now()).unwrap_or(Duration::from_secs(60));
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

impl Driver<'_> {
    /// Identities are wanted while a pod of theirs is here.
    fn follow_pods(&mut self, present: &HashSet<Identity>) {
        let gone: Vec<_> =
            self.leaves.keys().filter(|identity| !present.contains(*identity)).cloned().collect();
        self.renewal.retain(|identity| present.contains(identity));
        self.leaves.retain(|identity, _| present.contains(identity));
        if !gone.is_empty() {
            self.certificates.take(&gone);
        }
        for identity in present.iter().filter(|identity| !self.leaves.contains_key(*identity)) {
            self.renewal.want(identity, Priority::WarmUp, now());
        }
    }

    /// A connection waits. If its pod has left in the meantime, [`Self::follow_pods`] forgets this before it is asked for.
    fn need(&mut self, identity: &Identity) {
        if !self.leaves.contains_key(identity) {
            self.renewal.want(identity, Priority::Needed, now());
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
                self.renewal.failed(identity, now());
                let valid = self.renewal.is_valid(identity, SystemTime::now());
                tracing::warn!(%identity, %error, old_still_valid = valid, "no certificate; trying again");
            }
        }
    }

    /// A stream of bundles has begun or brought another: then everything is built anew of it.
    fn follow_bundle(&mut self, latest: Option<TrustBundle>) {
        self.renewal.authority_is_back(now());
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
        let wall = SystemTime::now();
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
    shared.pods.load().iter().map(|pod| pod.identity.clone()).collect()
}

#[allow(clippy::disallowed_methods, reason = "the driver is where the schedule's clock is read")]
fn now() -> Now {
    Now { monotonic: std::time::Instant::now(), wall: SystemTime::now() }
}

async fn sign(controller: &Controller, identity: &Identity) -> Result<Leaf, FetchError> {
    let key = KeyRequest::new(identity)?;
    let request = SignRequest { csr_der: key.csr_der().to_vec(), identity: identity.to_string() };
    let request = controller.request(request)?;
    let mut client = CertificatesClient::new(controller.channel.clone());
    let answer = tokio::time::timeout(SIGN, client.sign(request)).await.map_err(|_| FetchError::Silent)?;
    Ok(key.into_leaf(answer?.into_inner().chain_der)?)
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
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
    }

    fn here(names: &[&str]) -> HashSet<Identity> {
        names.iter().map(|name| identity(name)).collect()
    }

    fn driver(certificates: &Certificates) -> Driver<'_> {
        Driver { certificates, renewal: Renewal::new(7), leaves: HashMap::default(), bundle: None }
    }

    #[test]
    fn identities_whose_pods_left_before_their_first_certificate_are_asked_for_no_more() {
        let certificates = Certificates::default();
        let mut driver = driver(&certificates);
        driver.follow_pods(&here(&["cart", "web"]));
        driver.need(&identity("gone"));
        driver.follow_pods(&here(&["web"]));
        assert_eq!(driver.renewal.poll(now()), [identity("web")]);
        driver.follow_pods(&here(&[]));
        driver.finish(&identity("web"), Err(FetchError::Silent));
        let later = now().monotonic + Duration::from_secs(600);
        assert_eq!(driver.renewal.poll(Now { monotonic: later, ..now() }), []);
    }

    #[test]
    fn a_stream_of_bundles_that_begins_again_cuts_waits_after_failures_short() {
        let certificates = Certificates::default();
        let mut driver = driver(&certificates);
        let bundle = weft_tls::testing::TestCa::new("cluster.local").bundle();
        driver.follow_bundle(Some(bundle.clone()));
        driver.follow_pods(&here(&["web"]));
        for failures in 0..8 {
            let at = now().monotonic + Duration::from_secs(1000 * failures);
            assert_eq!(driver.renewal.poll(Now { monotonic: at, ..now() }), [identity("web")]);
            driver.renewal.failed(&identity("web"), Now { monotonic: at, ..now() });
        }
        let at = now().monotonic + Duration::from_secs(2);
        assert_eq!(driver.renewal.poll(Now { monotonic: at, ..now() }), []);
        driver.follow_bundle(Some(bundle));
        assert_eq!(driver.renewal.poll(Now { monotonic: at, ..now() }), [identity("web")]);
    }
}
