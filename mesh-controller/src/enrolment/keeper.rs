//! Runs the state machine of enrolment: reads what proxies say, keeps what the next process needs, shows the rest.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use weft_model::Text;

use super::folder::Folder;
use super::{Enrolments, NamespaceState, Now, Settings, Step, View};
use crate::inputs::Inputs;
use crate::server::{Changes, Progress};

/// Changes that fall into this time are judged together.
const TOGETHER: Duration = Duration::from_millis(50);

/// Every namespace's enrolment, for the admin endpoint.
pub type Shown = watch::Receiver<Arc<BTreeMap<Text, NamespaceState>>>;

/// The state machine with what it reads and writes.
#[derive(Debug)]
pub struct Keeper {
    machine: Enrolments,
    folder: Folder,
    progress: Arc<Progress>,
    /// What the last step had heard of.
    heard: Changes,
    last: Step,
    shown: watch::Sender<Arc<BTreeMap<Text, NamespaceState>>>,
}

impl Keeper {
    /// Goes on from what an earlier process left in the status folder.
    pub fn open(status_dir: &Path, settings: Settings, progress: Arc<Progress>) -> Self {
        let (folder, records) = Folder::open(status_dir);
        Self {
            machine: Enrolments::new(settings, records, now()),
            folder,
            progress,
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
    /// process can take back what this one publishes. The errors are of what could not be written.
    pub fn step(&mut self, inputs: &mut Inputs) -> Vec<io::Error> {
        let now = now();
        self.heard = *self.progress.changes().borrow();
        let view = View::new(inputs, self.progress.views());
        self.progress.retain(|node| view.pods.iter().any(|pod| *pod.node == *node));
        self.last = self.machine.step(now, &view);
        if self.last.undecided {
            return Vec::new();
        }
        inputs.enrolment.clone_from(&self.last.enrolment);
        let time = now.wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let errors = self.folder.write(&self.last.namespaces, &time);
        self.shown.send_if_modified(|shown| {
            let changed = **shown != self.last.namespaces;
            if changed {
                *shown = Arc::new(self.last.namespaces.clone());
            }
            changed
        });
        errors
    }

    /// Proxies' reports are needed before anything can be published.
    pub const fn is_undecided(&self) -> bool {
        self.last.undecided
    }

    /// What the last step said is published under this version, or was already.
    pub fn published(&mut self, version: u64) {
        self.machine.published(version);
    }

    /// Waits until a step may find something else than the last one.
    pub async fn wait(&self) {
        let mut changes = self.progress.changes();
        let news = |now: &Changes| {
            now.reports != self.heard.reports || (self.last.waits_for_acks && now.acks != self.heard.acks)
        };
        let heard = async {
            match changes.wait_for(news).await.map(drop) {
                Ok(()) => tokio::time::sleep(TOGETHER).await,
                Err(_) => std::future::pending().await,
            }
        };
        let patience = async {
            match self.last.again_in {
                Some(again) => tokio::time::sleep(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = heard => {}
            () = patience => {}
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "here the state machine's clock is read")]
fn now() -> Now {
    Now { monotonic: Instant::now(), wall: Timestamp::now() }
}
