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
use crate::inputs::{Kind, Route};
use crate::status::{Routes, StatusSink, Statuses, merge};
use crate::translate::status::RouteStatus;
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
    routes: Arc<Routes>,
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
    fn write(&mut self, statuses: &Statuses, routes: &Routes, _: &str) -> Vec<io::Error> {
        self.0.send_replace(Wanted { statuses: Arc::clone(statuses), routes: Arc::new(routes.clone()) });
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

/// Brings one route's status up to date.
async fn write_one(client: &Client, job: &Job) -> Done {
    let Job { route, ours, .. } = job;
    let resource = kinds::resource_in(Kind::Route(route.name.kind), &route.api_version);
    let api: Api<Raw> = Api::namespaced_with(client.clone(), &route.name.name.namespace, &resource);
    let name = &*route.name.name.name;
    let (mut version, mut current) = (job.version.clone(), job.current.clone());
    for _ in 0..CONFLICTS {
        let Some(next) = due(&current, ours.as_ref(), &now()) else { return Done::Equal };
        let patch = json!({
            "metadata": {"resourceVersion": version, "uid": route.uid},
            "status": {"parents": next.get("parents")},
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
            Ok(Some(fresh)) if is_judged(&fresh, route) => {
                (version, current) = (version_of(&fresh), status_of(&fresh));
            }
            // Another spec than the one that was judged, or another object: the watch brings it.
            Ok(_) => return Done::Gone,
            Err(error) => return failed(&error),
        }
    }
    Done::Failed { why: format!("others wrote it {CONFLICTS} times in between"), everywhere: false }
}

/// The status with our entries brought up to date; `None` if it is so already.
fn due(current: &Value, ours: Option<&RouteStatus>, now: &str) -> Option<Value> {
    let nothing = RouteStatus { parents: Vec::new() };
    let ours = match ours {
        Some(ours) => ours,
        None if crate::status::has_ours(current) => &nothing,
        None => return None,
    };
    let next = merge(current, None, ours, now);
    (next != *current).then_some(next)
}

fn is_judged(fresh: &Raw, route: &Route) -> bool {
    fresh.uid().as_deref() == Some(&route.uid) && fresh.generation() == route.generation
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
