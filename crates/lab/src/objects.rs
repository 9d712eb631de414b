//! Kubernetes objects as raw JSON: their key, their metadata, and decoding to the typed form.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Kind, namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of(object: &Value) -> Self {
        Self::new(text(object, "/kind"), text(object, "/metadata/namespace"), text(object, "/metadata/name"))
    }

    /// Path below the cluster folder.
    pub(crate) fn path(&self) -> String {
        let namespace = if self.namespace.is_empty() { "_" } else { &self.namespace };
        format!("{}/{namespace}/{}.json", self.kind, self.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// The string at a JSON pointer, or the empty string.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Sets a field of `metadata`.
pub(crate) fn set_metadata(object: &mut Value, field: &str, value: Value) {
    if let Some(root) = object.as_object_mut() {
        let metadata = root.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// Sets a top-level field.
pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(root) = object.as_object_mut() {
        root.insert(field.to_owned(), value);
    }
}

/// Decodes to a typed object; the error names the field.
pub(crate) fn decode<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    T::deserialize(object).map_err(|e| e.to_string())
}

/// Does every label of the selector stand in the labels? An empty selector selects nothing.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let Some(wanted) = selector.as_object().filter(|s| !s.is_empty()) else { return false };
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// `metav1.Time` of now.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random version 4 UUID.
pub(crate) fn new_uid() -> String {
    let mut b: [u8; 16] = rand::random();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    [0..8, 8..12, 12..16, 16..20, 20..32].map(|r| hex.get(r).unwrap_or_default()).join("-")
}

/// A suffix as the controllers of Kubernetes append to names: no vowels, nothing that looks alike.
pub(crate) fn random_suffix(length: usize) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length)
        .map(|_| LETTERS.get(rand::random_range(0..LETTERS.len())).map_or('x', |l| char::from(*l)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_selector_selects_nothing() {
        let labels = serde_json::json!({"app": "web"});
        assert!(selects(&serde_json::json!({"app": "web"}), &labels));
        assert!(!selects(&serde_json::json!({"app": "web", "v": "1"}), &labels));
        assert!(!selects(&serde_json::json!({}), &labels));
        assert!(!selects(&Value::Null, &labels));
    }

    #[test]
    fn uids_are_version_4_uuids() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
    }
}
