//! When to take and renew a lease. Clocks of different machines are never compared: a lease has run out when nobody has
//! written to it for as long as it says, by this machine's clock.

use std::time::Duration;

use rand::Rng as _;
use tokio::time::Instant;

/// The times of an election.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a lease is kept for a holder that says nothing more.
    pub(super) duration: Duration,
    /// How long a holder believes that it leads without having renewed. Less than `duration`, so that one stops before
    /// the next begins.
    deadline: Duration,
    /// How often the lease is looked at and, by its holder, renewed.
    round: Duration,
}

impl Times {
    /// Those of Kubernetes' own controllers.
    pub(super) const USUAL: Self = Self {
        duration: Duration::from_secs(15),
        deadline: Duration::from_secs(10),
        round: Duration::from_secs(2),
    };
    /// A tenth of that.
    #[cfg(test)]
    pub(super) const SHORT: Self = Self {
        duration: Duration::from_millis(1500),
        deadline: Duration::from_millis(1000),
        round: Duration::from_millis(200),
    };
}

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Who holds it; empty for nobody.
    pub(super) holder: String,
    /// Differs after every write.
    pub(super) version: String,
    /// How long it is kept for a silent holder.
    pub(super) duration: Option<Duration>,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Leave it to its holder.
    Nothing,
    /// It is ours: renew it.
    Renew,
    /// It is nobody's any more: take it.
    Take,
}

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    me: String,
    times: Times,
    /// The version last seen, and when it was first seen.
    seen: Option<(String, Instant)>,
    /// When the last write began that made or kept us the holder.
    held: Option<Instant>,
}

impl Election {
    pub(super) fn new(me: String, times: Times) -> Self {
        Self { me, times, seen: None, held: None }
    }

    /// Judges what the lease says now; `None`: there is none.
    pub(super) fn look(&mut self, record: Option<&Record>, now: Instant) -> Wish {
        let Some(record) = record else { return Wish::Take };
        let since = match &self.seen {
            Some((version, since)) if *version == record.version => *since,
            _ => {
                self.seen = Some((record.version.clone(), now));
                now
            }
        };
        if record.holder == self.me {
            return Wish::Renew;
        }
        self.held = None;
        let ended = now.saturating_duration_since(since) >= record.duration.unwrap_or(self.times.duration);
        if record.holder.is_empty() || ended { Wish::Take } else { Wish::Nothing }
    }

    /// A write that began at `began` made us the holder.
    pub(super) fn holds(&mut self, began: Instant) {
        self.held = Some(began);
    }

    /// Whether this candidate leads.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.left(now).is_some()
    }

    /// How long it leads without a further renewal; `None` if it does not.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.held.map(|held| (held + self.times.deadline).saturating_duration_since(now));
        left.filter(|left| !left.is_zero())
    }

    /// How long to wait before the next look. Those who do not lead look at different times.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        match self.left(now) {
            Some(left) => left.min(self.times.round),
            None => self.times.round.mul_f64(rand::rng().random_range(0.7..1.3)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Times::USUAL.duration;
    const DEADLINE: Duration = Times::USUAL.deadline;
    const ROUND: Duration = Times::USUAL.round;

    fn election(me: &str) -> Election {
        Election::new(me.into(), Times::USUAL)
    }

    fn record(holder: &str, version: &str) -> Record {
        Record { holder: holder.into(), version: version.into(), duration: Some(DURATION) }
    }

    #[test]
    fn free_lease_is_taken_at_once_and_a_held_one_only_after_its_silence() {
        let (mut one, t) = (election("one"), Instant::now());
        assert_eq!(one.look(None, t), Wish::Take);
        assert_eq!(one.look(Some(&record("", "1")), t), Wish::Take);
        assert_eq!(one.look(Some(&record("two", "2")), t), Wish::Nothing);
        assert_eq!(one.look(Some(&record("two", "2")), t + DURATION - ROUND), Wish::Nothing);
        // The holder has written: it lives.
        assert_eq!(one.look(Some(&record("two", "3")), t + DURATION), Wish::Nothing);
        assert_eq!(one.look(Some(&record("two", "3")), t + DURATION * 2), Wish::Take);
    }

    #[test]
    fn holder_stops_leading_before_another_may_begin() {
        let (mut one, mut two, t) = (election("one"), election("two"), Instant::now());
        one.holds(t);
        let held = record("one", "1");
        assert_eq!(two.look(Some(&held), t), Wish::Nothing);
        let mut at = t;
        while two.look(Some(&held), at) == Wish::Nothing {
            at += Duration::from_millis(100);
        }
        assert!(one.leads(t + DEADLINE - ROUND));
        assert!(!one.leads(at));
        // It goes on standing, with all the time that a call may take.
        assert_eq!(one.left(at), None);
        assert_eq!(one.look(Some(&held), at), Wish::Renew);
        assert_eq!(at, t + DURATION);
    }

    #[test]
    fn holder_renews_and_knows_when_it_is_not_the_holder_any_more() {
        let (mut one, t) = (election("one"), Instant::now());
        one.holds(t);
        assert_eq!(one.look(Some(&record("one", "1")), t + ROUND), Wish::Renew);
        assert!(one.leads(t + ROUND));
        assert!(one.pause(t) <= ROUND);
        assert_eq!(one.look(Some(&record("two", "2")), t + ROUND), Wish::Nothing);
        assert!(!one.leads(t + ROUND));
    }
}
