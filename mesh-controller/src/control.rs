//! One change from end to end: read the folder, translate, publish, write statuses; again whenever the folder changes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_manifest::Changes;
use weft_model::MeshConfig;

use crate::folder::{Folder, Loaded};
use crate::metrics::ControlMetrics;
use crate::publish::{Publisher, Snapshot};
use crate::status::StatusWriter;
use crate::translate::translate;

/// The folder is looked through this often even if nothing said that it changed: an overflowing queue of events must
/// not leave old objects in force. Costs a look at each file's metadata.
const RESYNC: Duration = Duration::from_secs(30);

/// Everything that a change passes through.
#[derive(Debug)]
pub struct Control {
    folder: Folder,
    mesh: MeshConfig,
    publisher: Publisher,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    statuses: StatusWriter,
    metrics: ControlMetrics,
    /// What has been logged and still holds: said once, not with every change.
    said: BTreeSet<String>,
}

impl Control {
    /// Built, nothing read yet. The first version published will be greater than `version`.
    pub fn new(
        folder: &Path,
        status_dir: &Path,
        mesh: MeshConfig,
        version: u64,
        metrics: ControlMetrics,
    ) -> Self {
        Self {
            folder: Folder::new(folder),
            mesh,
            publisher: Publisher::new(version),
            snapshots: watch::Sender::new(None),
            statuses: StatusWriter::new(status_dir),
            metrics,
            said: BTreeSet::new(),
        }
    }

    /// Where snapshots come out.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.subscribe()
    }

    /// Takes changes until watching ends, which it does not of itself.
    pub async fn run(mut self, mut changes: Changes) -> anyhow::Result<()> {
        loop {
            // Reading files and translating block; they have a thread of their own.
            self = tokio::task::spawn_blocking(move || {
                self.step();
                self
            })
            .await?;
            match tokio::time::timeout(RESYNC, changes.next()).await {
                Ok(Some(())) | Err(_) => {}
                // The watcher is gone: look again and again instead.
                Ok(None) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Brings everything up to date with the folder once.
    pub fn step(&mut self) {
        let began = Instant::now();
        let Loaded { inputs, problems } = self.folder.load(&self.mesh);
        let loaded = began.elapsed();
        let translated = translate(&inputs);
        let translating = began.elapsed() - loaded;
        self.say(problems.into_iter().chain(translated.notices).collect());
        match self.publisher.publish(translated.resources, &translated.nodes) {
            Ok(Some(snapshot)) => {
                tracing::info!(
                    version = snapshot.version(),
                    resources = self.publisher.resources().len(),
                    routes = translated.statuses.len(),
                    ?loaded,
                    ?translating,
                    "published"
                );
                self.metrics.published(self.publisher.resources().len(), loaded, translating);
                self.snapshots.send_replace(Some(snapshot));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "nothing was published: a resource cannot be encoded"),
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let errors = self.statuses.write(&translated.statuses, &inputs.routes, &now);
        self.metrics.status_errors(errors.len());
        for error in errors {
            tracing::error!("{error}");
        }
    }

    fn say(&mut self, lines: BTreeSet<String>) {
        for line in lines.difference(&self.said) {
            tracing::warn!("{line}");
        }
        for line in self.said.difference(&lines) {
            tracing::info!("no longer: {line}");
        }
        self.metrics.problems(lines.len());
        self.said = lines;
    }
}
