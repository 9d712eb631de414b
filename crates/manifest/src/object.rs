//! An object from a file, and what can be wrong with it.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

/// Where an object was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// The document in the file, from 1.
    pub document: usize,
    /// The line the document begins on, or the line of an error; from 1.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} (document {})", self.path.display(), self.line, self.document)
    }
}

/// A Kubernetes object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`; `None` for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
    /// The whole object.
    pub json: Value,
    /// Where it was written.
    pub source: Source,
}

impl Object {
    /// The object's identity in words: `HTTPRoute shop/cart`.
    pub fn title(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// API group (empty for the core group), kind, namespace and name: what may exist once.
    pub fn key(&self) -> (String, String, Option<String>, String) {
        let group = self.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        (group.to_owned(), self.kind.clone(), self.namespace.clone(), self.name.clone())
    }
}

/// Something wrong with a file or an object in it; the other objects are not concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub source: Option<Source>,
    /// The object, as [`Object::title`] says it, where it is known.
    pub object: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

// By hand: a derive would take the field `source` for the cause.
impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A field that the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct FieldError {
    /// The field's path, for example `spec.rules[0].backendRefs[1].port`; empty for the whole object.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}
