//! Which kinds there are, and what an API server does to an object of each.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use crate::core;
use crate::object::FieldError;
use crate::rules::broken_rules;
use crate::schema::{Schema, apply_defaults, unknown_fields, validate};

/// A CustomResourceDefinition, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Definition {
    spec: DefinitionSpec,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DefinitionSpec {
    pub(crate) group: String,
    pub(crate) names: Names,
    pub(crate) scope: String,
    pub(crate) versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Names {
    pub(crate) kind: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) served: bool,
    pub(crate) schema: VersionSchema,
}

#[derive(Debug, Deserialize)]
pub(crate) struct VersionSchema {
    #[serde(rename = "openAPIV3Schema")]
    pub(crate) schema: Schema,
}

/// The definitions by group and kind.
pub(crate) type Definitions = BTreeMap<(String, String), DefinitionSpec>;

pub(crate) fn definitions() -> Result<&'static Definitions, FieldError> {
    static DEFINITIONS: OnceLock<Result<Definitions, String>> = OnceLock::new();
    let read = || -> Result<Definitions, String> {
        let mut definitions = Definitions::new();
        for (file, text) in weft_gateway_api::CRDS {
            let definition: Definition =
                serde_saphyr::from_str(text).map_err(|error| format!("{file}: {error}"))?;
            let spec = definition.spec;
            definitions.insert((spec.group.clone(), spec.names.kind.clone()), spec);
        }
        Ok(definitions)
    };
    DEFINITIONS.get_or_init(read).as_ref().map_err(|error| FieldError::new("", error.clone()))
}

/// The kinds that [`admit`] knows, with their API groups (empty: the core group).
pub fn known_kinds() -> Vec<(String, String)> {
    let own = core::KINDS.iter().map(|kind| (kind.group().to_owned(), kind.kind.to_owned()));
    own.chain(definitions().into_iter().flatten().map(|(key, _)| key.clone())).collect()
}

/// Whether objects of a kind live in namespaces; `None`: unknown kind.
pub fn is_namespaced(api_version: &str, kind: &str) -> Option<bool> {
    if let Some(kind) = core::find(api_version, kind) {
        return Some(kind.namespaced);
    }
    let (group, _) = api_version.rsplit_once('/')?;
    let definition = definitions().ok()?.get(&(group.to_owned(), kind.to_owned()))?;
    Some(definition.scope == "Namespaced")
}

/// What an API server does to an object that is created (or, with `previous`, updated): unknown fields refused,
/// defaults applied, validated, CEL rules included. Of an older served version: converted to the newest.
pub fn admit(mut object: Value, previous: Option<&Value>) -> Result<Value, Vec<FieldError>> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    check_scope(&object, &api_version, &kind).map_err(|error| vec![error])?;
    if let Some(kind) = core::find(&api_version, &kind) {
        core::admit(kind, &mut object)?;
        return Ok(object);
    }
    let (definition, version) = find(&api_version, &kind).map_err(|error| vec![error])?;
    core::check_metadata(&object)?;
    let schema = &version.schema.schema;
    let mut errors = Vec::new();
    unknown_fields(schema, &object, "", &mut errors);
    refuse_if_any(&mut errors)?;
    apply_defaults(schema, &mut object);
    validate(schema, &object, "", &mut errors);
    // Rules may rely on the types they see, so they come last.
    refuse_if_any(&mut errors)?;
    broken_rules(schema, &object, previous, "", &mut errors);
    refuse_if_any(&mut errors)?;
    convert(definition, version, object)
}

fn refuse_if_any(errors: &mut Vec<FieldError>) -> Result<(), Vec<FieldError>> {
    if errors.is_empty() { Ok(()) } else { Err(std::mem::take(errors)) }
}

fn find(api_version: &str, kind: &str) -> Result<(&'static DefinitionSpec, &'static Version), FieldError> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let Some(definition) = definitions()?.get(&(group.to_owned(), kind.to_owned())) else {
        let message = format!("unknown kind {kind} of {api_version}: Weft works with {}", kinds_in_words());
        return Err(FieldError::new("", message));
    };
    let served: Vec<&Version> = definition.versions.iter().filter(|version| version.served).collect();
    match served.iter().find(|served| served.name == version) {
        Some(version) => Ok((definition, version)),
        None => {
            let names: Vec<_> = served.iter().map(|version| format!("{group}/{}", version.name)).collect();
            let message = format!("{kind} has no version {version}: use {}", names.join(" or "));
            Err(FieldError::new("apiVersion", message))
        }
    }
}

fn kinds_in_words() -> String {
    known_kinds().into_iter().map(|(_, kind)| kind).collect::<Vec<_>>().join(", ")
}

fn check_scope(object: &Value, api_version: &str, kind: &str) -> Result<(), FieldError> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    match (is_namespaced(api_version, kind), namespace) {
        (Some(true), None) => Err(FieldError::new("metadata.namespace", "required field is missing")),
        (Some(false), Some(_)) => {
            Err(FieldError::new("metadata.namespace", format!("{kind} lives in no namespace: remove it")))
        }
        _ => Ok(()),
    }
}

/// To the version listed first, which in the vendored CRDs is the newest: the others only differ in fields, so the
/// object gets its apiVersion, and must then fit its schema.
fn convert(definition: &DefinitionSpec, from: &Version, mut object: Value) -> Result<Value, Vec<FieldError>> {
    let newest = definition.versions.iter().find(|version| version.served);
    let Some(to) = newest.filter(|to| to.name != from.name) else { return Ok(object) };
    let api_version = format!("{}/{}", definition.group, to.name);
    let mut errors = Vec::new();
    unknown_fields(&to.schema.schema, &object, "", &mut errors);
    if errors.is_empty() {
        apply_defaults(&to.schema.schema, &mut object);
        validate(&to.schema.schema, &object, "", &mut errors);
    }
    for error in &mut errors {
        error.message = format!("cannot be converted to {api_version}: {}", error.message);
    }
    refuse_if_any(&mut errors)?;
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), api_version.into());
    }
    Ok(object)
}
