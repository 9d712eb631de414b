//! What an object of the Gateway API says of itself, whatever its kind: what its status is written by.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use weft_model::ObjectName;

use super::Kind;

/// Which object, written `Gateway/shop/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, empty for what lives in none, and its name.
    pub name: ObjectName,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name } = self;
        match &*name.namespace {
            "" => write!(f, "{kind}/{}", name.name),
            _ => write!(f, "{kind}/{name}"),
        }
    }
}

/// Metadata and status of an object that has a status of ours.
#[derive(Clone, Debug)]
pub struct Head {
    /// Which object.
    pub id: ObjectId,
    /// `apiVersion`, as written.
    pub api_version: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`; empty in a folder.
    pub resource_version: String,
    /// `metadata.creationTimestamp`, seconds since the epoch; 0 when absent.
    pub created: i64,
    /// `status`, as it stands in the object: what others have written is in there too.
    pub status: Value,
}

/// The objects whose status we may write.
pub type Heads = BTreeMap<ObjectId, Arc<Head>>;

impl Head {
    /// Reads it, of an object of this kind and name.
    pub(super) fn read(kind: Kind, name: ObjectName, object: &Value) -> Arc<Self> {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let created = text("/metadata/creationTimestamp").parse::<jiff::Timestamp>();
        Arc::new(Self {
            id: ObjectId { kind, name },
            api_version: text("/apiVersion"),
            uid: text("/metadata/uid"),
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
            resource_version: text("/metadata/resourceVersion"),
            created: created.map_or(0, jiff::Timestamp::as_second),
            status: object.get("status").cloned().unwrap_or(Value::Null),
        })
    }

    /// Its name.
    pub fn name(&self) -> &ObjectName {
        &self.id.name
    }
}
