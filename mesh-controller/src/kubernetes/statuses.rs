//! Statuses on the API server. The control loop says what statuses should be; the leader sees to it that they are:
//! read, change only what is ours, write back on condition that nobody has written meanwhile.

mod queue;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Error, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::follow::{explain, is, within};
use super::kinds;
use super::metrics::StatusMetrics;
use super::raw::Raw;
use crate::inputs::{Head, Heads, Kind};
use crate::status::{StatusSink, Statuses, merge, part, removal};
use crate::translate::status::Status;
pub(crate) use queue::Done;
use queue::{Job, Queue};

/// Statuses written at a time.
const PARALLEL: usize = 16;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// How often a write is tried on what others have written meanwhile, before it is put off.
const CONFLICTS: u32 = 5;

/// What should be written.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    statuses: Statuses,
    objects: Arc<Heads>,
}

/// Takes statuses from the control loop for whoever writes them.
#[derive(Debug, Default)]
pub struct ApiStatuses(watch::Sender<Wanted>);

impl ApiStatuses {
    /// For [`write`].
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.0.subscribe()
    }
}

impl StatusSink for ApiStatuses {
    fn write(&mut self, statuses: &Statuses, objects: &Heads, _: &str) -> Vec<io::Error> {
        self.0.send_replace(Wanted { statuses: Arc::clone(statuses), objects: Arc::new(objects.clone()) });
        Vec::new()
    }
}

/// Writes what is wanted and not so, for ever. For the leader; may be dropped at any time.
pub async fn write(
    client: Client,
    mut wanted: watch::Receiver<Wanted>,
    metrics: StatusMetrics,
) -> Infallible {
    let mut queue = Queue::default();
    let mut writing = FuturesUnordered::new();
    wanted.mark_changed();
    loop {
        while writing.len() < PARALLEL
            && let Some(job) = queue.take(Instant::now())
        {
            writing.push(async {
                let done = write_one(&client, &job).await;
                (job, done)
            });
        }
        metrics.waiting(queue.len());
        let wait = queue.wait(Instant::now());
        tokio::select! {
            Ok(()) = wanted.changed() => queue.update(wanted.borrow_and_update().clone()),
            Some((job, done)) = writing.next() => {
                metrics.done(&done);
                queue.done(&job, done, Instant::now());
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Brings one object's status up to date.
async fn write_one(client: &Client, job: &Job) -> Done {
    let Job { head, ours, .. } = job;
    let resource = kinds::resource_in(head.id.kind, &head.api_version);
    let api: Api<Raw> = match head.id.kind.is_namespaced() {
        true => Api::namespaced_with(client.clone(), &head.name().namespace, &resource),
        false => Api::all_with(client.clone(), &resource),
    };
    let name = &*head.name().name;
    let (mut version, mut current) = (job.version.clone(), job.current.clone());
    for _ in 0..CONFLICTS {
        let Some(next) = due(head.id.kind, &current, ours.as_ref(), &now()) else { return Done::Equal };
        let patch = json!({
            "metadata": {"resourceVersion": version, "uid": head.uid},
            "status": next.part,
        });
        let patch = Patch::Merge(patch);
        match within(CALL, api.patch_status(name, &PatchParams::default(), &patch)).await {
            Ok(written) => {
                return Done::Written { version: version_of(&written), status: status_of(&written) };
            }
            Err(error) if is(&error, 404) => return Done::Gone,
            Err(error) if is(&error, 409) => {}
            Err(error) => return failed(&error),
        }
        // Somebody else was faster: judge and write anew on what stands there now.
        match within(CALL, api.get_opt(name)).await {
            Ok(Some(fresh)) if is_judged(&fresh, head) => {
                (version, current) = (version_of(&fresh), status_of(&fresh));
            }
            // Another spec than the one that was judged, or another object: the watch brings it.
            Ok(_) => return Done::Gone,
            Err(error) => return failed(&error),
        }
    }
    Done::Failed { why: format!("others wrote it {CONFLICTS} times in between"), everywhere: false }
}

/// A status that is to be written.
#[derive(Debug)]
struct Due {
    /// As it will stand in the object.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests play the API server"))]
    whole: Value,
    /// What is sent.
    part: Value,
}

/// The status with our part brought up to date; `None` if it is so already.
fn due(kind: Kind, current: &Value, ours: Option<&Status>, now: &str) -> Option<Due> {
    let removed = match ours {
        Some(_) => None,
        None => Some(removal(kind, current)?),
    };
    let ours = ours.or(removed.as_ref())?;
    let whole = merge(current, None, ours, now);
    (whole != *current).then(|| Due { part: part(&whole, ours), whole })
}

fn is_judged(fresh: &Raw, head: &Head) -> bool {
    fresh.uid().as_deref() == Some(&head.uid) && fresh.generation() == head.generation
}

fn version_of(object: &Raw) -> String {
    object.resource_version().unwrap_or_default()
}

fn status_of(object: &Raw) -> Value {
    object.json.get("status").cloned().unwrap_or(Value::Null)
}

/// An object that the server finds wrong is that object's trouble; anything else will meet the others as well.
fn failed(error: &Error) -> Done {
    let own = [400, 413, 422].iter().any(|code| is(error, *code));
    Done::Failed { why: explain(error), everywhere: !own }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
