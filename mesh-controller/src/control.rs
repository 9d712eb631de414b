//! One change from end to end: load what the source holds, translate, publish, hand statuses on; again with every
//! change.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use weft_model::workload::Exempt;
use weft_model::{MeshConfig, Resource, ResourceName};

use crate::awaited::Awaited;
use crate::enrolment::keeper::{Keeper, Stepped};
use crate::in_force::Acknowledged;
use crate::infrastructure;
use crate::infrastructure::plan::Desired;
use crate::infrastructure::refused::Refused;
use crate::inputs::Inputs;
use crate::metrics::ControlMetrics;
use crate::publish::{Publisher, Snapshot};
use crate::server::Progress;
use crate::source::{Change, Loaded, Source};
use crate::status::{StatusSink, Statuses};
use crate::translate::translate;

/// What is made for Gateways: how, and where it is said.
#[derive(Debug)]
struct Infrastructure {
    settings: infrastructure::Settings,
    desired: watch::Sender<Option<Arc<Desired>>>,
    /// What of it could not be made.
    refused: watch::Receiver<Refused>,
}

/// Everything that a change passes through.
#[derive(Debug)]
pub struct Control<S, W> {
    source: S,
    mesh: MeshConfig,
    publisher: Publisher,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    streamed: watch::Sender<Option<Arc<Snapshot>>>,
    sink: W,
    /// What the last translation gave.
    statuses: Statuses,
    /// Namespaces that are never in the mesh.
    exempt: Exempt,
    /// Without one every label is in force at once.
    enrolment: Option<Keeper>,
    /// Without one no Gateway is ever programmed.
    acknowledged: Option<Acknowledged>,
    /// Without one nothing is made for Gateways.
    infrastructure: Option<Infrastructure>,
    /// Without one an address that is asked for is had at once or said to be unusable.
    awaited: Option<Awaited>,
    metrics: ControlMetrics,
    /// What has been logged and still holds: said once, not with every change.
    said: BTreeSet<String>,
}

impl<S: Source, W: StatusSink> Control<S, W> {
    /// Built, nothing read yet. The first version published will be greater than `version`.
    pub fn new(source: S, sink: W, mesh: MeshConfig, version: u64, metrics: ControlMetrics) -> Self {
        Self {
            source,
            mesh,
            publisher: Publisher::new(version),
            snapshots: watch::Sender::new(None),
            streamed: watch::Sender::new(None),
            sink,
            statuses: Statuses::default(),
            exempt: Exempt::default(),
            enrolment: None,
            acknowledged: None,
            infrastructure: None,
            awaited: None,
            metrics,
            said: BTreeSet::new(),
        }
    }

    /// Keeps further namespaces out of the mesh.
    #[must_use]
    pub fn with_exempt(mut self, exempt: Exempt) -> Self {
        self.exempt = exempt;
        self
    }

    /// Has running pods enter and leave the mesh step by step.
    #[must_use]
    pub fn with_enrolment(mut self, keeper: Keeper) -> Self {
        self.enrolment = Some(keeper);
        self
    }

    /// Has statuses say what Gateways' proxies have in force.
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<Progress>) -> Self {
        self.acknowledged = Some(Acknowledged::new(progress));
        self
    }

    /// Says what there should be for Gateways, and has statuses say what of that was refused.
    #[must_use]
    pub fn with_infrastructure(
        mut self,
        settings: infrastructure::Settings,
        refused: watch::Receiver<Refused>,
    ) -> Self {
        self.infrastructure = Some(Infrastructure { settings, desired: watch::Sender::new(None), refused });
        self
    }

    /// Where it says so.
    pub fn infrastructure(&self) -> Option<watch::Receiver<Option<Arc<Desired>>>> {
        self.infrastructure.as_ref().map(|it| it.desired.subscribe())
    }

    /// Has load balancers take their time for the addresses that Gateways ask for.
    #[must_use]
    pub fn with_awaited(mut self, awaited: Awaited) -> Self {
        self.awaited = Some(awaited);
        self
    }

    /// Where snapshots come out.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.subscribe()
    }

    /// Where those come out that proxies get. A replica that does not lead has none, nor one that leads and does not know
    /// yet how far namespaces' enrolment is.
    pub fn streamed(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.streamed.subscribe()
    }

    /// Takes changes for ever.
    ///
    /// # Errors
    /// A step panicked.
    pub async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let enrolled = async {
                match &self.enrolment {
                    Some(enrolment) => enrolment.wait().await,
                    None => std::future::pending().await,
                }
            };
            let acknowledged = async {
                match &self.acknowledged {
                    Some(acknowledged) => acknowledged.wait().await,
                    None => std::future::pending().await,
                }
            };
            let refused = async {
                if let Some(infrastructure) = &mut self.infrastructure
                    && infrastructure.refused.changed().await.is_ok()
                {
                    return;
                }
                // Nothing is made, or nobody makes it any more.
                std::future::pending().await
            };
            let given_up = async {
                match &self.awaited {
                    Some(awaited) => awaited.wait().await,
                    None => std::future::pending().await,
                }
            };
            let change = tokio::select! {
                change = self.source.changed() => change,
                () = refused => Change::Objects,
                () = given_up => Change::Objects,
                () = enrolled => Change::Objects,
                () = acknowledged => Change::Objects,
            };
            // Reading files and translating block; they have a thread of their own.
            self = tokio::task::spawn_blocking(move || {
                self.step(change);
                self
            })
            .await?;
        }
    }

    /// Brings everything up to date with the source once.
    fn step(&mut self, change: Change) {
        let began = Instant::now();
        let Some(Loaded { mut inputs, problems }) = self.source.load(&self.mesh) else { return };
        if change == Change::Objects {
            inputs.exempt = self.exempt.clone();
            // Taken whatever comes next: until it is, there is news.
            if let Some(acknowledged) = &mut self.acknowledged {
                inputs.in_force = acknowledged.take();
            }
            if let Some(infrastructure) = &mut self.infrastructure {
                inputs.refused = infrastructure.refused.borrow_and_update().clone();
            }
            if let Some(awaited) = &mut self.awaited {
                inputs.awaited = awaited.step(&inputs, began);
            }
            let enrolled = self.enrol(&mut inputs);
            if enrolled != Stepped::Decided {
                self.streamed.send_if_modified(|streamed| streamed.take().is_some());
            }
            if enrolled == Stepped::Waits {
                return;
            }
            self.publish(&inputs, problems, began, enrolled);
        }
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let errors = self.sink.write(&self.statuses, &inputs.heads(), &now);
        self.metrics.status_errors(errors.len());
        for error in errors {
            tracing::error!("{error}");
        }
    }

    /// Fills in how far enrolment is.
    fn enrol(&mut self, inputs: &mut Inputs) -> Stepped {
        let Some(enrolment) = &mut self.enrolment else { return Stepped::Decided };
        let (stepped, errors) = enrolment.step(inputs);
        self.metrics.enrolment(&enrolment.shown().borrow());
        self.metrics.status_errors(errors.len());
        for error in errors {
            tracing::error!("{error}");
        }
        stepped
    }

    fn publish(&mut self, inputs: &Inputs, problems: BTreeSet<String>, began: Instant, enrolled: Stepped) {
        let loaded = began.elapsed();
        let Ok(translated) = catch_unwind(AssertUnwindSafe(|| translate(inputs))) else {
            let broken = "translating broke down, which is a defect of Weft; the last state stays in force";
            self.say(problems.into_iter().chain([broken.to_owned()]).collect());
            return;
        };
        let translating = began.elapsed() - loaded;
        self.say(problems.into_iter().chain(translated.notices).collect());
        self.provide(inputs, &translated.resources);
        match self.publisher.publish(translated.resources, &translated.nodes, &translated.gateways) {
            Ok(Some(snapshot)) => {
                tracing::info!(
                    version = snapshot.version(),
                    resources = self.publisher.resources().len(),
                    statuses = translated.statuses.len(),
                    ?loaded,
                    ?translating,
                    "published"
                );
                self.metrics.published(self.publisher.resources().len(), loaded, translating);
                self.snapshots.send_replace(Some(snapshot));
            }
            Ok(None) => {}
            Err(error) => {
                return tracing::error!(%error, "nothing was published: a resource cannot be encoded");
            }
        }
        if let Some(acknowledged) = &mut self.acknowledged {
            acknowledged.published(self.publisher.version(), self.publisher.resources());
        }
        if enrolled == Stepped::Decided {
            self.stream();
        }
        self.statuses = Arc::new(translated.statuses);
    }

    /// Gives proxies what was published last.
    fn stream(&mut self) {
        let newest = self.snapshots.borrow().clone();
        self.streamed.send_if_modified(|streamed| {
            let version = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_ref().map(|one| one.version());
            let differs = version(streamed) != version(&newest);
            if differs {
                *streamed = newest;
            }
            differs
        });
        if let Some(enrolment) = &mut self.enrolment {
            enrolment.published(self.publisher.version());
        }
    }

    fn provide(&self, inputs: &Inputs, resources: &BTreeMap<ResourceName, Resource>) {
        let Some(Infrastructure { settings, desired, .. }) = &self.infrastructure else { return };
        let now = infrastructure::subject::all(inputs, resources, settings);
        desired.send_if_modified(|before| {
            let changed = before.as_deref() != Some(&now);
            if changed {
                *before = Some(Arc::new(now));
            }
            changed
        });
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
