//! Retry budgets: tries beyond the first are at most a share of the requests of some time, with a floor, so that retries
//! cannot multiply an outage. Every proxy has one, and one for each Service whose XBackendTrafficPolicy has a
//! `retryConstraint` (GEP-3388). A state machine over `now`, shared by all workers without locks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use weft_model::traffic::RetryConstraint;

/// Parts that the time over which requests and retries are compared is counted in.
const PARTS: u32 = 10;

/// Counts requests and retries.
#[derive(Debug)]
pub struct RetryBudget {
    limits: RetryConstraint,
    /// When it was first asked.
    start: OnceLock<Instant>,
    parts: [Count; PARTS as usize],
    /// The present interval of the floor.
    floor: Count,
    halved: AtomicBool,
}

/// The counts of some time; the slot is taken over by a later one.
#[derive(Debug, Default)]
struct Count {
    /// 1 and up, so that an unused slot belongs to no time.
    which: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

impl Default for RetryBudget {
    /// The budget of a whole proxy, which the API's defaults are good for.
    fn default() -> Self {
        Self::new(RetryConstraint::default())
    }
}

impl RetryBudget {
    /// An empty budget.
    pub fn new(limits: RetryConstraint) -> Self {
        let parts = std::array::from_fn(|_| Count::default());
        let (start, floor, halved) = (OnceLock::new(), Count::default(), AtomicBool::new(false));
        Self { limits, start, parts, floor, halved }
    }

    /// What it allows.
    pub const fn limits(&self) -> RetryConstraint {
        self.limits
    }

    /// From now on half as much: another proxy makes retries for the same node.
    pub(crate) fn halve(&self) {
        self.halved.store(true, Ordering::Relaxed);
    }

    /// Whether it was halved.
    pub fn is_halved(&self) -> bool {
        self.halved.load(Ordering::Relaxed)
    }

    /// A request came.
    pub fn count_request(&self, now: Instant) {
        if let Some(part) = self.part(now) {
            part.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether one more try may be made now; if so it is counted. Half of everything is allowed if it is `halved`.
    pub fn take(&self, now: Instant, halved: bool) -> bool {
        let Some(part) = self.part(now) else { return false };
        let floor = self.floor.at(self.number(now, self.limits.min_interval));
        let (requests, retries) = self.window(now);
        let share = if halved { 2 } else { 1 };
        let allowed = floor.retries.load(Ordering::Relaxed) * share < u64::from(self.limits.min_count)
            || retries * 100 * share < requests * u64::from(self.limits.percent);
        if allowed {
            part.retries.fetch_add(1, Ordering::Relaxed);
            floor.retries.fetch_add(1, Ordering::Relaxed);
        }
        allowed
    }

    /// How many times of this length have begun.
    fn number(&self, now: Instant, length: Duration) -> u64 {
        let start = *self.start.get_or_init(|| now);
        let passed = now.saturating_duration_since(start).as_nanos();
        let number = passed.checked_div(length.as_nanos()).unwrap_or_default();
        u64::try_from(number).unwrap_or(u64::MAX - 1) + 1
    }

    /// The number of the present part.
    fn present(&self, now: Instant) -> u64 {
        self.number(now, self.limits.interval / PARTS)
    }

    fn part(&self, now: Instant) -> Option<&Count> {
        let number = self.present(now);
        let slot = usize::try_from(number % u64::from(PARTS)).ok()?;
        self.parts.get(slot).map(|part| part.at(number))
    }

    /// Requests and retries of the last interval.
    fn window(&self, now: Instant) -> (u64, u64) {
        let number = self.present(now);
        let recent =
            self.parts.iter().filter(|part| part.which.load(Ordering::Relaxed) + u64::from(PARTS) > number);
        recent.fold((0, 0), |(requests, retries), part| {
            let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
            (requests + of(&part.requests), retries + of(&part.retries))
        })
    }
}

impl Count {
    /// The slot for the time with this number. Whoever comes first clears it; counts of others that fall between are lost,
    /// which moves the limit by less than the workers are many.
    fn at(&self, number: u64) -> &Self {
        let seen = self.which.load(Ordering::Relaxed);
        if seen < number
            && self.which.compare_exchange(seen, number, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.requests.store(0, Ordering::Relaxed);
            self.retries.store(0, Ordering::Relaxed);
        }
        self
    }
}

/// What a request's further tries are taken from.
#[derive(Clone, Copy, Debug)]
pub struct Allowance<'a> {
    budget: &'a RetryBudget,
    halved: bool,
    /// A policy says so: a try beyond it is answered 503 (GEP-3388).
    stated: bool,
}

impl<'a> Allowance<'a> {
    /// The backend's own budget, if a policy has given it one; else the proxy's, which counts its requests by itself.
    pub fn of(proxy: &'a RetryBudget, backend: Option<&'a RetryBudget>) -> Self {
        let stated = backend.is_some();
        Self { budget: backend.unwrap_or(proxy), halved: proxy.is_halved(), stated }
    }

    /// A request to the backend came.
    pub fn count_request(&self, now: Instant) {
        if self.stated {
            self.budget.count_request(now);
        }
    }

    /// As [`RetryBudget::take`].
    pub fn take(&self, now: Instant) -> bool {
        self.budget.take(now, self.halved)
    }

    /// Whether a policy says it.
    pub const fn is_stated(&self) -> bool {
        self.stated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(budget: &RetryBudget, tries: u32, now: Instant) -> u32 {
        (0..tries).map(|_| u32::from(budget.take(now, budget.is_halved()))).sum()
    }

    fn constraint(percent: u32, interval: u64, min_count: u32, min_interval: u64) -> RetryConstraint {
        let (interval, min_interval) = (Duration::from_secs(interval), Duration::from_secs(min_interval));
        RetryConstraint { percent, interval, min_count, min_interval }
    }

    #[test]
    fn without_requests_ten_retries_a_second_are_allowed() {
        let start = Instant::now();
        let budget = RetryBudget::default();
        for second in 0..30 {
            assert_eq!(taken(&budget, 100, start + Duration::from_secs(second)), 10, "second {second}");
        }
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let start = Instant::now();
        let budget = RetryBudget::default();
        (0..1_000).for_each(|_| budget.count_request(start));
        assert_eq!(taken(&budget, 1_000, start), 200);
    }

    #[test]
    fn halved_it_allows_half_the_share_and_half_the_floor() {
        let start = Instant::now();
        let budget = RetryBudget::default();
        budget.halve();
        assert_eq!(taken(&budget, 100, start), 5);
        let next = start + Duration::from_secs(20);
        (0..1_000).for_each(|_| budget.count_request(next));
        assert_eq!(taken(&budget, 1_000, next), 100);
    }

    #[test]
    fn requests_and_retries_are_forgotten_after_the_window() {
        let start = Instant::now();
        let budget = RetryBudget::default();
        (0..1_000).for_each(|_| budget.count_request(start));
        let nine = start + Duration::from_secs(9);
        assert_eq!(taken(&budget, 150, nine), 150);
        assert_eq!(taken(&budget, 1_000, start + Duration::from_secs(10)), 10);
    }

    #[test]
    fn a_policy_says_how_much_and_over_which_time() {
        let start = Instant::now();
        let budget = RetryBudget::new(constraint(50, 60, 3, 30));
        assert_eq!(taken(&budget, 100, start), 3, "the floor");
        assert_eq!(taken(&budget, 100, start + Duration::from_secs(29)), 0);
        assert_eq!(taken(&budget, 100, start + Duration::from_secs(30)), 3);
        (0..100).for_each(|_| budget.count_request(start + Duration::from_secs(31)));
        assert_eq!(taken(&budget, 100, start + Duration::from_secs(31)), 44, "50 but for the 6 before");
        let none = RetryBudget::new(constraint(0, 1, 1, 3_600));
        (0..1_000).for_each(|_| none.count_request(start));
        assert_eq!(taken(&none, 100, start), 1);
    }

    proptest! {
        /// Over any course of requests and retries, those of one interval are no more than share and floor together.
        #[test]
        fn an_interval_never_has_more_than_share_and_floor(
            percent in 0..=100_u32, interval in 1..100_u64, min_count in 0..20_u32, min_interval in 1..100_u64,
            course in proptest::collection::vec((0..5_000_u64, 0..20_u32, 0..20_u32), 1..60),
        ) {
            let start = Instant::now();
            let limits = constraint(percent, interval, min_count, min_interval);
            let budget = RetryBudget::new(limits);
            // When, how many requests, how many retries were allowed.
            let mut seen: Vec<(Duration, u32, u32)> = Vec::new();
            let mut now = Duration::ZERO;
            for (milliseconds, requests, tries) in course {
                now += Duration::from_millis(milliseconds);
                (0..requests).for_each(|_| budget.count_request(start + now));
                seen.push((now, requests, taken(&budget, tries, start + now)));
                let within = |length: Duration| seen.iter().filter(move |(at, ..)| *at + length > now);
                let retries: u32 = within(limits.interval - limits.interval / PARTS).map(|(.., retries)| retries).sum();
                // A retry was allowed by the share of what came in the interval before it, or by the floor.
                let came: u32 = within(2 * limits.interval).map(|(_, requests, _)| requests).sum();
                let floors = limits.interval.as_secs() / min_interval + 2;
                let most = u64::from(came) * u64::from(percent) / 100 + 1 + floors * u64::from(min_count);
                prop_assert!(u64::from(retries) <= most, "{retries} of at most {most}: {seen:?}");
            }
        }
    }
}
