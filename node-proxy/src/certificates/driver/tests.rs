//! The driver of certificates under a clock that stands still but for the waits, and an authority that does as told.

use std::cell::{Cell, RefCell};

use weft_runtime::netns::NetNamespace;
use weft_tls::testing::TestCa;

use super::*;
use crate::pod::LocalPod;
use crate::testing;

const HOUR: Duration = Duration::from_secs(3600);

fn identity(name: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

fn here(names: &[&str]) -> HashSet<Identity> {
    names.iter().map(|name| identity(name)).collect()
}

/// A wall clock that goes with tokio's.
fn wall() -> impl Fn() -> SystemTime + Clone {
    let (wall, begun) = (SystemTime::now(), Instant::now());
    move || wall + begun.elapsed()
}

fn driver(certificates: &Certificates) -> Driver<'_, impl Fn() -> SystemTime + Clone> {
    Driver { certificates, renewal: Renewal::new(7), leaves: HashMap::default(), bundle: None, wall: wall() }
}

/// How the authority takes a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Signs,
    Refuses,
    Hangs,
}

struct Scripted<W> {
    ca: TestCa,
    wall: W,
    mood: Cell<Mood>,
    /// Who asked, and when.
    asked: RefCell<Vec<(Identity, Instant)>>,
}

impl<W: Fn() -> SystemTime> Authority for Scripted<W> {
    async fn sign(&self, identity: &Identity) -> Result<Leaf, FetchError> {
        self.asked.borrow_mut().push((identity.clone(), Instant::now()));
        match self.mood.get() {
            Mood::Signs => {
                let now = (self.wall)();
                Ok(self.ca.leaf_valid(identity, now, now + HOUR))
            }
            Mood::Refuses => Err(FetchError::Ended),
            Mood::Hangs => std::future::pending().await,
        }
    }
}

impl<W> Scripted<W> {
    /// Seconds between one request and the next, and forgets them.
    fn gaps(&self) -> Vec<f64> {
        let asked = self.asked.take();
        asked.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_secs_f64()).collect()
    }
}

/// Runs `test` beside the driver, with one pod of identity `cart`.
async fn beside<W: Fn() -> SystemTime + Clone>(
    wall: W,
    test: impl AsyncFnOnce(&Shared, &Scripted<W>, &watch::Sender<Option<TrustBundle>>),
) {
    let shared = testing::shared(&[]);
    let ca = TestCa::new("cluster.local");
    let asked = RefCell::default();
    let authority = Scripted { ca, wall: wall.clone(), mood: Cell::new(Mood::Signs), asked };
    let (bundles, bundle) = watch::channel(None);
    bundles.send_replace(Some(authority.ca.bundle()));
    let netns = NetNamespace::current().unwrap();
    let enrolled = testing::enrolled("a", &["10.244.0.1"]);
    let pod = Arc::new(LocalPod::new(enrolled, identity("cart"), netns, &shared.ends));
    shared.pods.rcu(|pods| pods.with(pod.clone()));
    tokio::select! {
        biased;
        () = test(&shared, &authority, &bundles) => {}
        () = renew(&shared, &authority, wall, bundle) => panic!("the driver ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn certificates_are_renewed_between_half_and_seven_tenths_of_their_lives() {
    beside(wall(), async |shared, authority, _| {
        tokio::time::sleep(40 * HOUR).await;
        let gaps = authority.gaps();
        assert!(gaps.len() >= 40 * 10 / 7, "{gaps:?}");
        // The schedule looks at the wall clock once a minute at least, and timers round up.
        assert!(gaps.iter().all(|gap| (1800.0..2520.1).contains(gap)), "{gaps:?}");
        assert!(shared.certificates.for_identity(&identity("cart")).is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn while_the_authority_fails_waits_grow_and_the_old_certificate_serves_to_its_end() {
    let wall = wall();
    beside(wall.clone(), async |shared, authority, bundles| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leaf = shared.certificates.list()[0].leaf.clone();
        authority.mood.set(Mood::Refuses);
        authority.asked.take();
        let left = leaf.not_after.duration_since(wall()).unwrap();
        tokio::time::sleep(left - Duration::from_secs(1)).await;
        let gaps = authority.gaps();
        let bounds = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 150.0];
        for (gap, most) in gaps.iter().zip(bounds.iter().chain(std::iter::repeat(&150.0))) {
            assert!(*gap >= most / 2.0 && *gap <= most + 0.1, "{gaps:?}");
        }
        assert!(gaps.len() > bounds.len(), "{gaps:?}");
        assert_eq!(shared.certificates.list()[0].leaf.serial, leaf.serial);
        // Timers round up to the next millisecond.
        tokio::time::sleep(Duration::from_millis(1002)).await;
        assert!(shared.certificates.list().is_empty(), "kept beyond its end");

        // The authority is back: its stream of bundles begins anew, and nobody waits minutes for what failed before.
        authority.mood.set(Mood::Signs);
        bundles.send_replace(Some(authority.ca.bundle()));
        tokio::time::sleep(Duration::from_millis(1002)).await;
        assert!(shared.certificates.for_identity(&identity("cart")).is_some());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_at_its_deadline_and_holds_nobody_else_up() {
    beside(wall(), async |shared, authority, _| {
        authority.mood.set(Mood::Hangs);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(authority.asked.borrow().len(), 1);
        authority.mood.set(Mood::Signs);
        let netns = NetNamespace::current().unwrap();
        let enrolled = testing::enrolled("b", &["10.244.0.2"]);
        let other = Arc::new(LocalPod::new(enrolled, identity("web"), netns, &shared.ends));
        shared.pods.rcu(|pods| pods.with(other.clone()));
        let begun = Instant::now();
        assert!(shared.certificates.wait_for(&identity("web"), Duration::from_secs(5)).await.is_some());
        assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());
        assert!(shared.certificates.wait_for(&identity("cart"), 2 * SIGN).await.is_some());
        let waited = begun.elapsed();
        assert!(waited >= SIGN && waited <= SIGN + Duration::from_millis(1100), "{waited:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn identities_whose_pods_left_before_their_first_certificate_are_asked_for_no_more() {
    let certificates = Certificates::default();
    let mut driver = driver(&certificates);
    driver.follow_pods(&here(&["cart", "web"]));
    driver.need(&identity("gone"));
    driver.follow_pods(&here(&["web"]));
    assert_eq!(driver.renewal.poll(driver.now()), [identity("web")]);
    driver.follow_pods(&here(&[]));
    driver.finish(&identity("web"), Err(FetchError::Silent));
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(driver.renewal.poll(driver.now()), []);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_bundles_that_begins_again_cuts_waits_after_failures_short() {
    let certificates = Certificates::default();
    let mut driver = driver(&certificates);
    let bundle = TestCa::new("cluster.local").bundle();
    driver.follow_bundle(Some(bundle.clone()));
    driver.follow_pods(&here(&["web"]));
    for _ in 0..8 {
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(driver.renewal.poll(driver.now()), [identity("web")]);
        driver.renewal.failed(&identity("web"), driver.now());
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(driver.renewal.poll(driver.now()), []);
    driver.follow_bundle(Some(bundle));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(driver.renewal.poll(driver.now()), [identity("web")]);
}
