//! Answers about tokens, kept for a moment: a proxy that starts asks for all of its node's certificates at once with
//! one token. Tokens themselves are not kept, only their hashes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

use crate::authenticate::{Caller, ProofError};

/// The most answers kept.
const MOST: usize = 4096;

type Hash = [u8; 32];

/// An answer, and until when it holds. Whoever asks first holds the lock while the API server is asked; others with
/// the same token wait for the same answer.
type Entry = Arc<tokio::sync::Mutex<Option<(Instant, Result<Caller, ProofError>)>>>;

pub(super) struct Cache {
    keep: Duration,
    entries: Mutex<HashMap<Hash, Entry>>,
}

impl Cache {
    pub(super) fn new(keep: Duration) -> Self {
        Self { keep, entries: Mutex::default() }
    }

    /// The answer for a token, by `judge` if there is none. That it cannot be judged now is no answer to keep.
    pub(super) async fn get<F>(
        &self,
        token: &str,
        now: Instant,
        judge: impl FnOnce() -> F,
    ) -> Result<Caller, ProofError>
    where
        F: Future<Output = Result<Caller, ProofError>>,
    {
        let entry = self.entry(hash(token), now);
        let mut entry = entry.lock().await;
        if let Some((until, answer)) = &*entry
            && now < *until
        {
            return answer.clone();
        }
        *entry = None;
        let answer = judge().await;
        if !matches!(answer, Err(ProofError::Unavailable(_))) {
            *entry = Some((now + self.keep, answer.clone()));
        }
        answer
    }

    fn entry(&self, hash: Hash, now: Instant) -> Entry {
        let mut entries = self.entries.lock();
        if entries.len() >= MOST && !entries.contains_key(&hash) {
            // Refusals go first: whoever makes tokens up must not push out those who have proved themselves.
            entries.retain(|_, entry| is_wanted(entry, now));
        }
        if entries.len() >= MOST && !entries.contains_key(&hash) {
            return Entry::default();
        }
        Arc::clone(entries.entry(hash).or_default())
    }
}

/// Is this a caller that has proved itself, or an answer that somebody waits for?
fn is_wanted(entry: &Entry, now: Instant) -> bool {
    match entry.try_lock() {
        Ok(answer) if Arc::strong_count(entry) == 1 => {
            answer.as_ref().is_some_and(|(until, answer)| now < *until && answer.is_ok())
        }
        _ => true,
    }
}

fn hash(token: &str) -> Hash {
    let mut hash = Hash::default();
    // SHA-256 has 32 bytes; the lengths are equal.
    hash.iter_mut().zip(digest(&SHA256, token.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::authenticate::Node;

    fn node() -> Result<Caller, ProofError> {
        Ok(Caller::Node(Node { name: "one".into() }))
    }

    const TEN: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn an_answer_holds_for_its_time_and_is_asked_for_once() {
        let (cache, asked, start) = (Cache::new(TEN), AtomicUsize::new(0), Instant::now());
        let judge = || async {
            tokio::task::yield_now().await;
            asked.fetch_add(1, Ordering::Relaxed);
            node()
        };
        let (a, b) = tokio::join!(cache.get("t", start, judge), cache.get("t", start, judge));
        assert_eq!((a, b, asked.load(Ordering::Relaxed)), (node(), node(), 1));
        let later = start + TEN - Duration::from_millis(1);
        assert_eq!(cache.get("t", later, judge).await, node());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(cache.get("u", later, judge).await, node());
        assert_eq!(asked.load(Ordering::Relaxed), 2, "another token is another question");
        assert_eq!(cache.get("t", start + TEN, judge).await, node());
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn refusals_are_kept_and_failures_are_not() {
        let (cache, now) = (Cache::new(TEN), Instant::now());
        let failed = || Err(ProofError::Unavailable("down".into()));
        let refused = || Err(ProofError::Invalid);
        assert_eq!(cache.get("t", now, || async { failed() }).await, failed());
        assert_eq!(cache.get("t", now, || async { refused() }).await, refused());
        assert_eq!(cache.get("t", now, || async { node() }).await, refused());
    }

    #[tokio::test]
    async fn the_number_of_answers_is_bounded_and_refusals_make_room() {
        let (cache, now) = (Cache::new(TEN), Instant::now());
        let refused = || async { Err(ProofError::Invalid) };
        let _ = cache.get("good", now, || async { node() }).await;
        for number in 0..2 * MOST {
            let _ = cache.get(&number.to_string(), now, refused).await;
            assert!(cache.entries.lock().len() <= MOST);
        }
        assert_eq!(cache.get("good", now, refused).await, node());
        for number in 0..MOST + 10 {
            assert_eq!(cache.get(&format!("g{number}"), now, || async { node() }).await, node());
            assert!(cache.entries.lock().len() <= MOST);
        }
        assert_eq!(cache.get("good", now, refused).await, node());
    }
}
