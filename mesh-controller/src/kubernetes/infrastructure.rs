//! What Gateways need, on the API server: the leader applies what should be there, deletes what should not, and repairs
//! what somebody changes. It touches only what bears the controller's label and belongs to a Gateway. What is refused it
//! tells to translations, for the Gateway's status, and by an Event.

mod events;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Error, ResourceExt};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use weft_model::ObjectName;
use weft_runtime::backoff::Backoff;

use super::follow::{Event, Selector, explain, follow, is, within};
use super::raw::Raw;
use super::store::name_of;
use crate::infrastructure::names::{CONTROLLER, MANAGED_BY};
use crate::infrastructure::plan::{Action, Desired, Id, Made, Observed, plan};
use crate::infrastructure::refused::{Refused, gather};
use events::Events;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Calls at a time.
const PARALLEL: usize = 16;
/// A change is taken up when nothing else has come for this long.
const QUIET: Duration = Duration::from_millis(20);
/// Waits after failures: the first and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The same object is applied this often at once,
const FREELY: u32 = 10;
/// unless it has been left alone for this long in between.
const PEACE: Duration = Duration::from_secs(60);
/// What is waited for when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// What the watches of own objects have shown.
#[derive(Debug, Default)]
struct Seen {
    objects: Observed,
    /// The kinds that have been listed.
    listed: BTreeMap<Made, bool>,
}

impl Seen {
    fn is_complete(&self) -> bool {
        Made::ALL.iter().all(|made| self.listed.get(made) == Some(&true))
    }
}

/// How it goes with one object.
#[derive(Debug)]
struct Course {
    /// Not tried again before this.
    at: Instant,
    backoff: Backoff,
    /// Applied upon this version, which gave that one: another apply would change nothing.
    settled: Option<(String, String, Value)>,
    times: u32,
    last: Instant,
    /// For which Gateway, if for one.
    gateway: Option<ObjectName>,
    /// What was logged last; empty while nothing is wrong.
    said: String,
    /// Whether that is a refusal, which lasts until somebody changes something, and not a moment's trouble.
    refused: bool,
}

/// Why something could not be done.
struct Failure {
    why: String,
    refused: bool,
}

impl Failure {
    /// In somebody's way.
    fn refused(why: String) -> Self {
        Self { why, refused: true }
    }

    /// Of a call: what an API server says to the request itself, such as that a quota or a webhook forbids it, is a
    /// refusal; that it does not answer, is busy or has another version meanwhile is none.
    fn of(error: &Error) -> Self {
        let refused = matches!(error, Error::Api(status) if matches!(status.code, 400..=499) && !matches!(status.code, 408 | 409 | 429));
        Self { why: explain(error), refused }
    }
}

impl Course {
    fn new(now: Instant) -> Self {
        let backoff = Backoff::new(WAITS.0, WAITS.1);
        Self {
            at: now,
            backoff,
            settled: None,
            times: 0,
            last: now,
            gateway: None,
            said: String::new(),
            refused: false,
        }
    }

    fn is_settled(&self, action: &Action) -> bool {
        match (action, &self.settled) {
            (Action::Apply { object, upon: Some(upon), .. }, Some((before, after, applied))) => {
                (upon == before || upon == after) && object == applied
            }
            _ => false,
        }
    }
}

/// Keeps the objects of Gateways as they should be, for ever. For the leader; may be dropped at any time.
/// `refused`: what could not be made.
pub async fn keep(
    client: Client,
    mut desired: watch::Receiver<Option<Arc<Desired>>>,
    refused: watch::Sender<Refused>,
) -> Infallible {
    let seen = Mutex::new(Seen::default());
    let changed = Notify::new();
    let watching = join_all(Made::ALL.map(|made| watch_kind(&client, made, &seen, &changed)));
    let working = async {
        let mut courses: BTreeMap<Id, Course> = BTreeMap::new();
        let events = Events::new(client.clone());
        desired.mark_changed();
        loop {
            let wanted = desired.borrow_and_update().clone().unwrap_or_default();
            let actions = {
                let seen = seen.lock();
                let known = seen.is_complete() && desired.borrow().is_some();
                if known { plan(&wanted, &seen.objects) } else { BTreeMap::new() }
            };
            let due: BTreeSet<Id> = actions.keys().cloned().collect();
            let wait = round(&client, actions, &mut courses).await;
            let now = gather(failed(&courses, &due), &seen.lock().objects, &wanted);
            let before = refused.borrow().clone();
            // Nothing waits for Events for long.
            let _ = tokio::time::timeout(CALL, events.tell(&before, &now, &wanted)).await;
            refused.send_if_modified(|refused| std::mem::replace(refused, now) != *refused);
            tokio::select! {
                Ok(()) = desired.changed() => {}
                () = changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
            while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {}
        }
    };
    tokio::select! {
        _ = watching => std::future::pending().await,
        never = working => never,
    }
}

/// What was tried for Gateways, is due and was refused.
fn failed<'a>(
    courses: &'a BTreeMap<Id, Course>,
    due: &'a BTreeSet<Id>,
) -> impl Iterator<Item = (ObjectName, Id, String)> + 'a {
    courses
        .iter()
        .filter(|(id, course)| due.contains(id) && course.refused)
        .filter_map(|(id, course)| Some((course.gateway.clone()?, id.clone(), course.said.clone())))
}

fn resource(made: Made) -> ApiResource {
    let (group, version, kind, plural) = made.resource();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

async fn watch_kind(client: &Client, made: Made, seen: &Mutex<Seen>, changed: &Notify) -> Infallible {
    let resource = resource(made);
    let api: Api<Raw> = Api::all_with(client.clone(), &resource);
    let labels = format!("{MANAGED_BY}={CONTROLLER}");
    let mut found = Observed::new();
    let id = |raw: &Raw| Id { made, name: name_of(raw) };
    follow(&api, Selector::labels(&labels), |event| {
        match event {
            Event::ListBegins => return found.clear(),
            Event::Found(raw) => return drop(found.insert(id(&raw), raw.json)),
            Event::ListEnds => {
                let mut seen = seen.lock();
                seen.objects.retain(|id, _| id.made != made);
                seen.objects.append(&mut found);
                seen.listed.insert(made, true);
            }
            Event::Applied(raw) => drop(seen.lock().objects.insert(id(&raw), raw.json)),
            Event::Deleted(raw) => drop(seen.lock().objects.remove(&id(&raw))),
            Event::Watching => return,
            Event::Failed(error) => {
                let kind = made.resource().2;
                return tracing::warn!(
                    kind,
                    error = explain(&error),
                    "what Gateways own cannot be watched; trying again"
                );
            }
        }
        changed.notify_one();
    })
    .await
}

/// Does what is due; how long nothing will be, if nothing happens.
async fn round(
    client: &Client,
    actions: BTreeMap<Id, Action>,
    courses: &mut BTreeMap<Id, Course>,
) -> Duration {
    let now = Instant::now();
    courses
        .retain(|id, course| actions.contains_key(id) || now.saturating_duration_since(course.last) < PEACE);
    let due = actions.into_iter().filter(|(id, action)| {
        courses.get(id).is_none_or(|course| course.at <= now && !course.is_settled(action))
    });
    let due: Vec<(Id, Action)> = due.collect();
    let done = stream::iter(due).map(|(id, action)| async {
        let done = act(client, &id, &action).await;
        (id, action, done)
    });
    let done: Vec<_> = done.buffered(PARALLEL).collect().await;
    let now = Instant::now();
    for (id, action, done) in done {
        note(courses.entry(id.clone()).or_insert_with(|| Course::new(now)), &id, action, done, now);
    }
    let next = courses.values().map(|course| course.at).filter(|at| *at > now).min();
    next.map_or(IDLE, |at| at.saturating_duration_since(now))
}

/// Does one thing; the resource version that an apply gave.
async fn act(client: &Client, id: &Id, action: &Action) -> Result<String, Failure> {
    let api: Api<Raw> = Api::namespaced_with(client.clone(), &id.name.namespace, &resource(id.made));
    let name = &*id.name.name;
    match action {
        Action::Blocked { why, .. } => Err(Failure::refused(why.clone())),
        Action::Apply { gateway, object, upon } => {
            if upon.is_none() {
                free(&api, name, gateway).await?;
            }
            let params = PatchParams::apply(CONTROLLER).force();
            let applied = within(CALL, api.patch(name, &params, &Patch::Apply(object))).await;
            applied.map(|raw| raw.resource_version().unwrap_or_default()).map_err(|error| Failure::of(&error))
        }
        Action::Delete { uid } => {
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let params = DeleteParams {
                preconditions: Some(preconditions),
                propagation_policy: Some(PropagationPolicy::Background),
                ..DeleteParams::default()
            };
            match within(CALL, api.delete(name, &params)).await {
                Ok(_) => Ok(String::new()),
                // Gone, or another one by now: the watch shows it.
                Err(error) if is(&error, 404) || is(&error, 409) => Ok(String::new()),
                Err(error) => Err(Failure::of(&error)),
            }
        }
    }
}

/// Makes sure that nobody else has an object of this name: an apply would take it over.
async fn free(api: &Api<Raw>, name: &str, gateway: &ObjectName) -> Result<(), Failure> {
    let found: Result<Option<Raw>, Error> = within(CALL, api.get_opt(name)).await;
    match found.map_err(|error| Failure::of(&error))? {
        Some(other)
            if other.text(&format!("/metadata/labels/{}", MANAGED_BY.replace('/', "~1"))) != CONTROLLER =>
        {
            Err(Failure::refused(format!(
                "Gateway {gateway} needs this name, but somebody else has an object of that name: delete it"
            )))
        }
        _ => Ok(()),
    }
}

fn note(course: &mut Course, id: &Id, action: Action, done: Result<String, Failure>, now: Instant) {
    if now.saturating_duration_since(course.last) > PEACE {
        course.times = 0;
        course.backoff.reset();
    }
    course.last = now;
    course.gateway = match &action {
        Action::Apply { gateway, .. } | Action::Blocked { gateway, .. } => Some(gateway.clone()),
        Action::Delete { .. } => None,
    };
    course.refused = done.as_ref().is_err_and(|failure| failure.refused);
    match (action, done) {
        (_, Err(Failure { why, .. })) => {
            course.at = now + course.backoff.next_delay();
            if course.said != why {
                let gateway = course.gateway.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(object = %id, gateway, why, "what a Gateway needs could not be made; trying again");
                course.said = why;
            }
        }
        (Action::Apply { gateway, object, upon }, Ok(version)) => {
            course.said.clear();
            course.times += 1;
            let changed = upon.as_deref() != Some(&version);
            if changed {
                tracing::info!(object = %id, %gateway, made = upon.is_none(), "applied");
            }
            course.settled = Some((upon.unwrap_or_default(), version, object));
            // Somebody who undoes it must not be answered as fast as it is undone.
            if course.times > FREELY {
                let delay = course.backoff.next_delay();
                course.at = now + delay;
                tracing::warn!(object = %id, times = course.times, ?delay, "somebody else keeps changing it; going slowly");
            }
        }
        (_, Ok(_)) => {
            course.said.clear();
            tracing::info!(object = %id, "deleted");
        }
    }
}

#[cfg(test)]
mod tests;
