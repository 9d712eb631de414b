//! When to ask for which certificate: a state machine without I/O, driven by the proxy's certificate store.
//!
//! A leaf is renewed at a random point between 50 and 70 % of its lifetime, so that nodes that started together do
//! not ask together. What is needed now goes before what will be needed soon, and both before renewals; at most
//! [`IN_FLIGHT`] requests are under way; an identity that fails waits longer each time, alone. A failure takes
//! nothing away: the old leaf serves while it is valid.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weft_model::Identity;

/// How many requests may be under way at once.
pub const IN_FLIGHT: usize = 8;

/// The wait after a first failure, before jitter.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure, before jitter.
const LAST_RETRY: Duration = Duration::from_secs(150);
/// The same while a connection waits for it.
const LAST_RETRY_NEEDED: Duration = Duration::from_secs(10);
/// How long to sleep at most, so that a jump of the clock is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// One reading of both clocks: certificates end by the wall clock, waits run by the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock.
    pub monotonic: Instant,
    /// The wall clock.
    pub wall: SystemTime,
}

/// How urgent a certificate is. Later ones are more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A renewal, while the old leaf is valid.
    Background,
    /// A pod of this identity is here and will need it.
    WarmUp,
    /// A connection waits for it.
    Needed,
}

/// The schedule of all identities on a node.
#[derive(Debug)]
pub struct Renewal {
    identities: HashMap<Identity, Entry>,
    in_flight: HashSet<Identity>,
    arrivals: u64,
    random: StdRng,
}

#[derive(Debug)]
struct Entry {
    wanted: Priority,
    /// Its place among equals.
    arrival: u64,
    leaf: Option<Validity>,
    failures: u32,
    retry_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Validity {
    not_after: SystemTime,
    renew_at: SystemTime,
}

impl Renewal {
    /// An empty schedule. The seed decides the jitter: random in a program, fixed in a test.
    pub fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { identities: HashMap::new(), in_flight: HashSet::new(), arrivals: 0, random }
    }

    /// Wants a certificate from now on until [`Renewal::forget`], or wants it more urgently. Greater urgency cuts
    /// a long wait after failures short, once.
    pub fn want(&mut self, identity: &Identity, priority: Priority, now: Now) {
        if let Some(entry) = self.identities.get_mut(identity) {
            if priority > entry.wanted {
                entry.wanted = priority;
                let soon = now.monotonic + jittered(&mut self.random, FIRST_RETRY);
                entry.retry_at = entry.retry_at.map(|at| at.min(soon));
            }
            return;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        let entry = Entry { wanted: priority, arrival, leaf: None, failures: 0, retry_at: None };
        self.identities.insert(identity.clone(), entry);
    }

    /// No pod of this identity is here any more. A request under way still counts until it ends.
    pub fn forget(&mut self, identity: &Identity) {
        self.identities.remove(identity);
    }

    /// Forgets every identity that `keep` does not name, also those that no leaf came for yet.
    pub fn retain(&mut self, keep: impl Fn(&Identity) -> bool) {
        self.identities.retain(|identity, _| keep(identity));
    }

    /// The authority answers again after an outage: long waits after failures are cut short, spread over a second.
    pub fn authority_is_back(&mut self, now: Now) {
        for entry in self.identities.values_mut() {
            let soon = now.monotonic + FIRST_RETRY.mul_f64(self.random.random_range(0.0..=1.0));
            entry.retry_at = entry.retry_at.map(|at| at.min(soon));
            entry.failures = 0;
        }
    }

    /// What to ask for now, most urgent first. Each ends in [`Renewal::succeeded`] or [`Renewal::failed`].
    pub fn poll(&mut self, now: Now) -> Vec<Identity> {
        let free = IN_FLIGHT.saturating_sub(self.in_flight.len());
        let idle = self.identities.iter().filter(|(identity, _)| !self.in_flight.contains(*identity));
        let mut due: Vec<_> = idle.filter(|(_, entry)| entry.wait(now).is_zero()).collect();
        due.sort_by_key(|(_, entry)| {
            let renew_at = entry.leaf.map_or(SystemTime::UNIX_EPOCH, |leaf| leaf.renew_at);
            (std::cmp::Reverse(entry.priority(now.wall)), renew_at, entry.arrival)
        });
        let due: Vec<_> = due.into_iter().take(free).map(|(identity, _)| identity.clone()).collect();
        self.in_flight.extend(due.iter().cloned());
        due
    }

    /// A leaf with this validity came. `false`: nobody wants it any more, drop it.
    pub fn succeeded(&mut self, identity: &Identity, not_before: SystemTime, not_after: SystemTime) -> bool {
        self.in_flight.remove(identity);
        let lifetime = not_after.duration_since(not_before).unwrap_or_default();
        let renew_at = not_before + lifetime.mul_f64(self.random.random_range(0.5..0.7));
        let Some(entry) = self.identities.get_mut(identity) else { return false };
        entry.leaf = Some(Validity { not_after, renew_at });
        entry.wanted = Priority::Background;
        entry.failures = 0;
        entry.retry_at = None;
        true
    }

    /// The request failed.
    pub fn failed(&mut self, identity: &Identity, now: Now) {
        self.in_flight.remove(identity);
        let Some(entry) = self.identities.get_mut(identity) else { return };
        let needed = entry.priority(now.wall) == Priority::Needed;
        let last = if needed { LAST_RETRY_NEEDED } else { LAST_RETRY };
        let doubled = FIRST_RETRY.saturating_mul(1 << entry.failures.min(16)).min(last);
        entry.failures = entry.failures.saturating_add(1);
        entry.retry_at = Some(now.monotonic + jittered(&mut self.random, doubled));
    }

    /// Whether the identity's leaf is valid.
    pub fn is_valid(&self, identity: &Identity, wall: SystemTime) -> bool {
        self.identities.get(identity).is_some_and(|entry| entry.has_valid_leaf(wall))
    }

    /// How long to sleep before the next [`Renewal::poll`], unless something happens first. `None`: until something
    /// happens (a request ends, an identity is wanted).
    pub fn wait(&self, now: Now) -> Option<Duration> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        let idle = self.identities.iter().filter(|(identity, _)| !self.in_flight.contains(*identity));
        idle.map(|(_, entry)| entry.wait(now)).min().map(|wait| wait.min(LONGEST_SLEEP))
    }
}

impl Entry {
    fn has_valid_leaf(&self, wall: SystemTime) -> bool {
        self.leaf.is_some_and(|leaf| wall < leaf.not_after)
    }

    /// With a valid leaf nothing is urgent; without one, a pod that is here is worse off than a renewal.
    fn priority(&self, wall: SystemTime) -> Priority {
        if self.has_valid_leaf(wall) { Priority::Background } else { self.wanted.max(Priority::WarmUp) }
    }

    /// How long until it may and should be asked for.
    fn wait(&self, now: Now) -> Duration {
        let due = self.leaf.and_then(|leaf| leaf.renew_at.duration_since(now.wall).ok());
        let retry = self.retry_at.map(|at| at.saturating_duration_since(now.monotonic));
        due.unwrap_or_default().max(retry.unwrap_or_default())
    }
}

/// Between half of a wait and all of it.
fn jittered(random: &mut StdRng, wait: Duration) -> Duration {
    wait.mul_f64(random.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests;
