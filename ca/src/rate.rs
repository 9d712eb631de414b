//! How fast one caller may ask for certificates: a token bucket for each.

use std::collections::HashMap;
use std::time::Instant;

/// How many callers are kept before the first tidying.
const TIDY_AT: usize = 1024;

/// A caller's allowance: `burst` requests at once, and `per_second` more each second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests at once. At least as many as a node may have identities, for its start.
    pub burst: u32,
    /// Requests each second in the long run.
    pub per_second: u32,
}

impl Default for Rate {
    fn default() -> Self {
        Self { burst: 500, per_second: 10 }
    }
}

/// The allowances of all callers that have proved themselves. A full bucket is as good as none, so those are
/// forgotten when there are many.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Rate,
    tidy_at: usize,
    callers: HashMap<String, Tokens>,
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Instant,
}

impl Tokens {
    /// How many there are by now.
    fn by(&self, now: Instant, rate: Rate) -> f64 {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + elapsed * f64::from(rate.per_second)).min(f64::from(rate.burst))
    }
}

impl Rates {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, tidy_at: TIDY_AT, callers: HashMap::new() }
    }

    /// Takes one request from a caller's allowance, if there is one left.
    pub(crate) fn take(&mut self, caller: &str, now: Instant) -> bool {
        let burst = f64::from(self.rate.burst);
        if !self.callers.contains_key(caller) {
            if self.callers.len() >= self.tidy_at {
                let rate = self.rate;
                self.callers.retain(|_, tokens| tokens.by(now, rate) < burst);
                self.tidy_at = (self.callers.len() * 2).max(TIDY_AT);
            }
            self.callers.insert(caller.to_owned(), Tokens { left: burst, at: now });
        }
        let Some(tokens) = self.callers.get_mut(caller) else { return false };
        tokens.left = tokens.by(now, self.rate);
        tokens.at = now;
        let granted = tokens.left >= 1.0;
        if granted {
            tokens.left -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_node_gets_its_burst_then_its_rate_and_others_are_not_touched() {
        let start = Instant::now();
        let mut rates = Rates::new(Rate { burst: 3, per_second: 2 });
        let granted = |rates: &mut Rates, node, after| {
            let now = start + Duration::from_millis(after);
            std::iter::from_fn(|| rates.take(node, now).then_some(())).count()
        };
        assert_eq!(granted(&mut rates, "a", 0), 3);
        assert_eq!(granted(&mut rates, "b", 0), 3);
        assert_eq!(granted(&mut rates, "a", 499), 0);
        assert_eq!(granted(&mut rates, "a", 1_000), 2);
        assert_eq!(granted(&mut rates, "a", 1_000_000), 3);
    }

    #[test]
    fn callers_with_a_full_allowance_are_forgotten_and_others_are_not() {
        let mut now = Instant::now();
        let mut rates = Rates::new(Rate { burst: 1, per_second: 1 });
        for number in 0..5 * TIDY_AT {
            now += Duration::from_millis(1);
            assert!(rates.take(&number.to_string(), now));
            assert!(rates.callers.len() <= 2 * TIDY_AT + 1, "{}", rates.callers.len());
            let recent = number.saturating_sub(900).to_string();
            assert!(!rates.take(&recent, now), "{recent} was forgotten before its allowance was full");
        }
    }
}
