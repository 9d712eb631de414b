//! Which statuses are to be written next. Knows the time only from its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_runtime::backoff::Backoff;

use super::{Wanted, due};
use crate::inputs::{Head, ObjectId};
use crate::translate::status::Status;

/// Waits after failures: the first and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The same status is written this often at once,
const FREELY: u32 = 5;
/// unless it has been left alone for this long in between.
const PEACE: Duration = Duration::from_secs(60);
/// What is waited for when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// One status to be written.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) head: Arc<Head>,
    /// Our part; `None` if nothing of ours should be there.
    pub(super) ours: Option<Status>,
    /// What stands there as far as is known, and of which resource version.
    pub(super) current: Value,
    pub(super) version: String,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) enum Done {
    /// It was so already.
    Equal,
    /// Written; this is what stands there now.
    Written {
        /// The object's resource version.
        version: String,
        /// Its status.
        status: Value,
    },
    /// The object that was judged is not there any more, or not as it was.
    Gone,
    /// Not written.
    Failed {
        /// Why not.
        why: String,
        /// Whether other statuses would fail as well.
        everywhere: bool,
    },
}

/// What was written on top of a version that the watch has shown. It counts until the watch shows another.
#[derive(Debug)]
struct Written {
    upon: String,
    version: String,
    status: Value,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    backoff: Backoff,
}

impl Retry {
    fn new(at: Instant) -> Self {
        Self { at, backoff: Backoff::new(WAITS.0, WAITS.1) }
    }

    /// Puts the next try off.
    fn put_off(&mut self, now: Instant) -> Duration {
        let delay = self.backoff.next_delay();
        self.at = now + delay;
        delay
    }
}

/// A status that was written and might have to be written again and again, since somebody undoes it.
#[derive(Debug)]
struct Repeated {
    ours: Option<Status>,
    times: u32,
    last: Instant,
    next: Retry,
}

/// The statuses to be written.
#[derive(Debug)]
pub(super) struct Queue {
    wanted: Wanted,
    /// To be looked at.
    pending: BTreeSet<ObjectId>,
    /// Being written.
    writing: BTreeSet<ObjectId>,
    written: BTreeMap<ObjectId, Written>,
    failed: BTreeMap<ObjectId, Retry>,
    repeated: BTreeMap<ObjectId, Repeated>,
    /// Nothing is written before this.
    paused: Option<Instant>,
    pauses: Backoff,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            pending: BTreeSet::new(),
            writing: BTreeSet::new(),
            written: BTreeMap::new(),
            failed: BTreeMap::new(),
            repeated: BTreeMap::new(),
            paused: None,
            pauses: Backoff::new(WAITS.0, WAITS.1),
        }
    }
}

impl Queue {
    /// Takes over what is wanted now. Only what differs from before is looked at.
    pub(super) fn update(&mut self, wanted: Wanted) {
        for (name, head) in &*wanted.objects {
            let known = self.wanted.objects.get(name).is_some_and(|before| Arc::ptr_eq(before, head));
            if !known || self.wanted.statuses.get(name) != wanted.statuses.get(name) {
                self.pending.insert(name.clone());
                self.failed.remove(name);
            }
        }
        let there = |name: &ObjectId| wanted.objects.contains_key(name);
        self.pending.retain(there);
        self.written.retain(|name, _| there(name));
        self.failed.retain(|name, _| there(name));
        self.repeated.retain(|name, _| there(name));
        self.wanted = wanted;
    }

    /// How many are to be looked at or being written.
    pub(super) fn len(&self) -> usize {
        self.pending.len() + self.writing.len()
    }

    /// The next that is to be written now.
    pub(super) fn take(&mut self, now: Instant) -> Option<Job> {
        if self.paused.is_some_and(|until| now < until) {
            return None;
        }
        loop {
            let waits = |name: &ObjectId| self.not_before(name).is_some_and(|at| now < at);
            let ready = |name: &&ObjectId| !self.writing.contains(*name) && !waits(name);
            let name = self.pending.iter().find(ready)?.clone();
            self.pending.remove(&name);
            if let Some(job) = self.job(&name) {
                self.writing.insert(name);
                return Some(job);
            }
        }
    }

    fn not_before(&self, name: &ObjectId) -> Option<Instant> {
        let failed = self.failed.get(name).map(|retry| retry.at);
        let same = |repeated: &&Repeated| repeated.ours.as_ref() == self.wanted.statuses.get(name);
        failed.max(self.repeated.get(name).filter(same).map(|repeated| repeated.next.at))
    }

    fn job(&self, name: &ObjectId) -> Option<Job> {
        let head = self.wanted.objects.get(name)?;
        let ours = self.wanted.statuses.get(name);
        // Of a spec that is not the newest there is nothing to be said: its judgement is under way.
        let mut conditions = ours.into_iter().flat_map(Status::conditions);
        if conditions.any(|condition| condition.observed_generation != head.generation) {
            return None;
        }
        let (current, version) = match self.written.get(name) {
            Some(written) if written.upon == head.resource_version => (&written.status, &written.version),
            _ => (&head.status, &head.resource_version),
        };
        due(head.id.kind, current, ours, "")?;
        Some(Job {
            head: Arc::clone(head),
            ours: ours.cloned(),
            current: current.clone(),
            version: version.clone(),
        })
    }

    /// Takes note of what became of a job.
    pub(super) fn done(&mut self, job: &Job, done: Done, now: Instant) {
        let name = &job.head.id;
        self.writing.remove(name);
        match done {
            Done::Failed { why, everywhere } => {
                self.pending.insert(name.clone());
                let delay = if everywhere {
                    let delay = self.pauses.next_delay();
                    self.paused = Some(now + delay);
                    delay
                } else {
                    self.failed.entry(name.clone()).or_insert_with(|| Retry::new(now)).put_off(now)
                };
                tracing::warn!(object = %name, why, ?delay, "a status could not be written; trying again");
            }
            done => {
                self.pauses.reset();
                self.paused = None;
                self.failed.remove(name);
                if let Done::Written { version, status } = done {
                    tracing::debug!(object = %name, "wrote a status");
                    let upon = job.head.resource_version.clone();
                    self.written.insert(name.clone(), Written { upon, version, status });
                    self.note_repetition(job, now);
                }
            }
        }
    }

    /// Another controller that writes the whole list without ours must not be answered as fast as it writes.
    fn note_repetition(&mut self, job: &Job, now: Instant) {
        let fresh = || Repeated { ours: job.ours.clone(), times: 0, last: now, next: Retry::new(now) };
        let repeated = self.repeated.entry(job.head.id.clone()).or_insert_with(fresh);
        if repeated.ours != job.ours || now.saturating_duration_since(repeated.last) > PEACE {
            *repeated = fresh();
        }
        repeated.times += 1;
        repeated.last = now;
        if repeated.times > FREELY {
            let delay = repeated.next.put_off(now);
            tracing::warn!(
                object = %job.head.id, times = repeated.times, ?delay,
                "somebody else keeps undoing what is written into this status: it should leave entries of other \
                 controllers alone; going slowly"
            );
        }
    }

    /// How long nothing will be due, if nothing happens.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let idle = self.pending.iter().filter(|name| !self.writing.contains(*name));
        let retries = idle.filter_map(|name| self.not_before(name));
        let next = match self.paused.filter(|until| now < *until) {
            Some(until) => Some(until),
            None => retries.min(),
        };
        next.map_or(IDLE, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inputs::{Inputs, Object};
    use crate::kubernetes::tests::{mesh, route, service};
    use crate::translate::translate;

    /// What is wanted when the route stands in this version with this status.
    fn wanted(version: u32, weight: i64, generation: i64, status: &Value) -> Wanted {
        let mut object = route("cart", weight);
        object["metadata"]["generation"] = generation.into();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        object["status"] = status.clone();
        let mut inputs = Inputs::new(mesh());
        for json in [service("cart"), object] {
            inputs.insert(&Object::decode(json).unwrap());
        }
        Wanted { statuses: Arc::new(translate(&inputs).statuses), objects: Arc::new(inputs.heads()) }
    }

    fn written(job: &Job, version: u32) -> Done {
        let due = due(job.head.id.kind, &job.current, job.ours.as_ref(), "now").unwrap();
        Done::Written { version: version.to_string(), status: due.whole }
    }

    #[test]
    fn what_was_written_counts_until_the_watch_shows_something_newer() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.update(wanted(1, 1, 1, &Value::Null));
        let job = queue.take(now).unwrap();
        assert!(queue.take(now).is_none(), "it is being written");
        queue.done(&job, written(&job, 2), now);
        // The watch is behind.
        queue.update(wanted(1, 1, 1, &Value::Null));
        assert!(queue.take(now).is_none());
        queue.update(wanted(3, 1, 1, &json!({"parents": []})));
        assert!(queue.take(now).is_some(), "somebody has removed it");
    }

    #[test]
    fn status_that_somebody_keeps_undoing_is_written_ever_more_slowly() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        for version in 1..=FREELY + 1 {
            queue.update(wanted(version * 10, 1, 1, &Value::Null));
            let job = queue.take(now).unwrap();
            queue.done(&job, written(&job, version * 10 + 1), now);
        }
        queue.update(wanted(100, 1, 1, &Value::Null));
        assert!(queue.take(now).is_none());
        now += queue.wait(now);
        let job = queue.take(now).unwrap();
        queue.done(&job, written(&job, 101), now);
        queue.update(wanted(110, 1, 1, &Value::Null));
        assert!(queue.wait(now) > Duration::ZERO && queue.take(now).is_none());
        // What is new to say does not wait.
        queue.update(wanted(111, 2, 2, &Value::Null));
        let job = queue.take(now).unwrap();
        queue.done(&job, written(&job, 112), now);
        queue.update(wanted(113, 2, 2, &Value::Null));
        now += PEACE * 2;
        let job = queue.take(now).unwrap();
        queue.done(&job, written(&job, 114), now);
        queue.update(wanted(120, 2, 2, &Value::Null));
        assert!(queue.take(now).is_some(), "it was left alone for long");
    }

    #[test]
    fn trouble_with_the_server_holds_everything_up_and_with_an_object_only_that() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.update(wanted(1, 1, 1, &Value::Null));
        let job = queue.take(now).unwrap();
        queue.done(&job, Done::Failed { why: "503".into(), everywhere: true }, now);
        assert!(queue.take(now).is_none() && queue.wait(now) <= WAITS.0);
        let job = queue.take(now + WAITS.0).unwrap();
        queue.done(&job, Done::Failed { why: "422".into(), everywhere: false }, now);
        assert!(queue.take(now + WAITS.0 / 4).is_none());
        // Another spec is another try.
        queue.update(wanted(2, 2, 2, &Value::Null));
        assert!(queue.take(now + WAITS.0).is_some());
    }

    #[test]
    fn judgement_of_an_older_spec_is_not_written() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let (old, new) = (wanted(1, 1, 1, &Value::Null), wanted(2, 2, 2, &Value::Null));
        queue.update(Wanted { statuses: old.statuses, objects: Arc::clone(&new.objects) });
        assert!(queue.take(now).is_none());
        queue.update(new);
        assert!(queue.take(now).is_some());
    }
}
