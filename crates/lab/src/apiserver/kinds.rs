//! Keys and admission of the user's objects. What an API server checks about kind, version, names,
//! fields and rules is `weft-manifest`'s; what only the lab refuses is here.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::Value;

use crate::objects::{Key, decode, text};

/// The key of an object; the namespace defaults as kubectl would.
pub(crate) fn key(object: &Value) -> Key {
    let mut key = Key::of(object);
    match weft_manifest::is_namespaced(text(object, "/apiVersion"), &key.kind) {
        Some(false) => {}
        _ if key.namespace.is_empty() => "default".clone_into(&mut key.namespace),
        _ => {}
    }
    key
}

/// The object with defaults, or every reason why an API server would refuse it.
pub(crate) fn admit(key: &Key, object: Value, previous: Option<&Value>) -> Result<Value, String> {
    if key.kind == "Node" {
        return Err("nodes are the lab's own: choose their number with --nodes".to_owned());
    }
    if key.kind == "ConfigMap" && text(&object, "/apiVersion") == "v1" {
        // Only the lab has a use for these, as pods' volumes and environment.
        decode::<ConfigMap>(&object)?;
        return Ok(object);
    }
    let secret = key.kind == "Secret";
    let admitted = weft_manifest::admit(object, previous)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    if secret { with_data_only(admitted) } else { Ok(admitted) }
}

/// `stringData` is for writing: what is stored and read is `data`.
fn with_data_only(object: Value) -> Result<Value, String> {
    let mut secret: Secret = decode(&object)?;
    let strings = secret.string_data.take().into_iter().flatten();
    let strings = strings.map(|(key, text)| (key, ByteString(text.into_bytes())));
    secret.data.get_or_insert_default().extend(strings);
    serde_json::to_value(secret).map_err(|error| error.to_string())
}
