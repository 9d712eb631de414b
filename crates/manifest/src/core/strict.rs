//! Decoding that knows which fields it did not take.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::object::FieldError;
use crate::schema::{child, element};

/// Decodes `value` as a `T`. What `T` does not give back when it is encoded again, it did not know.
pub(super) fn decode<T: DeserializeOwned + Serialize>(
    value: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let decoded = match T::deserialize(value) {
        Ok(decoded) => decoded,
        Err(error) => {
            let place = culprit::<T>(value, path);
            errors.push(FieldError::new(place, error.to_string()));
            return;
        }
    };
    match serde_json::to_value(&decoded) {
        Ok(known) => lost(value, &known, path, errors),
        Err(error) => errors.push(FieldError::new(path, error.to_string())),
    }
}

/// Fields of `given` that `known` lacks. Nulls may be left out on encoding.
fn lost(given: &Value, known: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                let path = child(path, name);
                match known.get(name) {
                    Some(known) => lost(value, known, &path, errors),
                    None if value.is_null() => {}
                    None => errors.push(FieldError::new(path, "unknown field")),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (place, (given, known)) in given.iter().zip(known).enumerate() {
                lost(given, known, &element(path, place), errors);
            }
        }
        _ => {}
    }
}

/// The innermost field without which the whole would decode: serde's errors name no path.
fn culprit<T: DeserializeOwned>(root: &Value, path: &str) -> String {
    let mut pointer = String::new();
    let mut words = path.to_owned();
    while let Some((step, word)) = next_step::<T>(root, &pointer, &words) {
        pointer = step;
        words = word;
    }
    words
}

/// The child of what `pointer` names whose removal lets the whole decode.
fn next_step<T: DeserializeOwned>(root: &Value, pointer: &str, words: &str) -> Option<(String, String)> {
    let keys: Vec<(String, String)> = match root.pointer(pointer)? {
        Value::Object(fields) => fields.keys().map(|name| (escaped(name), child(words, name))).collect(),
        Value::Array(items) => {
            (0..items.len()).map(|place| (place.to_string(), element(words, place))).collect()
        }
        _ => return None,
    };
    keys.into_iter().find_map(|(key, words)| {
        let step = format!("{pointer}/{key}");
        let decodes = T::deserialize(&without(root, pointer, &key)?).is_ok();
        decodes.then_some((step, words))
    })
}

/// `root` without one child of what `pointer` names: an item is taken out of its list, a field becomes null, which
/// every field accepts here.
fn without(root: &Value, pointer: &str, key: &str) -> Option<Value> {
    let mut root = root.clone();
    match root.pointer_mut(pointer)? {
        Value::Array(items) => {
            items.remove(key.parse().ok()?);
        }
        parent => *parent.pointer_mut(&format!("/{key}"))? = Value::Null,
    }
    Some(root)
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// `cpu: 1` is a quantity too; the types want text.
pub(super) fn numbers_to_quantities(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match value {
                    Value::Object(quantities) if matches!(name.as_str(), "limits" | "requests") => {
                        for quantity in quantities.values_mut().filter(|quantity| quantity.is_number()) {
                            *quantity = quantity.to_string().into();
                        }
                    }
                    value => numbers_to_quantities(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(numbers_to_quantities),
        _ => {}
    }
}
