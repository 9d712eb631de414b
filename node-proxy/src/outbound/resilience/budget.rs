//! The node's retry budget: tries beyond the first are at most a share of the requests of the last seconds, with a
//! floor, so that retries cannot multiply an outage. A state machine over `now`, shared by all workers without locks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;

/// Seconds over which requests and retries are compared.
const WINDOW: u64 = 10;
/// Retries per second that are always allowed.
const FLOOR: u64 = 10;
/// Retries allowed per hundred requests of the window.
const PERCENT: u64 = 20;

/// Counts requests and retries per second.
#[derive(Debug)]
pub struct RetryBudget {
    start: Instant,
    seconds: [Second; WINDOW as usize],
    halved: AtomicBool,
}

/// The counts of one second; the slot is taken over by a later one.
#[derive(Debug, Default)]
struct Second {
    /// 1 and up, so that an unused slot belongs to no second.
    which: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    /// An empty budget.
    pub fn new(now: Instant) -> Self {
        let seconds = std::array::from_fn(|_| Second::default());
        Self { start: now, seconds, halved: AtomicBool::new(false) }
    }

    /// From now on half as much: another proxy makes retries for the same node.
    pub(crate) fn halve(&self) {
        self.halved.store(true, Ordering::Relaxed);
    }

    /// A request came.
    pub fn count_request(&self, now: Instant) {
        if let Some(second) = self.second(now) {
            second.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether one more try may be made now; if so it is counted.
    pub fn take(&self, now: Instant) -> bool {
        let Some(second) = self.second(now) else { return false };
        let (requests, retries) = self.window(now);
        let share = if self.halved.load(Ordering::Relaxed) { 2 } else { 1 };
        let allowed = second.retries.load(Ordering::Relaxed) < FLOOR / share
            || retries * 100 * share < requests * PERCENT;
        if allowed {
            second.retries.fetch_add(1, Ordering::Relaxed);
        }
        allowed
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() + 1
    }

    /// The present second's slot. Whoever comes first clears it; counts of others that fall between are lost, which
    /// moves the limit by less than the workers are many.
    fn second(&self, now: Instant) -> Option<&Second> {
        let number = self.number(now);
        let slot = self.seconds.get(usize::try_from(number % WINDOW).ok()?)?;
        let seen = slot.which.load(Ordering::Relaxed);
        if seen < number
            && slot.which.compare_exchange(seen, number, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            slot.requests.store(0, Ordering::Relaxed);
            slot.retries.store(0, Ordering::Relaxed);
        }
        Some(slot)
    }

    /// Requests and retries of the last [`WINDOW`] seconds.
    fn window(&self, now: Instant) -> (u64, u64) {
        let number = self.number(now);
        let recent = self.seconds.iter().filter(|s| s.which.load(Ordering::Relaxed) + WINDOW > number);
        recent.fold((0, 0), |(requests, retries), s| {
            (requests + s.requests.load(Ordering::Relaxed), retries + s.retries.load(Ordering::Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(budget: &RetryBudget, tries: u32, now: Instant) -> u32 {
        (0..tries).map(|_| u32::from(budget.take(now))).sum()
    }

    #[test]
    fn without_requests_ten_retries_a_second_are_allowed() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        for second in 0..30 {
            assert_eq!(taken(&budget, 100, start + Duration::from_secs(second)), 10, "second {second}");
        }
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        (0..1_000).for_each(|_| budget.count_request(start));
        assert_eq!(taken(&budget, 1_000, start), 200);
    }

    #[test]
    fn halved_it_allows_half_the_share_and_half_the_floor() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        budget.halve();
        assert_eq!(taken(&budget, 100, start), 5);
        let next = start + Duration::from_secs(20);
        (0..1_000).for_each(|_| budget.count_request(next));
        assert_eq!(taken(&budget, 1_000, next), 100);
    }

    #[test]
    fn requests_and_retries_are_forgotten_after_the_window() {
        let start = Instant::now();
        let budget = RetryBudget::new(start);
        (0..1_000).for_each(|_| budget.count_request(start));
        let nine = start + Duration::from_secs(9);
        assert_eq!(taken(&budget, 150, nine), 150);
        assert_eq!(taken(&budget, 1_000, start + Duration::from_secs(10)), 10);
    }
}
