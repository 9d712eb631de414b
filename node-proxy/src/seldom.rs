//! A future that is asked only when it has been woken, for what nearly never happens (the end of a pod, of a certificate)
//! and is waited for beside what happens all the time. Otherwise it would be asked at each step of the other, and asking
//! a `CancellationToken` takes a lock that all workers share.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;

/// Makes `future` one that is asked only when it has been woken.
pub(crate) fn seldom<'a, T>(future: impl Future<Output = T> + 'a) -> Seldom<'a, T> {
    let bell = Bell { rung: AtomicBool::new(true), task: Mutex::new(None) };
    Seldom { future: Box::pin(future), bell: Arc::new(bell), task: None }
}

/// See [`seldom`].
pub(crate) struct Seldom<'a, T> {
    future: LocalBoxFuture<'a, T>,
    bell: Arc<Bell>,
    /// As the bell has it.
    task: Option<Waker>,
}

/// What the future is given as its waker.
struct Bell {
    /// The future may have something to say.
    rung: AtomicBool,
    /// The task that waits for it.
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        // Behind the lock: a task that has not been told of by now finds `rung` set when it asks.
        if let Some(task) = &*self.task.lock() {
            task.wake_by_ref();
        }
    }
}

impl<T> Future for Seldom<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.task = Some(cx.waker().clone());
            let _before = this.bell.task.lock().replace(cx.waker().clone());
        }
        // The swap sees whatever had happened when the bell was rung.
        if !this.bell.rung.load(Ordering::Relaxed) || !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let bell = Waker::from(Arc::clone(&this.bell));
        this.future.as_mut().poll(&mut Context::from_waker(&bell))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::task::yield_now;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// A future that counts how often it is asked.
    fn counted<T>(future: impl Future<Output = T>) -> (impl Future<Output = T>, Rc<Cell<usize>>) {
        let count = Rc::<Cell<usize>>::default();
        let counting = count.clone();
        let mut future = Box::pin(future);
        let asked = std::future::poll_fn(move |cx| {
            counting.set(counting.get() + 1);
            future.as_mut().poll(cx)
        });
        (asked, count)
    }

    #[tokio::test]
    async fn it_is_asked_once_and_again_when_it_was_woken() {
        let token = CancellationToken::new();
        let (cancelled, asked) = counted(token.cancelled());
        let busy = async {
            for _ in 0..100 {
                yield_now().await;
            }
            assert_eq!(asked.get(), 1);
            token.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = busy => {}
            () = seldom(cancelled) => {}
        }
        assert_eq!(asked.get(), 2);
    }

    #[tokio::test]
    async fn a_ring_is_heard_by_the_task_that_asked_last() {
        let token = CancellationToken::new();
        let mut future = seldom(token.clone().cancelled_owned());
        assert!(futures_util::poll!(&mut future).is_pending());
        let other = tokio::spawn({
            let token = token.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                token.cancel();
            }
        });
        // Another waker than the first.
        let local = tokio::task::LocalSet::new();
        let waits = local.run_until(async { tokio::task::spawn_local(future).await.unwrap() });
        tokio::time::timeout(Duration::from_secs(10), waits).await.unwrap();
        other.await.unwrap();
    }

    #[tokio::test]
    async fn a_future_that_wakes_many_times_is_asked_each_time() {
        let steps = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                yield_now().await;
            }
            "done"
        };
        let done = tokio::time::timeout(Duration::from_secs(10), seldom(steps)).await;
        assert_eq!(done.unwrap(), "done");
    }
}
