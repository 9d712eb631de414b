//! Route statuses: our entries are merged into what the object's status says, and written only if that differs.

mod files;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use files::StatusWriter;

use crate::inputs::{Route, RouteName};
use crate::translate::status::{CONTROLLER_NAME, RouteStatus};

/// The condition types that are ours in an entry of ours; others in there are somebody else's and stay.
const OWNED: [&str; 3] = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];

/// `status.parents` has at most this many entries.
const ENTRIES: usize = 32;

/// The statuses that a translation gave.
pub type Statuses = Arc<BTreeMap<RouteName, RouteStatus>>;

/// The routes that there are.
pub type Routes = BTreeMap<RouteName, Arc<Route>>;

/// Where statuses go.
pub trait StatusSink: Send + 'static {
    /// Sees to it that every status that differs from what is written is written, and that nothing of ours stays with
    /// routes that have none any more. One that cannot be written does not keep the others from being written; what
    /// failed at once is returned. `now` is the time for conditions that change, as RFC 3339.
    fn write(&mut self, statuses: &Statuses, routes: &Routes, now: &str) -> Vec<io::Error>;
}

/// The object's status with our entries brought up to date. `current` is the object's own status; `before` what we
/// wrote last, where that is kept apart from the object. The list of parents is shared with other controllers: all
/// entries stay where they are, so that two who write do not push each other about; those of others stay as they are,
/// and ours that are not wanted any more go. A condition keeps its `lastTransitionTime` while its status stays the
/// same.
pub fn merge(current: &Value, before: Option<&Value>, ours: &RouteStatus, now: &str) -> Value {
    let current_parents = parents(current);
    let known: Vec<&Value> = before.map(parents).unwrap_or_default().iter().chain(current_parents).collect();
    let wanted = ours.parents.iter().filter_map(|parent| {
        let mut entry = serde_json::to_value(parent).ok()?;
        let earlier = known.iter().find(|old| is_ours(old) && old.get("parentRef") == entry.get("parentRef"));
        set_times(&mut entry, earlier.copied(), now);
        Some(entry)
    });
    let mut wanted: Vec<Option<Value>> = wanted.map(Some).collect();
    let mut merged: Vec<Value> = Vec::new();
    for old in current_parents {
        if !is_ours(old) {
            merged.push(old.clone());
            continue;
        }
        let same = |new: &&mut Option<Value>| {
            new.as_ref().is_some_and(|new| new.get("parentRef") == old.get("parentRef"))
        };
        merged.extend(wanted.iter_mut().find(same).and_then(Option::take));
    }
    // The API admits 32 entries; those that are there come first.
    let room = ENTRIES.saturating_sub(merged.len());
    merged.extend(wanted.into_iter().flatten().take(room));
    let mut status = current.as_object().cloned().unwrap_or_else(Map::new);
    status.insert("parents".to_owned(), Value::Array(merged));
    Value::Object(status)
}

/// Whether a status has an entry of ours.
pub fn has_ours(status: &Value) -> bool {
    parents(status).iter().any(is_ours)
}

fn parents(status: &Value) -> &[Value] {
    status.get("parents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is_ours(entry: &Value) -> bool {
    entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER_NAME)
}

fn set_times(entry: &mut Value, earlier: Option<&Value>, now: &str) {
    let earlier = earlier.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
    let Some(conditions) = entry.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for condition in &mut *conditions {
        let same = |old: &&Value| {
            old.get("type") == condition.get("type") && old.get("status") == condition.get("status")
        };
        let time =
            earlier.into_iter().flatten().find(same).and_then(|old| old.get("lastTransitionTime")).cloned();
        if let Some(fields) = condition.as_object_mut() {
            fields.insert("lastTransitionTime".to_owned(), time.unwrap_or_else(|| now.into()));
        }
    }
    let kind = |condition: &Value| condition.get("type").and_then(Value::as_str).map(str::to_owned);
    let foreign = |old: &&Value| kind(old).is_some_and(|kind| !OWNED.contains(&kind.as_str()));
    conditions.extend(earlier.into_iter().flatten().filter(foreign).cloned());
}

#[cfg(test)]
mod tests;
