//! Runs the state machine of enrolment while this replica leads: reads what proxies say, keeps what the next leader
//! needs, shows the rest.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use weft_model::Text;

use super::memory::Memory;
use super::{Enrolments, NamespaceState, Now, Record, Settings, Step, View};
use crate::inputs::Inputs;
use crate::leadership::Leadership;
use crate::server::{Changes, Progress};

/// Changes that fall into this time are judged together.
const TOGETHER: Duration = Duration::from_millis(50);
/// What could not be read or written is tried again after this time.
const AGAIN: Duration = Duration::from_secs(5);

/// Every namespace's enrolment, for the admin endpoint.
pub type Shown = watch::Receiver<Arc<BTreeMap<Text, NamespaceState>>>;

/// The state machine with what it reads and writes.
#[derive(Debug)]
pub struct Keeper {
    settings: Settings,
    memory: Box<dyn Memory>,
    progress: Arc<Progress>,
    leadership: watch::Receiver<Leadership>,
    /// Whether this replica led at the last step.
    led: bool,
    /// While it leads, and knows what the leader before it had come to.
    machine: Option<Enrolments>,
    /// What is kept of each namespace.
    kept: BTreeMap<Text, Record>,
    /// What the last step had heard of.
    heard: Changes,
    last: Step,
    shown: watch::Sender<Arc<BTreeMap<Text, NamespaceState>>>,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// This replica does not lead: it decides nothing, and streams nothing.
    Follows,
    /// Something has to be known before anything can be published.
    Waits,
    /// It is decided.
    Decided,
}

impl Keeper {
    /// Has not read anything yet.
    pub fn new(
        memory: impl Memory,
        settings: Settings,
        progress: Arc<Progress>,
        leadership: watch::Receiver<Leadership>,
    ) -> Self {
        Self {
            settings,
            memory: Box::new(memory),
            progress,
            leadership,
            led: false,
            machine: None,
            kept: BTreeMap::new(),
            heard: Changes::default(),
            last: Step::default(),
            shown: watch::Sender::default(),
        }
    }

    /// Every namespace's enrolment as of the last step.
    pub fn shown(&self) -> Shown {
        self.shown.subscribe()
    }

    /// Brings `inputs.enrolment` up to date. What was decided has been written when this returns, so that no later
    /// leader can take back what this one publishes. The errors are of what could not be read or written. May block.
    pub fn step(&mut self, inputs: &mut Inputs) -> (Stepped, Vec<io::Error>) {
        let now = now();
        self.led = *self.leadership.borrow() == Leadership::Leader;
        self.heard = *self.progress.changes().borrow();
        if !self.led {
            self.machine = None;
            self.last = Step::default();
            self.show();
            return (Stepped::Follows, Vec::new());
        }
        if let Err(error) = self.begin(now) {
            self.last = Step { undecided: true, again_in: Some(AGAIN), ..Step::default() };
            return (Stepped::Waits, vec![error]);
        }
        let Some(machine) = &mut self.machine else { return (Stepped::Waits, Vec::new()) };
        let view = View::new(inputs, self.progress.views());
        self.progress.retain(|node| view.pods.iter().any(|pod| *pod.node == *node));
        self.last = machine.step(now, &view);
        if self.last.undecided {
            return (Stepped::Waits, Vec::new());
        }
        let errors = self.keep(now);
        inputs.enrolment.clone_from(&self.last.enrolment);
        self.show();
        (Stepped::Decided, errors)
    }

    /// A leader begins with what the one before it had come to, and with what proxies tell itself.
    fn begin(&mut self, now: Now) -> io::Result<()> {
        if self.machine.is_none() {
            self.kept = self.memory.read()?;
            self.progress.forget();
            self.machine = Some(Enrolments::new(self.settings, self.kept.clone(), now));
        }
        Ok(())
    }

    /// Writes what the last step decided.
    fn keep(&mut self, now: Now) -> Vec<io::Error> {
        let time = now.wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let unwritten = self.memory.write(&self.last.namespaces, &time);
        let mut kept = self.last.records();
        for name in unwritten.iter().filter(|one| one.record).map(|one| &one.namespace) {
            let before = self.kept.get(name).copied();
            if let Some(machine) = &mut self.machine {
                machine.not_kept(name, before, &mut self.last);
            }
            match before {
                Some(before) => kept.insert(name.clone(), before),
                None => kept.remove(name),
            };
        }
        self.kept = kept;
        if !unwritten.is_empty() {
            self.last.again_in = Some(self.last.again_in.map_or(AGAIN, |again| again.min(AGAIN)));
        }
        unwritten.into_iter().map(|one| one.error).collect()
    }

    fn show(&self) {
        self.shown.send_if_modified(|shown| {
            let changed = **shown != self.last.namespaces;
            if changed {
                *shown = Arc::new(self.last.namespaces.clone());
            }
            changed
        });
    }

    /// What the last step said is published under this version, or was already.
    pub fn published(&mut self, version: u64) {
        if let Some(machine) = &mut self.machine {
            machine.published(version);
        }
    }

    /// Waits until a step may find something else than the last one.
    pub async fn wait(&self) {
        let mut changes = self.progress.changes();
        let news = |now: &Changes| {
            now.reports != self.heard.reports || (self.last.waits_for_acks && now.acks != self.heard.acks)
        };
        let heard = async {
            match changes.wait_for(news).await.map(drop) {
                Ok(()) if self.led => tokio::time::sleep(TOGETHER).await,
                Ok(()) | Err(_) => std::future::pending().await,
            }
        };
        let patience = async {
            match self.last.again_in {
                Some(again) => tokio::time::sleep(again).await,
                None => std::future::pending().await,
            }
        };
        let mut leadership = self.leadership.clone();
        let turned = async {
            let turned = leadership.wait_for(|now| (*now == Leadership::Leader) != self.led).await.is_ok();
            if !turned {
                // Nobody decides any more: what is, stays.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = heard => {}
            () = patience => {}
            () = turned => {}
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "here the state machine's clock is read")]
fn now() -> Now {
    Now { monotonic: Instant::now(), wall: Timestamp::now() }
}
