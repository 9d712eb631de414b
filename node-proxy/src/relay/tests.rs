//! The relay between real TCP connections on the loopback device: four ends, two of them in the relay's hands.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn never() {
    std::future::pending().await
}

#[tokio::test]
async fn half_close_is_carried_while_the_other_direction_goes_on() {
    let ((mut caller, a), (b, mut callee)) = (pair().await, pair().await);
    let relay = tokio::spawn(relay(a, b, None, never()));
    caller.write_all(b"question").await.unwrap();
    caller.shutdown().await.unwrap();
    let mut question = String::new();
    callee.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    callee.write_all(b"a long answer").await.unwrap();
    drop(callee);
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "a long answer");
    let end = relay.await.unwrap();
    assert!(matches!(end.how, How::Finished), "{end:?}");
    assert_eq!((end.from_first, end.from_second), (8, 13));
}

#[tokio::test]
async fn a_reset_is_carried_as_a_reset_in_both_directions() {
    for from_caller in [true, false] {
        let ((mut caller, a), (b, mut callee)) = (pair().await, pair().await);
        let relay = tokio::spawn(relay(a, b, None, never()));
        caller.write_all(b"x").await.unwrap();
        callee.read_u8().await.unwrap();
        let (gone, other) = if from_caller { (caller, &mut callee) } else { (callee, &mut caller) };
        gone.set_zero_linger().unwrap();
        drop(gone);
        let seen = other.read_u8().await.unwrap_err();
        assert_eq!(seen.kind(), ErrorKind::ConnectionReset, "reset by the caller: {from_caller}");
        let end = relay.await.unwrap();
        match end.how {
            How::FirstFailed(_) => assert!(from_caller),
            How::SecondFailed(_) => assert!(!from_caller),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn much_data_passes_unchanged_through_a_slow_reader() {
    let ((mut caller, a), (b, mut callee)) = (pair().await, pair().await);
    let relay = tokio::spawn(relay(a, b, None, never()));
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        caller.write_all(&copy).await.unwrap();
        caller
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut got = vec![0; sent.len()];
    callee.read_exact(&mut got).await.unwrap();
    assert!(got == sent, "bytes differ");
    drop((writer.await.unwrap(), callee));
    assert_eq!(relay.await.unwrap().from_first, 8_000_000);
}

#[tokio::test(start_paused = true)]
async fn silence_for_the_idle_time_ends_it() {
    let (_caller, a) = tokio::io::duplex(64);
    let (b, _callee) = tokio::io::duplex(64);
    let begun = Instant::now();
    let end = relay(InMemory(a), InMemory(b), Some(Duration::from_millis(200)), never()).await;
    assert!(matches!(end.how, How::Idle), "{end:?}");
    let took = begun.elapsed();
    assert!((200..300).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn bytes_postpone_the_idle_end_and_stop_ends_it() {
    let (mut caller, a) = tokio::io::duplex(64);
    let (b, _callee) = tokio::io::duplex(64);
    let begun = Instant::now();
    let stop = tokio::time::sleep(Duration::from_millis(500));
    let relay = relay(InMemory(a), InMemory(b), Some(Duration::from_millis(300)), stop);
    let speak = async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        caller.write_all(b"still here").await.unwrap();
        std::future::pending::<()>().await;
    };
    let end = tokio::select! { end = relay => end, () = speak => unreachable!() };
    assert!(matches!(end.how, How::Stopped), "{end:?}");
    assert!(begun.elapsed().as_millis() >= 500);
    assert_eq!(end.from_first, 10);
}

/// A stream in memory; there is no reset to see on one.
struct InMemory(tokio::io::DuplexStream);

impl AsyncRead for InMemory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for InMemory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Duplex for InMemory {
    fn reset_on_drop(&mut self) {}
}
