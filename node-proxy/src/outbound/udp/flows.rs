//! The flows of one socket: who talks to whom, for how long nothing has been heard, and which one goes when there are too
//! many. Knows no sockets and no clock: it is given the time.

use std::net::SocketAddr;
use std::time::Duration;

use ahash::HashMap;
use tokio::time::Instant;

/// A flow of which only the client was heard, or both once, ends after so long without a datagram (as Linux's connection
/// tracking has it).
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// A flow that went to and fro ends after so long.
pub(super) const IDLE_ASSURED: Duration = Duration::from_secs(120);

/// What tells flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The client's address and port.
    pub(crate) client: SocketAddr,
    /// Where the client sends to.
    pub(crate) original: SocketAddr,
}

/// What a flow says of its way back.
pub(super) trait Answers {
    /// When the last answer came, if one did.
    fn last_answer(&self) -> Option<Instant>;
}

/// The flows.
#[derive(Debug)]
pub(super) struct Flows<T> {
    flows: HashMap<Key, Entry<T>>,
    limit: usize,
}

#[derive(Debug)]
struct Entry<T> {
    flow: T,
    heard: Instant,
    datagrams: u64,
}

impl<T: Answers> Flows<T> {
    /// At most `limit` at a time.
    pub(super) fn new(limit: usize) -> Self {
        Self { flows: HashMap::default(), limit: limit.max(1) }
    }

    /// The flow that a datagram of the client belongs to.
    pub(super) fn heard(&mut self, key: &Key, now: Instant) -> Option<&mut T> {
        let entry = self.flows.get_mut(key)?;
        entry.heard = now;
        entry.datagrams += 1;
        Some(&mut entry.flow)
    }

    /// Begins a flow with its first datagram. Returns the one that has to go for it: that of the same key, or, where there
    /// are too many, the one of which nothing was heard for longest.
    pub(super) fn begin(&mut self, key: Key, flow: T, now: Instant) -> Option<T> {
        let oldest = || self.flows.iter().min_by_key(|(_, entry)| entry.last()).map(|(key, _)| *key);
        let full = self.flows.len() >= self.limit && !self.flows.contains_key(&key);
        let gone = full.then(oldest).flatten().and_then(|oldest| self.flows.remove(&oldest));
        let same = self.flows.insert(key, Entry { flow, heard: now, datagrams: 1 });
        gone.or(same).map(|entry| entry.flow)
    }

    /// Takes out a flow.
    pub(super) fn end(&mut self, key: &Key) -> Option<T> {
        self.flows.remove(key).map(|entry| entry.flow)
    }

    /// Takes out those that have been silent for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        self.flows.extract_if(|_, entry| entry.ends() <= now).map(|(_, entry)| entry.flow).collect()
    }

    /// Takes out all.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.flows.drain().map(|(_, entry)| entry.flow).collect()
    }
}

impl<T: Answers> Entry<T> {
    fn last(&self) -> Instant {
        self.flow.last_answer().map_or(self.heard, |answer| answer.max(self.heard))
    }

    fn ends(&self) -> Instant {
        let assured = self.datagrams > 1 && self.flow.last_answer().is_some();
        self.last() + if assured { IDLE_ASSURED } else { IDLE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Flow(&'static str, Option<Instant>);

    impl Answers for Flow {
        fn last_answer(&self) -> Option<Instant> {
            self.1
        }
    }

    fn key(port: u16) -> Key {
        Key { client: ([10, 0, 0, 1], port).into(), original: ([10, 96, 0, 1], 53).into() }
    }

    fn names(flows: Vec<Flow>) -> Vec<&'static str> {
        flows.into_iter().map(|flow| flow.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flow_ends_when_neither_side_was_heard_for_the_idle_time() {
        let (mut flows, start) = (Flows::new(10), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        flows.begin(key(1), Flow("silent", None), start);
        flows.begin(key(2), Flow("asks", None), start);
        flows.begin(key(3), Flow("answered", Some(after(10))), start);
        assert!(flows.heard(&key(2), after(20)).is_some());
        assert_eq!(names(flows.expire(after(29))), [""; 0]);
        assert_eq!(names(flows.expire(after(30))), ["silent"]);
        assert_eq!(names(flows.expire(after(39))), [""; 0]);
        assert_eq!(names(flows.expire(after(40))), ["answered"]);
        assert_eq!(names(flows.expire(after(50))), ["asks"]);
        assert!(flows.heard(&key(2), after(51)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_went_to_and_fro_is_kept_longer() {
        let (mut flows, start) = (Flows::new(10), Instant::now());
        flows.begin(key(1), Flow("talks", None), start);
        flows.heard(&key(1), start).unwrap().1 = Some(start);
        assert_eq!(names(flows.expire(start + IDLE_ASSURED - Duration::from_secs(1))), [""; 0]);
        assert_eq!(names(flows.expire(start + IDLE_ASSURED)), ["talks"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_silent_one_makes_room() {
        let (mut flows, start) = (Flows::new(2), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(flows.begin(key(1), Flow("a", Some(after(3))), start), None);
        assert_eq!(flows.begin(key(2), Flow("b", None), after(1)), None);
        assert_eq!(flows.begin(key(3), Flow("c", None), after(4)).map(|flow| flow.0), Some("b"));
        assert_eq!(
            flows.begin(key(3), Flow("d", None), after(5)).map(|flow| flow.0),
            Some("c"),
            "the same flow anew"
        );
        assert_eq!(flows.clear().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn flows_differ_by_client_and_by_where_it_sends() {
        let (mut flows, now) = (Flows::new(9), Instant::now());
        flows.begin(key(1), Flow("a", None), now);
        let other = Key { original: ([10, 96, 0, 2], 53).into(), ..key(1) };
        assert!(flows.heard(&other, now).is_none() && flows.heard(&key(2), now).is_none());
        assert_eq!(flows.end(&key(1)).map(|flow| flow.0), Some("a"));
        assert!(flows.heard(&key(1), now).is_none());
    }
}
