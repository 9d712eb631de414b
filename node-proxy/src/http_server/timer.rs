//! The timer of one server connection. hyper makes a timer for each head that it waits for and drops it with the head;
//! here the connection keeps it and only moves it, since making and dropping one takes the runtime's timer lock twice.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;

/// The timer.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadTimer(Arc<Kept>);

/// The sleep that is not in use.
type Kept = Mutex<Option<Pin<Box<Sleep>>>>;

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let sleep = match self.0.lock().take() {
            Some(mut sleep) => {
                sleep.as_mut().reset(deadline.into());
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(deadline.into())),
        };
        Box::pin(InUse { sleep: Some(sleep), kept: Arc::clone(&self.0) })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

/// A sleep that goes back when it is dropped.
struct InUse {
    sleep: Option<Pin<Box<Sleep>>>,
    kept: Arc<Kept>,
}

impl hyper::rt::Sleep for InUse {}

impl Future for InUse {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.get_mut().sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        *self.kept.lock() = self.sleep.take();
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_that_was_dropped_is_used_again_with_its_new_deadline() {
        let timer = HeadTimer::default();
        let begun = tokio::time::Instant::now();
        for (seconds, dropped_early) in [(75, true), (75, true), (10, false), (20, false)] {
            let sleep = timer.sleep(Duration::from_secs(seconds));
            if dropped_early {
                tokio::time::advance(Duration::from_secs(1)).await;
                drop(sleep);
                assert!(timer.0.lock().is_some());
            } else {
                sleep.await;
            }
        }
        assert_eq!(begun.elapsed().as_secs(), 32);
    }
}
