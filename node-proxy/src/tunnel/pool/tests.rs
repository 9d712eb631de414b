//! The pools' rules, without connections and without sleeping.

use super::*;

#[derive(Clone, Debug, Default)]
struct Fake {
    id: u32,
    busy: Rc<Cell<bool>>,
    closed: Rc<Cell<bool>>,
}

impl Pooled for Fake {
    fn is_ready(&self) -> bool {
        !self.busy.get() && !self.closed.get()
    }
    fn is_closed(&self) -> bool {
        self.closed.get()
    }
}

fn fake(id: u32) -> Fake {
    Fake { id, ..Fake::default() }
}

const BOUNDS: Bounds = Bounds { per_key: 2, total: 3, idle: Duration::from_secs(5) };

#[test]
fn the_connection_used_last_is_used_first() {
    let (mut pool, now, open) = (Idle::new(BOUNDS), Instant::now(), CancellationToken::new());
    pool.put("a", fake(1), &open, now);
    pool.put("a", fake(2), &open, now);
    assert_eq!(pool.take(&"a", now).unwrap().id, 2);
    assert_eq!(pool.take(&"a", now).unwrap().id, 1);
    assert!(pool.take(&"a", now).is_none());
    assert_eq!(pool.len(), 0);
}

#[test]
fn a_connection_is_never_given_to_another_key() {
    let (mut pool, now, open) = (Idle::new(BOUNDS), Instant::now(), CancellationToken::new());
    pool.put("a", fake(1), &open, now);
    assert!(pool.take(&"b", now).is_none());
}

#[test]
fn pools_are_bounded_per_key_and_in_all() {
    let (mut pool, now, open) = (Idle::new(BOUNDS), Instant::now(), CancellationToken::new());
    for id in 0..5 {
        pool.put("a", fake(id), &open, now);
    }
    assert_eq!(pool.len(), 2);
    pool.put("b", fake(5), &open, now);
    pool.put("b", fake(6), &open, now);
    assert_eq!(pool.len(), 3);
}

#[test]
fn an_old_closed_or_busy_connection_is_not_used() {
    let (mut pool, now, open) = (Idle::new(BOUNDS), Instant::now(), CancellationToken::new());
    let (busy, closed) = (fake(1), fake(2));
    pool.put("a", busy.clone(), &open, now);
    pool.put("a", closed.clone(), &open, now);
    busy.busy.set(true);
    closed.closed.set(true);
    assert!(pool.take(&"a", now).is_none());
    busy.busy.set(false);
    assert_eq!(pool.take(&"a", now).unwrap().id, 1);
    pool.put("a", fake(3), &open, now);
    assert!(pool.take(&"a", now + BOUNDS.idle).is_none());
}

#[test]
fn expiry_empties_the_pool_and_a_closing_pod_keeps_nothing() {
    let (mut pool, now, pod) = (Idle::new(BOUNDS), Instant::now(), CancellationToken::new());
    pool.put("a", fake(1), &pod, now);
    pool.expire(now + Duration::from_secs(4));
    assert_eq!(pool.len(), 1);
    pool.expire(now + BOUNDS.idle);
    assert_eq!(pool.len(), 0);
    pool.put("a", fake(2), &pod, now);
    pod.cancel();
    assert!(pool.take(&"a", now).is_none());
    pool.put("a", fake(3), &pod, now);
    assert_eq!(pool.len(), 0);
}

#[test]
fn a_full_connection_is_left_for_another() {
    let (mut pool, now, open) =
        (Shared::new(2, Duration::from_secs(5)), Instant::now(), CancellationToken::new());
    pool.add("a", fake(1), &open, now);
    let (first, _second) = (pool.take(&"a").unwrap(), pool.take(&"a").unwrap());
    assert!(pool.take(&"a").is_none());
    pool.add("a", fake(2), &open, now);
    assert_eq!(pool.take(&"a").unwrap().connection.sender.id, 2);
    drop(first);
    assert_eq!(pool.take(&"a").unwrap().connection.sender.id, 1);
}

#[test]
fn a_busy_connection_does_not_expire_and_a_forgotten_one_is_not_used() {
    let (mut pool, now, open) =
        (Shared::new(2, Duration::from_secs(5)), Instant::now(), CancellationToken::new());
    pool.add("a", fake(1), &open, now);
    let lease = pool.take(&"a").unwrap();
    pool.expire(now + Duration::from_secs(60));
    assert_eq!(pool.len(), 1);
    pool.forget(&"a", &lease.connection);
    assert!(pool.take(&"a").is_none());
    pool.add("a", fake(2), &open, now);
    pool.expire(now + Duration::from_secs(5));
    assert_eq!(pool.len(), 0);
}

#[test]
fn a_closing_pod_still_gets_a_place_and_keeps_nothing_unused() {
    let (mut pool, now, pod) =
        (Shared::new(2, Duration::from_secs(5)), Instant::now(), CancellationToken::new());
    pod.cancel();
    pool.add("a", fake(1), &pod, now);
    let lease = pool.take(&"a").unwrap();
    pool.expire(now);
    assert_eq!(pool.len(), 1, "it is in use");
    drop(lease);
    pool.expire(now);
    assert_eq!(pool.len(), 0);
}
