//! Statuses: our part is merged into what the object's status says, and written only if that differs.

mod files;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use files::StatusWriter;

use crate::inputs::{Heads, Kind, ObjectId};
use crate::translate::status::{CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME, Status};

/// The condition types that are ours where we write; others in there are somebody else's and stay.
pub const OWNED: [&str; 9] = [
    "Accepted",
    "AddressesAssigned",
    "Conflicted",
    "InsecureFrontendValidationMode",
    "OverlappingTLSConfig",
    "PartiallyInvalid",
    "Programmed",
    "ResolvedRefs",
    "SupportedVersion",
];

/// Lists that are shared with other controllers: the field, and what an entry is known by beside its controllerName.
const SHARED: [(&str, &str); 2] = [("parents", "parentRef"), ("ancestors", "ancestorRef")];

/// The most entries of such a list that the API admits.
const fn most(of: &Status) -> usize {
    if matches!(of, Status::Policy(_)) { 16 } else { 32 }
}

/// The statuses that a translation gave.
pub type Statuses = Arc<BTreeMap<ObjectId, Status>>;

/// Where statuses go.
pub trait StatusSink: Send + 'static {
    /// Sees to it that every status that differs from what is written is written, and that nothing of ours stays with
    /// objects that have none any more. One that cannot be written does not keep the others from being written; what
    /// failed at once is returned. `objects` are all that there are; `now` is the time for conditions that change, as
    /// RFC 3339.
    fn write(&mut self, statuses: &Statuses, objects: &Heads, now: &str) -> Vec<io::Error>;
}

/// The object's status with our part brought up to date. `current` is the object's own status; `before` what we
/// wrote last, where that is kept apart from the object. What others write stays: fields that are not ours, conditions
/// of types that are not ours, entries of other controllers in lists that are shared. All entries of such a list stay
/// where they are, so that two who write do not push each other about; ours that are not wanted any more go. A
/// condition keeps its `lastTransitionTime` while its status stays the same.
pub fn merge(current: &Value, before: Option<&Value>, ours: &Status, now: &str) -> Value {
    let mut status = current.as_object().cloned().unwrap_or_else(Map::new);
    for (field, value) in fields(ours) {
        let merged = match SHARED.iter().find(|(list, _)| *list == field) {
            Some(shared) => merge_entries(shared, most(ours), (current, before), &value, now),
            None => merge_own(&field, value, before.unwrap_or(current), current, now),
        };
        status.insert(field, merged);
    }
    Value::Object(status)
}

/// The part of a merged status that a writer has to send: the fields that are ours, each whole.
pub fn part(merged: &Value, ours: &Status) -> Value {
    let part = fields(ours).into_iter().filter_map(|(field, _)| {
        let value = merged.get(&field)?.clone();
        Some((field, value))
    });
    Value::Object(part.collect())
}

/// What there is to write where nothing of ours should be; `None` if there is nothing of ours.
pub fn removal(kind: Kind, current: &Value) -> Option<Status> {
    let lists = SHARED.iter().flat_map(|(field, _)| list(Some(current), field));
    Status::nothing(kind).filter(|_| lists.into_iter().any(is_ours))
}

fn fields(ours: &Status) -> Map<String, Value> {
    match serde_json::to_value(ours) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// A field that is ours alone, but for foreign conditions in it.
fn merge_own(field: &str, mut value: Value, before: &Value, current: &Value, now: &str) -> Value {
    match field {
        "conditions" => {
            let known = [before, current].map(|status| list(Some(status), field));
            set_conditions(&mut value, &known, now);
        }
        "listeners" => {
            for listener in value.as_array_mut().into_iter().flatten() {
                let name = listener.get("name").cloned();
                let known = [before, current].map(|status| {
                    let same = |old: &&Value| old.get("name") == name.as_ref();
                    list(list(Some(status), field).iter().find(same), "conditions")
                });
                if let Some(conditions) = listener.get_mut("conditions") {
                    set_conditions(conditions, &known, now);
                }
            }
        }
        _ => {}
    }
    value
}

fn merge_entries(
    (field, key): &(&str, &str),
    most: usize,
    (current, before): (&Value, Option<&Value>),
    ours: &Value,
    now: &str,
) -> Value {
    let same = |one: &Value, other: &Value| {
        one.get(key) == other.get(key) && one.get("controllerName") == other.get("controllerName")
    };
    let mut wanted: Vec<Option<Value>> = ours.as_array().into_iter().flatten().cloned().map(Some).collect();
    for entry in wanted.iter_mut().flatten() {
        let known = [before, Some(current)]
            .map(|status| list(list(status, field).iter().find(|old| same(old, entry)), "conditions"));
        if let Some(conditions) = entry.get_mut("conditions") {
            set_conditions(conditions, &known, now);
        }
    }
    let mut merged: Vec<Value> = Vec::new();
    for old in list(Some(current), field) {
        if !is_ours(old) {
            merged.push(old.clone());
            continue;
        }
        let this = |new: &&mut Option<Value>| new.as_ref().is_some_and(|new| same(new, old));
        merged.extend(wanted.iter_mut().find(this).and_then(Option::take));
    }
    // Those that are there come first.
    let room = most.saturating_sub(merged.len());
    merged.extend(wanted.into_iter().flatten().take(room));
    Value::Array(merged)
}

fn list<'a>(of: Option<&'a Value>, field: &str) -> &'a [Value] {
    of.and_then(|of| of.get(field)).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn is_ours(entry: &Value) -> bool {
    let controller = entry.get("controllerName").and_then(Value::as_str);
    [CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME].map(Some).contains(&controller)
}

/// Gives conditions their times, and adds those of the newest `known` that are somebody else's. The first of the lists
/// in which a condition is found tells since when it holds.
fn set_conditions(conditions: &mut Value, known: &[&[Value]; 2], now: &str) {
    let Some(conditions) = conditions.as_array_mut() else { return };
    for condition in &mut *conditions {
        let same = |old: &&Value| {
            old.get("type") == condition.get("type") && old.get("status") == condition.get("status")
        };
        let earlier = known.iter().flat_map(|list| list.iter()).find(same);
        let time = earlier.and_then(|old| old.get("lastTransitionTime")).cloned();
        if let Some(fields) = condition.as_object_mut() {
            fields.insert("lastTransitionTime".to_owned(), time.unwrap_or_else(|| now.into()));
        }
    }
    // What we say of a type stands for what was said of it: two of one type are no status that an API server takes.
    let is_owned = |old: &&Value| {
        old.get("type").and_then(Value::as_str).is_none_or(|kind| OWNED.contains(&kind))
            || conditions.iter().any(|now| now.get("type") == old.get("type"))
    };
    let newest = known.iter().rev().find(|list| !list.is_empty());
    let others = newest.into_iter().flat_map(|list| list.iter()).filter(|old| !is_owned(old));
    let others: Vec<Value> = others.cloned().collect();
    conditions.extend(others);
}

#[cfg(test)]
mod tests;
