//! How long the streams wait before they try again, under a clock that stands still but for the waits. No network:
//! the channel's connections are made by the test.

use tokio::io::DuplexStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;

/// Fails, until told to connect to a controller in memory.
#[derive(Clone, Default)]
struct Door {
    attempts: Arc<Mutex<Vec<Instant>>>,
    opens_to: Arc<Mutex<Option<Fake>>>,
    /// Whoever drops it ends the connections.
    served: Arc<Mutex<JoinSet<()>>>,
}

impl Door {
    async fn knock(self) -> io::Result<TokioIo<DuplexStream>> {
        self.attempts.lock().push(Instant::now());
        let Some(fake) = self.opens_to.lock().clone() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (near, far) = tokio::io::duplex(64 * 1024);
        self.served.lock().spawn(fake.serve_connection(far));
        Ok(TokioIo::new(near))
    }

    fn controller(&self, secret: &Path) -> Controller {
        let door = self.clone();
        let connector = tower::service_fn(move |_: http::Uri| door.clone().knock());
        let endpoint = Endpoint::from_static("http://controller");
        let channel = endpoint.clone().connect_with_connector_lazy(connector);
        let roots = Roots {
            file: PathBuf::new(),
            trust_domain: TrustDomain("cluster.local".into()),
            name: NAME.to_owned(),
            told: Mutex::default(),
        };
        let proof = Proof::Secret { name: "node-a".to_owned(), file: secret.to_path_buf() };
        Controller { channel, endpoint, roots: Arc::new(roots), proof: Arc::new(proof) }
    }

    /// Between one attempt and the next, in milliseconds; forgets them.
    fn gaps(&self) -> Vec<u128> {
        let attempts = std::mem::take(&mut *self.attempts.lock());
        attempts.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
    }
}

fn secret() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cret").unwrap();
    file
}

/// Doubled from 200 ms to 5 s, each between half of that and all of it.
fn double_up_to_five_seconds(gaps: &[u128]) {
    let wholes = [200, 400, 800, 1600, 3200].into_iter().chain(std::iter::repeat(5000));
    for (gap, whole) in gaps.iter().zip(wholes) {
        // Timers round up to the next millisecond.
        assert!((whole / 2..=whole + 1).contains(gap), "{gap} of {whole}: {gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_config_stream_waits_longer_after_each_failure_and_anew_after_a_success() {
    let (door, secret, shared) = (Door::default(), secret(), testing::shared(&[]));
    tokio::spawn(state::client::run(shared.clone(), door.controller(secret.path()), |_| Vec::new()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let gaps = door.gaps();
    assert!(gaps.len() >= 14, "{gaps:?}");
    double_up_to_five_seconds(&gaps);

    *door.opens_to.lock() = Some(Fake::new(3, "10.96.0.1"));
    let known = |snapshot: &Arc<state::Snapshot>| snapshot.is_configured().then_some(());
    assert!(shared.snapshot.find(Duration::from_secs(6), known).await.is_some());
    assert_eq!(door.gaps().len(), 0, "one attempt was enough");
    *door.opens_to.lock() = None;
    door.served.lock().abort_all();
    let ended = Instant::now();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let first = door.attempts.lock()[0] - ended;
    assert!(first <= Duration::from_millis(201), "{first:?}");
    assert!(shared.snapshot.load().is_configured(), "the last state stays");
    let mut gaps = door.gaps();
    gaps.insert(0, first.as_millis());
    double_up_to_five_seconds(&gaps);
}

#[tokio::test(start_paused = true)]
async fn so_does_the_stream_of_trust_bundles() {
    let (door, secret, shared) = (Door::default(), secret(), testing::shared(&[]));
    tokio::spawn(certificates::driver::run(shared.clone(), door.controller(secret.path())));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let gaps = door.gaps();
    assert!(gaps.len() >= 14, "{gaps:?}");
    double_up_to_five_seconds(&gaps);
    *door.opens_to.lock() = Some(Fake::new(3, "10.96.0.1"));
    let mut trust = shared.certificates.trust();
    let bundle = tokio::time::timeout(Duration::from_secs(6), trust.wait_for(Option::is_some)).await;
    assert!(bundle.unwrap().is_ok());
}
