//! When the pools' task lets go of connections, under a clock that stands still but for the waits.

use hyper_util::rt::TokioIo;
use weft_runtime::netns::NetNamespace;

use crate::scope::Ends;

use super::*;
use crate::testing;
use crate::tunnel::dial::Way;

/// Something to keep: the client's side of a connection whose server never says anything.
async fn connection() -> (Http1, tokio::io::DuplexStream) {
    let (near, far) = tokio::io::duplex(1024);
    let (sender, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::task::spawn_local(connection);
    (sender, far)
}

fn pod() -> Arc<LocalPod> {
    let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let netns = NetNamespace::current().unwrap();
    let enrolled = testing::enrolled("a", &["10.244.0.1"]);
    Arc::new(LocalPod::new(enrolled, identity, netns, &Ends::default()))
}

fn key(pod: &Arc<LocalPod>, way: Way) -> Key {
    Dial { pod: pod.clone(), to: ([10, 244, 0, 2], 80).into(), way }.key(false)
}

/// Milliseconds until the other end of a kept connection sees it closed.
async fn kept_for(way: Way) -> u128 {
    let (pools, pod, begun) = (Pools::default(), pod(), Instant::now());
    let (sender, mut far) = connection().await;
    pools.put_http1(key(&pod, way), sender, &pod);
    let mut nothing = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut far, &mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    // With nothing left to watch over the task ends; the next connection starts it again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!pools.0.sweeping.get());
    (begun.elapsed() - Duration::from_secs(1)).as_millis()
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_when_their_time_is_over() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            // The task looks every second.
            let application = Way::Application { caller: ([10, 244, 0, 9], 0).into() };
            let kept = kept_for(application).await;
            assert!((4_000..=5_001).contains(&kept), "{kept}");
            let kept = kept_for(Way::Plain).await;
            assert!((60_000..=61_001).contains(&kept), "{kept}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_is_given_out_until_its_time_is_over() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (pools, pod) = (Pools::default(), pod());
            let key = key(&pod, Way::Application { caller: ([10, 244, 0, 9], 0).into() });
            let (sender, _far) = connection().await;
            pools.put_http1(key.clone(), sender, &pod);
            for _ in 0..5 {
                // Each use begins its time anew.
                tokio::time::advance(Duration::from_millis(3999)).await;
                let sender = pools.take_http1(&key).expect("still kept");
                pools.put_http1(key.clone(), sender, &pod);
            }
            tokio::time::advance(Duration::from_millis(4000)).await;
            assert!(pools.take_http1(&key).is_none());
        })
        .await;
}
