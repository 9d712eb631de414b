//! Values against a schema, apart from the CEL rules.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Number, Value};

use super::{Format, Kind, ListType, Schema, child, element};
use crate::object::FieldError;

/// Everything in `value` that the schema refuses.
pub(crate) fn validate(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if value.is_null() && schema.nullable {
        return;
    }
    if let Some(kind) = schema.kind.filter(|kind| !is_of(*kind, value)) {
        let message = format!("must be of type {}, not {}", kind.as_str(), type_of(value));
        errors.push(FieldError::new(path, message));
        return;
    }
    if let Some(allowed) = schema.allowed.as_ref().filter(|allowed| !allowed.contains(value)) {
        let words: Vec<String> = allowed.iter().map(Value::to_string).collect();
        errors.push(FieldError::new(path, format!("must be one of {}, is {value}", words.join(", "))));
    }
    match value {
        Value::String(text) => string(schema, text, path, errors),
        Value::Number(number) => numeric(schema, number, path, errors),
        Value::Array(items) => array(schema, items, path, errors),
        Value::Object(_) => object(schema, value, path, errors),
        _ => {}
    }
    combined(schema, value, path, errors);
}

fn is_of(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Object => value.is_object(),
        Kind::Array => value.is_array(),
        Kind::String => value.is_string(),
        Kind::Integer => value.is_i64() || value.is_u64(),
        Kind::Number => value.is_number(),
        Kind::Boolean => value.is_boolean(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => Kind::Boolean.as_str(),
        Value::Number(number) if number.is_f64() => Kind::Number.as_str(),
        Value::Number(_) => Kind::Integer.as_str(),
        Value::String(_) => Kind::String.as_str(),
        Value::Array(_) => Kind::Array.as_str(),
        Value::Object(_) => Kind::Object.as_str(),
    }
}

fn string(schema: &Schema, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let length = text.chars().count();
    bounds(length, (schema.min_length, schema.max_length), "characters", path, errors);
    if let Some(pattern) = schema.pattern.as_ref().filter(|pattern| !pattern.regex.is_match(text)) {
        errors.push(FieldError::new(path, format!("{text:?} must match {}", pattern.text)));
    }
    let problem = match schema.format {
        Some(Format::DateTime) if text.parse::<jiff::Timestamp>().is_err() => "an RFC 3339 time",
        Some(Format::Ipv4) if text.parse::<Ipv4Addr>().is_err() => "an IPv4 address",
        Some(Format::Ipv6) if text.parse::<Ipv6Addr>().is_err() => "an IPv6 address",
        _ => return,
    };
    errors.push(FieldError::new(path, format!("{text:?} must be {problem}")));
}

fn numeric(schema: &Schema, number: &Number, path: &str, errors: &mut Vec<FieldError>) {
    let value = number.as_f64().unwrap_or(f64::NAN);
    let bound = |bound: &Option<Number>| bound.as_ref().and_then(Number::as_f64);
    if let Some(minimum) = bound(&schema.minimum).filter(|minimum| value < *minimum) {
        errors.push(FieldError::new(path, format!("must be at least {minimum}, is {number}")));
    }
    if let Some(maximum) = bound(&schema.maximum).filter(|maximum| value > *maximum) {
        errors.push(FieldError::new(path, format!("must be at most {maximum}, is {number}")));
    }
    let fits = match schema.format {
        Some(Format::Int32) => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        Some(Format::Int64) => number.as_i64().is_some(),
        _ => true,
    };
    if !fits {
        errors.push(FieldError::new(path, format!("{number} is too large")));
    }
}

fn array(schema: &Schema, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    bounds(items.len(), (schema.min_items, schema.max_items), "items", path, errors);
    if let Some(schema) = &schema.items {
        for (place, item) in items.iter().enumerate() {
            validate(schema, item, &element(path, place), errors);
        }
    }
    for (place, item) in items.iter().enumerate() {
        let earlier = items.iter().take(place);
        let duplicate = match schema.list_type {
            Some(ListType::Set) => earlier.filter(|other| *other == item).count() > 0,
            Some(ListType::Map) => earlier.filter(|other| same_key(schema, other, item)).count() > 0,
            Some(ListType::Atomic) | None => false,
        };
        if duplicate {
            let message = match schema.list_type {
                Some(ListType::Map) => {
                    format!("another item has the same {}", schema.list_map_keys.join(" and "))
                }
                _ => format!("{item} is there twice"),
            };
            errors.push(FieldError::new(element(path, place), message));
        }
    }
}

/// Whether two items of a map list have the same key.
pub(crate) fn same_key(schema: &Schema, a: &Value, b: &Value) -> bool {
    schema.list_map_keys.iter().all(|key| a.get(key) == b.get(key))
}

fn object(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(fields) = value.as_object() else { return };
    bounds(fields.len(), (schema.min_properties, schema.max_properties), "fields", path, errors);
    for name in schema.required.iter().filter(|name| !fields.contains_key(*name)) {
        errors.push(FieldError::new(child(path, name), "required field is missing"));
    }
    for (name, value) in fields {
        if let Some(schema) = schema.field(name) {
            validate(schema, value, &child(path, name), errors);
        }
    }
}

fn bounds(
    count: usize,
    (least, most): (Option<usize>, Option<usize>),
    what: &str,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if let Some(least) = least.filter(|least| count < *least) {
        errors.push(FieldError::new(path, format!("must have at least {least} {what}, has {count}")));
    }
    if let Some(most) = most.filter(|most| count > *most) {
        errors.push(FieldError::new(path, format!("must have at most {most} {what}, has {count}")));
    }
}

fn combined(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let holds = |schema: &Schema| {
        let mut found = Vec::new();
        validate(schema, value, path, &mut found);
        found.is_empty()
    };
    for schema in &schema.all_of {
        validate(schema, value, path, errors);
    }
    if !schema.any_of.is_empty() && !schema.any_of.iter().any(holds) {
        errors.push(FieldError::new(path, "must fit at least one of the schema's alternatives"));
    }
    if !schema.one_of.is_empty() && schema.one_of.iter().filter(|schema| holds(schema)).count() != 1 {
        errors.push(FieldError::new(path, "must fit exactly one of the schema's alternatives"));
    }
    if schema.not.as_deref().is_some_and(holds) {
        errors.push(FieldError::new(path, "must not have the form that the schema excludes"));
    }
}
