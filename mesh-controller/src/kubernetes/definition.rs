//! CustomResourceDefinitions, as far as they say which versions there are, of which release they are and which of some
//! fields they have. Their schemas, half a megabyte each, are not kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::ClusterResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use weft_model::Text;

use crate::inputs::installed::{self, BUNDLE_VERSION};

/// A CustomResourceDefinition.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Definition {
    meta: ObjectMeta,
    /// The release of the Gateway API that it is from, if it tells one.
    pub(crate) release: Option<Text>,
    /// Its versions.
    pub(crate) versions: Vec<Version>,
    /// Whether the API server has begun to serve it.
    pub(crate) established: bool,
}

/// A version of a definition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Version {
    /// Its name.
    pub(crate) name: String,
    /// Whether it can be asked for.
    pub(crate) served: bool,
    /// Which of the fields that features need its schema has.
    #[serde(rename = "schema", deserialize_with = "fields")]
    pub(crate) fields: BTreeSet<&'static str>,
}

fn fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<&'static str>, D::Error> {
    let schema = Value::deserialize(deserializer)?;
    Ok(schema.get("openAPIV3Schema").map(installed::fields).unwrap_or_default())
}

/// Anything may be null: a definition that was just created has `conditions: null`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    metadata: Option<WireMeta>,
    spec: Option<WireSpec>,
    status: Option<WireStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireMeta {
    name: Option<String>,
    resource_version: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    versions: Option<Vec<Version>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    conditions: Option<Vec<WireCondition>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl From<Wire> for Definition {
    fn from(wire: Wire) -> Self {
        let WireMeta { name, resource_version, annotations } = wire.metadata.unwrap_or_default();
        let conditions = wire.status.and_then(|status| status.conditions).unwrap_or_default();
        Self {
            meta: ObjectMeta { name, resource_version, ..ObjectMeta::default() },
            release: annotations
                .and_then(|all| all.get(BUNDLE_VERSION).map(|release| release.as_str().into())),
            versions: wire.spec.and_then(|spec| spec.versions).unwrap_or_default(),
            established: conditions.iter().any(|it| it.kind == "Established" && it.status == "True"),
        }
    }
}

impl Resource for Definition {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "CustomResourceDefinition".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "apiextensions.k8s.io".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "customresourcedefinitions".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_null_or_missing_is_nothing() {
        for odd in [
            json!({}),
            json!({"metadata": null, "spec": null, "status": null}),
            json!({"metadata": {"name": "a"}, "spec": {"versions": null}, "status": {"conditions": null}}),
        ] {
            let definition: Definition = serde_json::from_value(odd).unwrap();
            assert!(definition.versions.is_empty() && !definition.established);
        }
    }
}
