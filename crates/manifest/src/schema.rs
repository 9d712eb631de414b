//! Structural schemas of CustomResourceDefinitions. A keyword that this does not know is an error when the schema is
//! read, so that nothing is passed unchecked.

mod fill;
mod validate;

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Number, Value};

use crate::rules::Rule;

pub(crate) use fill::{apply_defaults, unknown_fields};
pub(crate) use validate::{same_key, validate};

/// An `openAPIV3Schema` or a part of one.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Schema {
    #[serde(rename = "type")]
    pub(crate) kind: Option<Kind>,
    /// For people.
    #[serde(rename = "description")]
    _description: Option<String>,
    pub(crate) default: Option<Value>,
    #[serde(rename = "enum")]
    pub(crate) allowed: Option<Vec<Value>>,
    pub(crate) format: Option<Format>,
    pub(crate) nullable: bool,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) min_length: Option<usize>,
    pub(crate) max_length: Option<usize>,
    pub(crate) minimum: Option<Number>,
    pub(crate) maximum: Option<Number>,
    pub(crate) items: Option<Box<Self>>,
    pub(crate) min_items: Option<usize>,
    pub(crate) max_items: Option<usize>,
    pub(crate) properties: BTreeMap<String, Self>,
    pub(crate) additional_properties: Option<Box<Self>>,
    pub(crate) min_properties: Option<usize>,
    pub(crate) max_properties: Option<usize>,
    pub(crate) required: Vec<String>,
    pub(crate) any_of: Vec<Self>,
    pub(crate) one_of: Vec<Self>,
    pub(crate) all_of: Vec<Self>,
    pub(crate) not: Option<Box<Self>>,
    #[serde(rename = "x-kubernetes-list-type")]
    pub(crate) list_type: Option<ListType>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    pub(crate) list_map_keys: Vec<String>,
    /// Says how server-side apply merges; of no meaning here.
    #[serde(rename = "x-kubernetes-map-type")]
    _map_type: Option<String>,
    #[serde(rename = "x-kubernetes-validations")]
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// The formats that the vendored schemas use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    Int32,
    Int64,
    DateTime,
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ListType {
    Atomic,
    Set,
    Map,
}

/// A `pattern` with its expression: matches anywhere unless it says otherwise.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pattern {
    pub(crate) text: String,
    pub(crate) regex: Regex,
}

impl TryFrom<String> for Pattern {
    type Error = regex::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Go writes `\/` for a slash, which Rust's syntax does not need to escape.
        let regex = Regex::new(&text.replace(r"\/", "/"))?;
        Ok(Self { text, regex })
    }
}

impl Schema {
    /// The schema of a field; of `properties` first, as a schema has either.
    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional_properties.as_deref())
    }

    /// An object of which nothing is said: `metadata` of the root.
    pub(crate) fn is_open(&self) -> bool {
        self.kind == Some(Kind::Object) && self.properties.is_empty() && self.additional_properties.is_none()
    }
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `parent.name`, or `name` at the root.
pub(crate) fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// `parent[place]`.
pub(crate) fn element(path: &str, place: usize) -> String {
    format!("{path}[{place}]")
}
