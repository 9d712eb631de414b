//! Manifests in, objects or messages out.

mod admission;
mod crds;
mod files;
mod robustness;

use serde_json::Value;

use crate::{FieldError, admit};

/// One YAML document.
pub(crate) fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The messages an object is refused with.
pub(crate) fn refused(text: &str) -> Vec<String> {
    let errors: Vec<FieldError> = admit(yaml(text), None).expect_err("must be refused");
    errors.iter().map(ToString::to_string).collect()
}

#[track_caller]
pub(crate) fn accepted(text: &str) -> Value {
    admit(yaml(text), None).unwrap_or_else(|errors| {
        panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}
