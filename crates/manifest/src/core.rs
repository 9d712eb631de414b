//! The built-in kinds: decoded by their k8s-openapi types, with the defaults and checks of the API server that matter
//! to a mesh.

mod check;
mod defaults;
mod strict;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::names::{is_dns_1035_label, is_dns_label, is_dns_subdomain};
use crate::object::FieldError;

type Errors = Vec<FieldError>;

/// A built-in kind.
#[derive(Debug)]
pub(crate) struct CoreKind {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    is_name: fn(&str) -> bool,
    decode: fn(&Value, &str, &mut Errors),
    fill: fn(&mut Value),
    check: fn(&Value, &mut Errors),
}

/// All built-in kinds known.
pub(crate) const KINDS: &[CoreKind] = &[
    CoreKind {
        api_version: "v1",
        kind: "Namespace",
        namespaced: false,
        is_name: is_dns_label,
        decode: strict::decode::<Namespace>,
        fill: defaults::namespace,
        check: |_, _| {},
    },
    CoreKind {
        api_version: "v1",
        kind: "Service",
        namespaced: true,
        is_name: is_dns_1035_label,
        decode: strict::decode::<Service>,
        fill: defaults::service,
        check: check::service,
    },
    CoreKind {
        api_version: "v1",
        kind: "Pod",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<Pod>,
        fill: defaults::pod,
        check: |pod, errors| check::pod_spec(pod, "", errors),
    },
    CoreKind {
        api_version: "v1",
        kind: "ServiceAccount",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<ServiceAccount>,
        fill: |_| {},
        check: |_, _| {},
    },
    CoreKind {
        api_version: "v1",
        kind: "Secret",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<Secret>,
        fill: defaults::secret,
        check: check::secret,
    },
    CoreKind {
        api_version: "v1",
        kind: "ConfigMap",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<ConfigMap>,
        fill: |_| {},
        check: |_, _| {},
    },
    CoreKind {
        api_version: "apps/v1",
        kind: "Deployment",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<Deployment>,
        fill: defaults::deployment,
        check: check::deployment,
    },
    CoreKind {
        api_version: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<EndpointSlice>,
        fill: defaults::endpoint_slice,
        check: check::endpoint_slice,
    },
    CoreKind {
        api_version: "networking.k8s.io/v1",
        kind: "NetworkPolicy",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<NetworkPolicy>,
        fill: defaults::network_policy,
        check: |_, _| {},
    },
    CoreKind {
        api_version: "policy/v1",
        kind: "PodDisruptionBudget",
        namespaced: true,
        is_name: is_dns_subdomain,
        decode: strict::decode::<PodDisruptionBudget>,
        fill: |_| {},
        check: |_, _| {},
    },
    CoreKind {
        api_version: "certificates.k8s.io/v1beta1",
        kind: "ClusterTrustBundle",
        namespaced: false,
        // That of its signer may stand before it, with colons for slashes.
        is_name: |name| name.split(':').all(is_dns_subdomain),
        decode: strict::decode::<ClusterTrustBundle>,
        fill: |_| {},
        check: |_, _| {},
    },
];

impl CoreKind {
    pub(crate) fn group(&self) -> &'static str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// The built-in kind of an object.
pub(crate) fn find(api_version: &str, kind: &str) -> Option<&'static CoreKind> {
    KINDS.iter().find(|known| known.api_version == api_version && known.kind == kind)
}

/// Checks an object of a built-in kind and fills in defaults.
pub(crate) fn admit(kind: &CoreKind, object: &mut Value) -> Result<(), Errors> {
    let mut errors = Vec::new();
    strict::numbers_to_quantities(object);
    (kind.decode)(object, "", &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    (kind.fill)(object);
    check::metadata(object, kind.is_name, &mut errors);
    (kind.check)(object, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Checks the metadata of an object of a custom kind.
pub(crate) fn check_metadata(object: &Value) -> Result<(), Errors> {
    let mut errors = Vec::new();
    if let Some(metadata) = object.get("metadata") {
        strict::decode::<ObjectMeta>(metadata, "metadata", &mut errors);
    }
    check::metadata(object, is_dns_subdomain, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
