//! How fast one node may ask for certificates: a token bucket for each.

use std::collections::HashMap;
use std::time::Instant;

/// A node's allowance: `burst` requests at once, and `per_second` more each second.
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

/// The allowances of all nodes. Bounded by the number of nodes that have proved themselves.
#[derive(Debug)]
pub(crate) struct Rates {
    rate: Rate,
    nodes: HashMap<String, Tokens>,
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Instant,
}

impl Rates {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, nodes: HashMap::new() }
    }

    /// Takes one request from a node's allowance, if there is one left.
    pub(crate) fn take(&mut self, node: &str, now: Instant) -> bool {
        let burst = f64::from(self.rate.burst);
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.to_owned(), Tokens { left: burst, at: now });
        }
        let Some(tokens) = self.nodes.get_mut(node) else { return false };
        let elapsed = now.saturating_duration_since(tokens.at).as_secs_f64();
        tokens.left = (tokens.left + elapsed * f64::from(self.rate.per_second)).min(burst);
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
}
