//! The schedule, table by table, on clocks that the test moves.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Clocks that go only when told.
#[derive(Clone, Copy)]
struct Clock {
    start: Instant,
    wall: SystemTime,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now(), wall: SystemTime::UNIX_EPOCH + HOUR * 400_000 }
    }

    fn at(self, after: Duration) -> Now {
        Now { monotonic: self.start + after, wall: self.wall + after }
    }
}

fn identity(name: &str) -> Identity {
    format!("spiffe://td/ns/n/sa/{name}").parse().unwrap()
}

fn names(identities: &[Identity]) -> Vec<&str> {
    identities.iter().map(|identity| &*identity.service_account).collect()
}

#[test]
fn what_is_needed_goes_before_warm_up_and_warm_up_before_renewal() {
    let clock = Clock::new();
    let mut renewal = Renewal::new(1);
    renewal.want(&identity("renewed"), Priority::Needed, clock.at(Duration::ZERO));
    assert_eq!(names(&renewal.poll(clock.at(Duration::ZERO))), ["renewed"]);
    renewal.succeeded(&identity("renewed"), clock.wall, clock.wall + HOUR);
    let later = clock.at(HOUR * 8 / 10);
    renewal.want(&identity("warm-1"), Priority::WarmUp, later);
    renewal.want(&identity("warm-2"), Priority::WarmUp, later);
    renewal.want(&identity("raised"), Priority::WarmUp, later);
    renewal.want(&identity("needed"), Priority::Needed, later);
    renewal.want(&identity("raised"), Priority::Needed, later);
    assert_eq!(names(&renewal.poll(later)), ["raised", "needed", "warm-1", "warm-2", "renewed"]);
}

#[test]
fn renewal_falls_between_half_and_seven_tenths_of_the_lifetime_and_is_spread() {
    let clock = Clock::new();
    let mut dues = Vec::new();
    for seed in 0..200 {
        let mut renewal = Renewal::new(seed);
        renewal.want(&identity("a"), Priority::WarmUp, clock.at(Duration::ZERO));
        renewal.poll(clock.at(Duration::ZERO));
        renewal.succeeded(&identity("a"), clock.wall, clock.wall + HOUR);
        let due = (0..3600).find(|second| !renewal.poll(clock.at(Duration::from_secs(*second))).is_empty());
        dues.push(due.unwrap());
    }
    assert!(dues.iter().all(|due| (1800..=2520).contains(due)), "{dues:?}");
    let early = dues.iter().filter(|due| **due < 2160).count();
    assert!((60..140).contains(&early), "not spread: {early} of 200 in the first half");
}

#[test]
fn at_most_eight_are_in_flight_and_an_answer_makes_room() {
    let clock = Clock::new();
    let now = clock.at(Duration::ZERO);
    let mut renewal = Renewal::new(1);
    for index in 0..20 {
        renewal.want(&identity(&format!("i{index}")), Priority::WarmUp, now);
    }
    let first = renewal.poll(now);
    assert_eq!(first.len(), IN_FLIGHT);
    assert_eq!((renewal.poll(now).len(), renewal.wait(now)), (0, None));
    renewal.failed(&first[0], now);
    renewal.succeeded(&first[1], clock.wall, clock.wall + HOUR);
    assert_eq!(renewal.wait(now), Some(Duration::ZERO));
    assert_eq!(names(&renewal.poll(now)), ["i8", "i9"]);
}

#[test]
fn waits_after_failures_double_to_a_limit_with_jitter_and_alone() {
    let clock = Clock::new();
    let mut renewal = Renewal::new(7);
    let mut elapsed = Duration::ZERO;
    renewal.want(&identity("a"), Priority::WarmUp, clock.at(elapsed));
    for expected in [1, 2, 4, 8, 16, 32, 64, 128, 150, 150] {
        let now = clock.at(elapsed);
        assert_eq!(names(&renewal.poll(now)), ["a"]);
        renewal.failed(&identity("a"), now);
        let other = identity(&format!("other-{expected}-{}", elapsed.as_millis()));
        let mut wait = Duration::ZERO;
        while renewal.poll(clock.at(elapsed + wait)).is_empty() {
            wait += Duration::from_millis(50);
        }
        renewal.in_flight.clear();
        let bounds = Duration::from_secs(expected).mul_f64(0.5)..=Duration::from_millis(expected * 1000 + 50);
        assert!(bounds.contains(&wait), "{wait:?} is not in {bounds:?}");
        renewal.want(&other, Priority::WarmUp, now);
        assert_eq!(renewal.wait(now), Some(Duration::ZERO), "another identity waits with it");
        renewal.forget(&other);
        elapsed += wait;
    }
}

#[test]
fn a_failed_renewal_keeps_the_leaf_until_it_ends_and_is_then_urgent() {
    let clock = Clock::new();
    let mut renewal = Renewal::new(3);
    let a = identity("a");
    renewal.want(&a, Priority::Needed, clock.at(Duration::ZERO));
    renewal.poll(clock.at(Duration::ZERO));
    renewal.succeeded(&a, clock.wall, clock.wall + HOUR);
    let late = clock.at(HOUR * 9 / 10);
    assert_eq!(names(&renewal.poll(late)), ["a"]);
    renewal.failed(&a, late);
    assert!(renewal.is_valid(&a, late.wall));
    let ended = clock.at(HOUR);
    assert!(!renewal.is_valid(&a, ended.wall));
    renewal.want(&identity("new"), Priority::WarmUp, ended);
    renewal.want(&a, Priority::Needed, ended);
    assert_eq!(names(&renewal.poll(ended)), ["a", "new"]);
}

#[test]
fn greater_urgency_cuts_a_long_wait_short_but_only_once() {
    let clock = Clock::new();
    let mut renewal = Renewal::new(5);
    let a = identity("a");
    let now = clock.at(Duration::ZERO);
    renewal.want(&a, Priority::WarmUp, now);
    for _ in 0..10 {
        renewal.failed(&a, now);
    }
    assert_eq!(renewal.wait(now), Some(LONGEST_SLEEP));
    renewal.want(&a, Priority::Needed, now);
    let cut = renewal.wait(now).unwrap();
    assert!((Duration::from_millis(500)..=FIRST_RETRY).contains(&cut), "{cut:?}");
    renewal.failed(&a, now);
    renewal.want(&a, Priority::Needed, now);
    let again = renewal.wait(now).unwrap();
    assert!((LAST_RETRY_NEEDED / 2..=LAST_RETRY_NEEDED).contains(&again), "{again:?}");
}

#[test]
fn a_jump_of_the_wall_clock_makes_a_leaf_due() {
    let clock = Clock::new();
    let mut renewal = Renewal::new(1);
    let now = clock.at(Duration::ZERO);
    renewal.want(&identity("a"), Priority::WarmUp, now);
    renewal.poll(now);
    renewal.succeeded(&identity("a"), clock.wall, clock.wall + HOUR);
    assert_eq!(renewal.wait(now), Some(LONGEST_SLEEP));
    let jumped = Now { monotonic: now.monotonic, wall: clock.wall + HOUR * 2 };
    assert_eq!(renewal.wait(jumped), Some(Duration::ZERO));
    assert_eq!(names(&renewal.poll(jumped)), ["a"]);
}

#[test]
fn a_forgotten_identity_is_not_asked_for_and_its_late_leaf_is_dropped() {
    let clock = Clock::new();
    let now = clock.at(Duration::ZERO);
    let mut renewal = Renewal::new(1);
    renewal.want(&identity("a"), Priority::Needed, now);
    renewal.poll(now);
    renewal.forget(&identity("a"));
    assert_eq!(renewal.wait(now), None);
    renewal.want(&identity("a"), Priority::Needed, now);
    assert!(renewal.poll(now).is_empty(), "asked twice at once");
    assert!(renewal.succeeded(&identity("a"), clock.wall, clock.wall + HOUR));
    renewal.forget(&identity("a"));
    assert!(!renewal.succeeded(&identity("a"), clock.wall, clock.wall + HOUR));
}

#[test]
fn when_the_authority_is_back_nobody_waits_longer_than_a_second() {
    let clock = Clock::new();
    let now = clock.at(Duration::ZERO);
    let mut renewal = Renewal::new(9);
    for name in ["a", "b"] {
        renewal.want(&identity(name), Priority::WarmUp, now);
        for _ in 0..10 {
            renewal.failed(&identity(name), now);
        }
    }
    assert!(renewal.poll(clock.at(FIRST_RETRY)).is_empty());
    renewal.authority_is_back(now);
    assert_eq!(renewal.poll(clock.at(FIRST_RETRY)).len(), 2);
}

#[test]
fn identities_that_left_before_a_leaf_came_are_not_asked_for_again() {
    let clock = Clock::new();
    let now = clock.at(Duration::ZERO);
    let mut renewal = Renewal::new(9);
    renewal.want(&identity("here"), Priority::WarmUp, now);
    renewal.want(&identity("gone"), Priority::WarmUp, now);
    renewal.retain(|identity| &*identity.service_account == "here");
    assert_eq!(names(&renewal.poll(now)), ["here"]);
}
