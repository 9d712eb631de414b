//! Unknown fields and defaults.

use serde_json::Value;

use super::{Schema, child, element};
use crate::object::FieldError;

/// Every field that the schema does not have: an API server drops them, `kubectl` refuses them, and so does Weft.
pub(crate) fn unknown_fields(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if schema.is_open() {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = child(path, name);
                match schema.field(name) {
                    Some(schema) => unknown_fields(schema, value, &path, errors),
                    None => errors.push(FieldError::new(path, "unknown field")),
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for (place, item) in items.iter().enumerate() {
                unknown_fields(schema, item, &element(path, place), errors);
            }
        }
        _ => {}
    }
}

/// Adds defaults, outermost first, as the API server does. A null where none is allowed and a default exists is
/// dropped first; defaults inside a field that is absent are not applied.
pub(crate) fn apply_defaults(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                let replaces = fields.get(name).is_none_or(|value| value.is_null() && !property.nullable);
                if replaces {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                if let Some(schema) = schema.field(name) {
                    apply_defaults(schema, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for item in items {
                    apply_defaults(schema, item);
                }
            }
        }
        _ => {}
    }
}
