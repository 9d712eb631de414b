//! Enrolment on the API server: what the next leader begins with stands in annotations of the Namespace, what users see
//! in a condition of its status.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Error, ResourceExt};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use weft_model::Text;

use super::follow::{Event, Selector, explain, is, list, within};
use crate::enrolment::memory::{Memory, Unwritten};
use crate::enrolment::{CONDITION, NamespaceState, Record, SINCE_ANNOTATION, STATE_ANNOTATION};

/// Namespaces written at a time.
const PARALLEL: usize = 16;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How often a write is tried on what others have written meanwhile.
const CONFLICTS: u32 = 5;

/// The Namespaces of an API server.
pub struct Namespaces {
    api: Api<Namespace>,
    runtime: Handle,
    /// Those with something of ours, as they were seen or written last.
    known: BTreeMap<Text, Known>,
}

/// A Namespace, as far as it matters here.
#[derive(Clone, Debug, Default)]
struct Known {
    version: String,
    /// The two annotations, those that are there.
    annotations: BTreeMap<&'static str, String>,
    /// All conditions of its status.
    conditions: Vec<Value>,
}

/// What could not be written.
struct Failure {
    record: bool,
    error: Error,
}

impl Namespaces {
    /// Must be called on a runtime, and used on one of its threads for blocking work.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), runtime: Handle::current(), known: BTreeMap::new() }
    }

    async fn read_all(api: &Api<Namespace>) -> Result<BTreeMap<Text, Known>, Error> {
        let mut found = BTreeMap::new();
        list(api, Selector::ALL, &mut |event| {
            if let Event::Found(namespace) = event {
                found.insert(Text::from(namespace.name_any()), Known::of(&namespace));
            }
        })
        .await?;
        found.retain(|_, known: &mut Known| known.is_ours());
        Ok(found)
    }

    async fn write_all(
        &mut self,
        namespaces: &BTreeMap<Text, NamespaceState>,
        now: &str,
    ) -> Vec<(Text, Failure)> {
        let gone = self.known.keys().filter(|name| !namespaces.contains_key(*name));
        let wanted = namespaces.iter().map(|(name, state)| (name, Some(state)));
        let jobs = wanted.chain(gone.map(|name| (name, None))).filter_map(|(name, state)| {
            let known = self.known.get(name);
            let due = known.is_none_or(|known| known.differs(state));
            due.then(|| (name.clone(), state, known.cloned()))
        });
        let api = &self.api;
        let written = futures_util::stream::iter(jobs.collect::<Vec<_>>())
            .map(|(name, state, known)| async move {
                let written = write(api, &name, state, known, now).await;
                (name, written)
            })
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        let mut failures = Vec::new();
        for (name, (known, failure)) in written {
            match known.filter(Known::is_ours) {
                Some(known) => drop(self.known.insert(name.clone(), known)),
                None => drop(self.known.remove(&name)),
            }
            failures.extend(failure.map(|failure| (name, failure)));
        }
        failures
    }
}

impl std::fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespaces").field("known", &self.known.keys()).finish_non_exhaustive()
    }
}

impl Memory for Namespaces {
    fn read(&mut self) -> io::Result<BTreeMap<Text, Record>> {
        let read = self.runtime.block_on(Self::read_all(&self.api));
        self.known = read.map_err(|error| {
            io::Error::other(format!(
                "the enrolment of namespaces cannot be read, so that nothing is published: {}",
                explain(&error)
            ))
        })?;
        let record = |(name, known): (&Text, &Known)| Some((name.clone(), known.record()?));
        Ok(self.known.iter().filter_map(record).collect())
    }

    fn write(&mut self, namespaces: &BTreeMap<Text, NamespaceState>, now: &str) -> Vec<Unwritten> {
        let runtime = self.runtime.clone();
        let failures = runtime.block_on(self.write_all(namespaces, now));
        let told = failures.into_iter().map(|(namespace, Failure { record, error })| {
            let what = if record { "annotations" } else { "status" };
            let why = explain(&error);
            let error =
                format!("the enrolment of Namespace {namespace} was not written to its {what}: {why}");
            Unwritten { namespace, record, error: io::Error::other(error) }
        });
        told.collect()
    }
}

/// Brings one Namespace up to date. What is known of it then, if it is there and anything is. By way of the status
/// alone, which takes in annotations as well: so the right to change Namespaces themselves is not needed.
async fn write(
    api: &Api<Namespace>,
    name: &str,
    state: Option<&NamespaceState>,
    mut known: Option<Known>,
    now: &str,
) -> (Option<Known>, Option<Failure>) {
    let mut record = true;
    let mut last = None;
    for _ in 0..CONFLICTS {
        let current = match known.take() {
            Some(current) => current,
            None => match within(CALL, api.get_opt(name)).await {
                Ok(Some(namespace)) => Known::of(&namespace),
                // What is gone needs nothing.
                Ok(None) => return (None, None),
                Err(error) => return (None, Some(Failure { record, error })),
            },
        };
        let Some(patch) = current.due(state, now) else { return (Some(current), None) };
        record = current.annotations != annotations(state);
        match within(CALL, api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))).await {
            Ok(namespace) => known = Some(Known::of(&namespace)),
            Err(error) if is(&error, 404) => return (None, None),
            // Somebody has written meanwhile: on what stands there now.
            Err(error) if is(&error, 409) => last = Some(error),
            Err(error) => return (Some(current), Some(Failure { record, error })),
        }
    }
    if known.as_ref().is_some_and(|known| !known.differs(state)) {
        return (known, None);
    }
    let ignored = || Error::Service("the API server takes the patch and does not do what it says".into());
    (known, Some(Failure { record, error: last.unwrap_or_else(ignored) }))
}

/// As they should be.
fn annotations(state: Option<&NamespaceState>) -> BTreeMap<&'static str, String> {
    state.and_then(NamespaceState::record).map(|record| record.annotations()).unwrap_or_default()
}

impl Known {
    fn of(namespace: &Namespace) -> Self {
        let annotations = [STATE_ANNOTATION, SINCE_ANNOTATION].into_iter();
        let value = |key: &'static str| Some((key, namespace.annotations().get(key)?.clone()));
        let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        let json = |condition| serde_json::to_value(condition).ok();
        Self {
            version: namespace.resource_version().unwrap_or_default(),
            annotations: annotations.filter_map(value).collect(),
            conditions: conditions.into_iter().flatten().filter_map(json).collect(),
        }
    }

    fn record(&self) -> Option<Record> {
        Record::read(|key| self.annotations.get(key).map(String::as_str))
    }

    fn condition(&self) -> Option<&Value> {
        self.conditions.iter().find(|condition| is_ours(condition))
    }

    fn is_ours(&self) -> bool {
        !self.annotations.is_empty() || self.condition().is_some()
    }

    fn differs(&self, state: Option<&NamespaceState>) -> bool {
        self.due(state, "").is_some()
    }

    /// The patch that is needed, on condition that nobody has written meanwhile. The list of conditions is written as a
    /// whole, with others' as they are.
    fn due(&self, state: Option<&NamespaceState>, now: &str) -> Option<Value> {
        let (before, annotations) = (self.condition(), annotations(state));
        let wanted = state.map(|state| {
            let mut wanted = state.condition();
            let of = |condition: &Value, key: &str| condition.get(key).cloned();
            let since = before.filter(|before| of(before, "status") == of(&wanted, "status"));
            let since = since.and_then(|before| of(before, "lastTransitionTime"));
            if let Some(fields) = wanted.as_object_mut() {
                fields.insert("lastTransitionTime".to_owned(), since.unwrap_or_else(|| now.into()));
            }
            wanted
        });
        if before == wanted.as_ref() && self.annotations == annotations {
            return None;
        }
        let others = self.conditions.iter().filter(|condition| !is_ours(condition)).cloned();
        let all: Vec<Value> = others.chain(wanted).collect();
        let value = |key| annotations.get(key).map_or(Value::Null, |value| json!(value));
        Some(json!({
            "metadata": {
                "resourceVersion": self.version,
                "annotations": {
                    (STATE_ANNOTATION): value(STATE_ANNOTATION),
                    (SINCE_ANNOTATION): value(SINCE_ANNOTATION),
                },
            },
            "status": {"conditions": all},
        }))
    }
}

fn is_ours(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str) == Some(CONDITION)
}

#[cfg(test)]
mod tests;
