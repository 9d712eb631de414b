//! CustomResourceDefinitions, as far as they say which versions there are. Their schemas, half a megabyte each, are not
//! kept.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::ClusterResourceScope;
use serde::Deserialize;

/// A CustomResourceDefinition.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Definition {
    meta: ObjectMeta,
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
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    metadata: WireMeta,
    spec: WireSpec,
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireMeta {
    name: Option<String>,
    resource_version: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    versions: Vec<Version>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    conditions: Vec<WireCondition>,
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
        let WireMeta { name, resource_version } = wire.metadata;
        let mut conditions = wire.status.conditions.iter();
        Self {
            meta: ObjectMeta { name, resource_version, ..ObjectMeta::default() },
            versions: wire.spec.versions,
            established: conditions.any(|it| it.kind == "Established" && it.status == "True"),
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
