//! Names of Kubernetes objects.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A short text that is cloned often and never changed.
pub type Text = Arc<str>;

/// Namespace and name of a namespaced object, written `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName {
    /// The object's namespace.
    pub namespace: Text,
    /// The object's name.
    pub name: Text,
}

impl ObjectName {
    /// Names an object.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.to_string()
    }
}

/// A text that is not `namespace/name`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct NotAnObjectName(String);

impl FromStr for ObjectName {
    type Err = NotAnObjectName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err(NotAnObjectName(text.to_owned())),
        }
    }
}

impl TryFrom<String> for ObjectName {
    type Error = NotAnObjectName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}
