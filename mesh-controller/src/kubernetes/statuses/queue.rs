//! Which statuses are to be written next. Knows the time only from its caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_runtime::backoff::Backoff;

use super::{Wanted, due};
use crate::inputs::{Route, RouteName};
use crate::translate::status::RouteStatus;

/// Waits after failures: the first and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// What is waited for when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// One status to be written.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) route: Arc<Route>,
    /// Our part; `None` if nothing of ours should be there.
    pub(super) ours: Option<RouteStatus>,
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

/// The statuses to be written.
#[derive(Debug)]
pub(super) struct Queue {
    wanted: Wanted,
    /// To be looked at.
    pending: BTreeSet<RouteName>,
    /// Being written.
    writing: BTreeSet<RouteName>,
    written: BTreeMap<RouteName, Written>,
    failed: BTreeMap<RouteName, Retry>,
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
            paused: None,
            pauses: Backoff::new(WAITS.0, WAITS.1),
        }
    }
}

impl Queue {
    /// Takes over what is wanted now. Only what differs from before is looked at.
    pub(super) fn update(&mut self, wanted: Wanted) {
        for (name, route) in &*wanted.routes {
            let known = self.wanted.routes.get(name).is_some_and(|before| Arc::ptr_eq(before, route));
            if !known || self.wanted.statuses.get(name) != wanted.statuses.get(name) {
                self.pending.insert(name.clone());
                self.failed.remove(name);
            }
        }
        let there = |name: &RouteName| wanted.routes.contains_key(name);
        self.pending.retain(there);
        self.written.retain(|name, _| there(name));
        self.failed.retain(|name, _| there(name));
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
            let waits = |name: &RouteName| self.failed.get(name).is_some_and(|retry| now < retry.at);
            let ready = |name: &&RouteName| !self.writing.contains(*name) && !waits(name);
            let name = self.pending.iter().find(ready)?.clone();
            self.pending.remove(&name);
            if let Some(job) = self.job(&name) {
                self.writing.insert(name);
                return Some(job);
            }
        }
    }

    fn job(&mut self, name: &RouteName) -> Option<Job> {
        let route = self.wanted.routes.get(name)?;
        let ours = self.wanted.statuses.get(name);
        // Of a spec that is not the newest there is nothing to be said: its judgement is under way.
        let mut conditions =
            ours.into_iter().flat_map(|ours| &ours.parents).flat_map(|parent| &parent.conditions);
        if conditions.any(|condition| condition.observed_generation != route.generation) {
            return None;
        }
        let (current, version) = match self.written.get(name) {
            Some(written) if written.upon == route.resource_version => (&written.status, &written.version),
            _ => (&route.status, &route.resource_version),
        };
        due(current, ours, "")?;
        Some(Job {
            route: Arc::clone(route),
            ours: ours.cloned(),
            current: current.clone(),
            version: version.clone(),
        })
    }

    /// Takes note of what became of a job.
    pub(super) fn done(&mut self, job: &Job, done: Done, now: Instant) {
        let name = &job.route.name;
        self.writing.remove(name);
        match done {
            Done::Failed { why, everywhere } => {
                self.pending.insert(name.clone());
                let delay = if everywhere {
                    let delay = self.pauses.next_delay();
                    self.paused = Some(now + delay);
                    delay
                } else {
                    self.put_off(name, now)
                };
                tracing::warn!(route = %name, why, ?delay, "a status could not be written; trying again");
            }
            done => {
                self.pauses.reset();
                self.paused = None;
                self.failed.remove(name);
                if let Done::Written { version, status } = done {
                    tracing::debug!(route = %name, "wrote a status");
                    let upon = job.route.resource_version.clone();
                    self.written.insert(name.clone(), Written { upon, version, status });
                }
            }
        }
    }

    fn put_off(&mut self, name: &RouteName, now: Instant) -> Duration {
        let fresh = || Retry { at: now, backoff: Backoff::new(WAITS.0, WAITS.1) };
        let retry = self.failed.entry(name.clone()).or_insert_with(fresh);
        let delay = retry.backoff.next_delay();
        retry.at = now + delay;
        delay
    }

    /// How long nothing will be due, if nothing happens.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let retries = self.pending.iter().filter_map(|name| self.failed.get(name)).map(|retry| retry.at);
        let next = match self.paused.filter(|until| now < *until) {
            Some(until) => Some(until),
            None => retries.min(),
        };
        next.map_or(IDLE, |at| at.saturating_duration_since(now))
    }
}
