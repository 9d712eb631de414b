//! Enrolment of running pods as a state of their namespace (`docs/dataplane.md`): a pure state machine that is given
//! the time, what the objects say, what proxies report to serve and which version they have taken in.
//!
//! *Enrolling*: plaintext callers are let in, and callers use tunnels where a pod is served. It ends when every running
//! pod is served and every proxy knows it, or at a deadline; then the namespace is *strict*, until it is unlabelled.
//! *Leaving* is the way back: plaintext is let in first, then callers are told to use it, then pods are released.

pub mod folder;
pub mod keeper;
pub mod memory;
mod record;
mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use weft_model::Text;

pub use record::{CONDITION, Missing, NamespaceState, Phase, Record, SINCE_ANNOTATION, STATE_ANNOTATION};
pub use view::{NodeView, PodView, View};

/// What translation needs to know, as plain values. Nothing in it: every label is in force at once, which is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enrolment {
    /// UIDs of the pods that proxies serve.
    pub served: BTreeSet<Text>,
    /// UIDs of the pods that proxies no longer serve while connections of theirs go on.
    pub parting: BTreeSet<Text>,
    /// Namespaces that are being enrolled, and since when.
    pub enrolling: BTreeMap<Text, Timestamp>,
    /// UIDs of the pods that leave and are not to be released yet.
    pub leaving: BTreeMap<Text, Leaving>,
}

/// How far a pod is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Its proxy lets plaintext in; callers still use tunnels.
    Permitted,
    /// Callers use plaintext as they learn of it; its proxy still takes tunnels.
    Told,
}

/// Bounds of all that waits here.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a namespace may be enrolling.
    pub deadline: Duration,
    /// After every proxy knows that pods are to be called another way: how long requests that began before may take to
    /// connect.
    pub settle: Duration,
    /// How long a controller that has just started waits for proxies' reports, where it cannot do without.
    pub report_wait: Duration,
    /// How long a pod is kept from being released for the sake of proxies that do not answer.
    pub leave_bound: Duration,
    /// How long a pod of a strict namespace may be unserved before that is called a problem: reports lag.
    pub lag: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(600),
            settle: Duration::from_secs(5),
            report_wait: Duration::from_secs(5),
            leave_bound: Duration::from_secs(60),
            lag: Duration::from_secs(15),
        }
    }
}

/// The time, as a state machine needs it: one clock for waits, one that survives a restart.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Never goes back.
    pub monotonic: Instant,
    /// Means the same to the next process.
    pub wall: Timestamp,
}

/// What one step found.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// For the translation.
    pub enrolment: Enrolment,
    /// Every namespace that is, or was until just now, in the mesh; and those whose labels cannot be understood.
    pub namespaces: BTreeMap<Text, NamespaceState>,
    /// What cannot be decided before proxies have reported: nothing may be published yet.
    pub undecided: bool,
    /// Whether acknowledgements are waited for.
    pub waits_for_acks: bool,
    /// Step again after this time, whatever happens.
    pub again_in: Option<Duration>,
}

impl Step {
    /// What the next leader needs to go on from here, by namespace.
    pub fn records(&self) -> BTreeMap<Text, Record> {
        let kept = self.namespaces.iter();
        kept.filter_map(|(name, state)| Some((name.clone(), state.record()?))).collect()
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Enrolments {
    settings: Settings,
    namespaces: BTreeMap<Text, Tracked>,
    leaving: BTreeMap<Text, Leave>,
    /// Since when pods are unserved.
    unserved: BTreeMap<Text, Instant>,
    begun: Option<Instant>,
    /// Something has been decided for all namespaces: from now on a label that is new here is new.
    decided: bool,
}

#[derive(Debug)]
struct Tracked {
    record: Record,
    /// Everybody is to know that these pods are served.
    told: Option<Told>,
    began: Instant,
}

/// Something that every proxy is to know before the next step.
#[derive(Debug, Default)]
struct Told {
    pods: BTreeSet<Text>,
    /// The version that says it, once there is one.
    version: Option<u64>,
    acked: Option<Instant>,
}

#[derive(Debug)]
struct Leave {
    /// `None`: it may be released.
    step: Option<Leaving>,
    told: Told,
    began: Instant,
}

impl Tracked {
    /// How long its phase has lasted: by the clock on the wall, which a restart does not set back, and at least as long
    /// as this process has seen, should that clock have been set back.
    fn lasted(&self, now: Now) -> Duration {
        let wall = now.wall.duration_since(self.record.since).unsigned_abs();
        wall.max(now.monotonic.saturating_duration_since(self.began))
    }
}

impl Told {
    /// Since when everybody knows.
    fn since(&mut self, now: Now, view: &View) -> Option<Instant> {
        let everybody = self.version.is_some_and(|version| view.behind(version).next().is_none());
        if everybody { Some(*self.acked.get_or_insert(now.monotonic)) } else { None }
    }

    fn settled(&mut self, now: Now, view: &View, settle: Duration) -> bool {
        self.since(now, view).is_some_and(|since| now.monotonic.saturating_duration_since(since) >= settle)
    }
}

impl Enrolments {
    /// Begins with what the process before had come to.
    pub fn new(settings: Settings, records: BTreeMap<Text, Record>, now: Now) -> Self {
        let track = |(name, record)| (name, Tracked { record, told: None, began: now.monotonic });
        Self {
            settings,
            namespaces: records.into_iter().map(track).collect(),
            leaving: BTreeMap::new(),
            unserved: BTreeMap::new(),
            begun: None,
            decided: false,
        }
    }

    /// A table that carries out what the last step said is published under `version`, or was already.
    pub fn published(&mut self, version: u64) {
        let told = self.namespaces.values_mut().filter_map(|tracked| tracked.told.as_mut());
        for told in told.chain(self.leaving.values_mut().map(|leave| &mut leave.told)) {
            told.version.get_or_insert(version);
        }
    }

    /// What `step` decided about a namespace could not be kept, and the next leader will begin with `kept`. Where that
    /// is open, what is open stays so, since it is not to be opened again once it was closed; all else may go on.
    pub fn not_kept(&mut self, name: &Text, kept: Option<Record>, step: &mut Step) {
        let (Some(tracked), Some(kept)) = (self.namespaces.get_mut(name), kept) else { return };
        if tracked.record.phase != Phase::Strict || kept.phase != Phase::Enrolling {
            return;
        }
        tracked.record = kept;
        step.enrolment.enrolling.insert(name.clone(), kept.since);
        if let Some(state) = step.namespaces.get_mut(name) {
            (state.phase, state.since) = (kept.phase, kept.since);
        }
    }

    /// Brings every namespace up to date.
    pub fn step(&mut self, now: Now, view: &View) -> Step {
        let begun = *self.begun.get_or_insert(now.monotonic);
        let young = now.monotonic.saturating_duration_since(begun) < self.settings.report_wait;
        if !self.decided && young && self.is_undecided(view) {
            let again_in = Some(self.settings.report_wait);
            return Step { undecided: true, again_in, ..Step::default() };
        }
        self.decided = true;
        self.note_unserved(now, view);
        self.leave(now, view);
        let mut step = Step::default();
        let mut wakes = Vec::new();
        for name in self.names(view) {
            self.advance(&name, now, view);
            let Some(tracked) = self.namespaces.get_mut(&name) else { continue };
            if tracked.record.phase == Phase::Enrolling {
                step.enrolment.enrolling.insert(name.clone(), tracked.record.since);
                wakes.push(self.settings.deadline.saturating_sub(tracked.lasted(now)));
                let acked = tracked.told.as_ref().and_then(|told| told.acked);
                wakes.extend(acked.map(|acked| remaining(acked, self.settings.settle, now)));
                step.waits_for_acks |= tracked.told.as_ref().is_some_and(|told| told.acked.is_none());
            }
            step.namespaces.insert(name.clone(), self.state(&name, now, view));
        }
        for (name, wrong) in &view.mislabelled {
            let outside = || NamespaceState { phase: Phase::Outside, ..NamespaceState::default() };
            let state = step.namespaces.entry(name.clone()).or_insert_with(outside);
            state.mislabelled.clone_from(wrong);
        }
        for leave in self.leaving.values().filter(|leave| leave.step.is_some()) {
            wakes.push(remaining(leave.began, self.settings.leave_bound, now));
            wakes.extend(leave.told.acked.map(|acked| remaining(acked, self.settings.settle, now)));
            step.waits_for_acks |= leave.told.acked.is_none();
        }
        let lag = self.settings.lag;
        wakes
            .extend(self.unserved.values().map(|since| remaining(*since, lag, now)).filter(|r| !r.is_zero()));
        step.again_in = wakes.into_iter().min();
        step.enrolment.served = view.served();
        step.enrolment.parting = view.parting();
        let leaving = self.leaving.iter().filter_map(|(uid, leave)| Some((uid.clone(), leave.step?)));
        step.enrolment.leaving = leaving.collect();
        step
    }

    /// Is there a namespace of which reports, that proxies have not sent yet, would decide something?
    fn is_undecided(&self, view: &View) -> bool {
        view.pods.iter().filter(|pod| !view.has_reported(&pod.node)).any(|pod| {
            let known = self.namespaces.get(&pod.name.namespace).map(|tracked| tracked.record.phase);
            match known {
                None | Some(Phase::Outside) => pod.wanted,
                Some(Phase::Leaving) => true,
                Some(Phase::Enrolling | Phase::Strict) => !pod.wanted,
            }
        })
    }

    fn names(&self, view: &View) -> BTreeSet<Text> {
        let labelled = view.labelled.iter().cloned();
        let wanted = view.pods.iter().filter(|pod| pod.wanted).map(|pod| pod.name.namespace.clone());
        labelled.chain(wanted).chain(self.namespaces.keys().cloned()).collect()
    }

    fn note_unserved(&mut self, now: Now, view: &View) {
        let mut unserved = BTreeMap::new();
        for pod in view.pods.iter().filter(|pod| pod.wanted && !view.serves(pod)) {
            let since = self.unserved.get(&pod.uid).copied().unwrap_or(now.monotonic);
            unserved.insert(pod.uid.clone(), since);
        }
        self.unserved = unserved;
    }

    /// One namespace's next phase.
    fn advance(&mut self, name: &Text, now: Now, view: &View) {
        let wanted: BTreeSet<&Text> = view.wanted_in(name).map(|pod| &pod.uid).collect();
        let all_served = wanted.iter().all(|uid| !self.unserved.contains_key(*uid));
        let known = self.namespaces.get(name).map(|tracked| tracked.record.phase);
        let is_member = view.labelled.contains(name) || !wanted.is_empty();
        let next = match known {
            None if !is_member => return,
            None if all_served => Phase::Strict,
            None => Phase::Enrolling,
            Some(Phase::Leaving) if is_member => Phase::Enrolling,
            Some(Phase::Enrolling) if is_member && self.may_close(name, now, view, all_served) => {
                Phase::Strict
            }
            Some(phase) if is_member => phase,
            Some(_) if !self.has_leaving(name, view) => {
                self.namespaces.remove(name);
                return tracing::info!(namespace = %name, "no longer in the mesh");
            }
            Some(_) => Phase::Leaving,
        };
        if known != Some(next) {
            tracing::info!(namespace = %name, phase = next.as_str(), "enrolment");
            let record = Record { phase: next, since: now.wall };
            self.namespaces.insert(name.clone(), Tracked { record, told: None, began: now.monotonic });
        }
    }

    /// Whether an enrolling namespace becomes strict: everybody knows that all of its pods are served, or the time is
    /// over.
    fn may_close(&mut self, name: &Text, now: Now, view: &View, all_served: bool) -> bool {
        let Settings { deadline, settle, .. } = self.settings;
        let Some(tracked) = self.namespaces.get_mut(name) else { return false };
        if tracked.lasted(now) >= deadline {
            return true;
        }
        if !all_served {
            tracked.told = None;
            return false;
        }
        let pods: BTreeSet<Text> = view.wanted_in(name).map(|pod| pod.uid.clone()).collect();
        let told = tracked.told.get_or_insert_default();
        if !pods.is_subset(&told.pods) {
            *told = Told { pods, ..Told::default() };
        }
        told.settled(now, view, settle)
    }

    fn has_leaving(&self, name: &Text, view: &View) -> bool {
        let of = |pod: &&PodView| pod.name.namespace == *name;
        view.pods.iter().filter(of).any(|pod| self.leaving.contains_key(&pod.uid))
    }

    /// Pods that are served although they are not to be in the mesh any more.
    fn leave(&mut self, now: Now, view: &View) {
        let Settings { settle, leave_bound, .. } = self.settings;
        let mut before = std::mem::take(&mut self.leaving);
        for pod in view.pods.iter().filter(|pod| !pod.wanted && view.serves(pod)) {
            let mut leave = before.remove(&pod.uid).unwrap_or_else(|| Leave {
                step: Some(Leaving::Permitted),
                told: Told::default(),
                began: now.monotonic,
            });
            let over = now.monotonic.saturating_duration_since(leave.began) >= leave_bound;
            match leave.step {
                Some(Leaving::Permitted) if leave.told.since(now, view).is_some() => {
                    (leave.step, leave.told) = (Some(Leaving::Told), Told::default());
                }
                Some(Leaving::Told) if leave.told.settled(now, view, settle) => leave.step = None,
                Some(_) if over => leave.step = None,
                _ => {}
            }
            self.leaving.insert(pod.uid.clone(), leave);
        }
    }

    /// What is shown of a namespace.
    fn state(&self, name: &Text, now: Now, view: &View) -> NamespaceState {
        let Some(tracked) = self.namespaces.get(name) else { return NamespaceState::default() };
        let Record { phase, since } = tracked.record;
        let overdue = |uid: &Text| {
            let since = self.unserved.get(uid);
            since.is_some_and(|since| {
                phase == Phase::Enrolling || remaining(*since, self.settings.lag, now).is_zero()
            })
        };
        let missing = view.wanted_in(name).filter(|pod| overdue(&pod.uid));
        let missing = missing.map(|pod| Missing {
            pod: pod.name.name.clone(),
            node: pod.node.clone(),
            why: view.why_unserved(pod),
        });
        let told = tracked.told.as_ref().and_then(|told| told.version);
        NamespaceState {
            phase,
            since,
            pods: view.wanted_in(name).count(),
            missing: missing.collect(),
            mislabelled: Vec::new(),
            behind: told.into_iter().flat_map(|version| view.behind(version)).cloned().collect(),
        }
    }
}

/// What is left of `bound` since `since`.
fn remaining(since: Instant, bound: Duration, now: Now) -> Duration {
    bound.saturating_sub(now.monotonic.saturating_duration_since(since))
}
