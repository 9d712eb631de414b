//! How each kind that is read is called on an API server, and which version of it is asked for.

use kube::core::{ApiResource, GroupVersionKind};

use super::definition::{Definition, Version};
use super::follow::Selector;
use crate::inputs::installed;
use crate::inputs::{EXPERIMENTAL, GATEWAY_API, Kind, RouteKind, TRUST_BUNDLES, VERSIONS};

/// Group and plural of a kind.
pub(crate) const fn place(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Namespace => ("", "namespaces"),
        Kind::Node => ("", "nodes"),
        Kind::Service => ("", "services"),
        Kind::Pod => ("", "pods"),
        Kind::Secret => ("", "secrets"),
        Kind::ConfigMap => ("", "configmaps"),
        Kind::EndpointSlice => ("discovery.k8s.io", "endpointslices"),
        Kind::NetworkPolicy => ("networking.k8s.io", "networkpolicies"),
        Kind::ClusterTrustBundle => (TRUST_BUNDLES, "clustertrustbundles"),
        Kind::GatewayClass => (GATEWAY_API, "gatewayclasses"),
        Kind::Gateway => (GATEWAY_API, "gateways"),
        Kind::ListenerSet => (GATEWAY_API, "listenersets"),
        Kind::Route(RouteKind::Grpc) => (GATEWAY_API, "grpcroutes"),
        Kind::Route(RouteKind::Http) => (GATEWAY_API, "httproutes"),
        Kind::Route(RouteKind::Tls) => (GATEWAY_API, "tlsroutes"),
        Kind::Route(RouteKind::Tcp) => (GATEWAY_API, "tcproutes"),
        Kind::Route(RouteKind::Udp) => (GATEWAY_API, "udproutes"),
        Kind::BackendTlsPolicy => (GATEWAY_API, "backendtlspolicies"),
        Kind::BackendTrafficPolicy => (EXPERIMENTAL, "xbackendtrafficpolicies"),
        Kind::XBackend => (EXPERIMENTAL, "xbackends"),
        Kind::ReferenceGrant => (GATEWAY_API, "referencegrants"),
    }
}

/// A kind in one version.
pub(crate) fn resource(kind: Kind, version: &str) -> ApiResource {
    let (group, plural) = place(kind);
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), plural)
}

/// A kind in the version that an object's `apiVersion` names.
pub(crate) fn resource_in(kind: Kind, api_version: &str) -> ApiResource {
    resource(kind, api_version.rsplit('/').next().unwrap_or_default())
}

/// Which objects of a kind are read.
pub(crate) fn selector(kind: Kind) -> Selector<'static> {
    match kind {
        Kind::Secret => Selector::fields("type=kubernetes.io/tls"),
        _ => Selector::ALL,
    }
}

/// The name of the CustomResourceDefinition that makes a kind; `None` for one that is built in.
pub(crate) fn definition(kind: Kind) -> Option<String> {
    let (group, plural) = place(kind);
    matches!(group, GATEWAY_API | EXPERIMENTAL).then(|| format!("{plural}.{group}"))
}

/// Whether a built-in kind is not served everywhere: then discovery tells in which version it is.
pub(crate) const fn is_optional(kind: Kind) -> bool {
    matches!(kind, Kind::ClusterTrustBundle)
}

/// What a definition offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It is not known yet whether there is one.
    Unknown,
    /// There is none: nor are there objects.
    Absent,
    /// There is one, but it is not established or no version of it is served: objects cannot be read. What was read
    /// before stays in force.
    Nothing,
    /// This version is read.
    Version(String),
}

impl Served {
    /// The best of the versions that are known, or else the first that is served: its routes cannot be carried out,
    /// but they are seen, refuse and say so.
    pub(crate) fn of(definition: &Definition) -> Self {
        let offered = |version: &&Version| version.served && definition.established;
        let served = || definition.versions.iter().filter(offered).map(|version| &version.name);
        let known = VERSIONS.iter().find(|known| served().any(|name| name == *known));
        match known.map(|name| (*name).to_owned()).or_else(|| served().next().cloned()) {
            Some(version) => Self::Version(version),
            None => Self::Nothing,
        }
    }
}

/// What a definition says to translations: its release, and which fields the version that is read has.
pub(crate) fn installed(definition: &Definition) -> installed::Definition {
    let read = match Served::of(definition) {
        Served::Version(name) => definition.versions.iter().find(|version| version.name == name),
        Served::Unknown | Served::Absent | Served::Nothing => None,
    };
    let fields = read.map(|version| version.fields.clone()).unwrap_or_default();
    installed::Definition { release: definition.release.clone(), fields }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn served(versions: &[(&str, bool)]) -> Served {
        let versions: Vec<_> =
            versions.iter().map(|(name, served)| json!({"name": name, "served": served})).collect();
        Served::of(&definition("True", &json!(versions)))
    }

    fn definition(established: &str, versions: &serde_json::Value) -> Definition {
        let conditions = json!([{"type": "Established", "status": established}]);
        let definition = json!({
            "metadata": {"name": "x"}, "spec": {"versions": versions}, "status": {"conditions": conditions},
        });
        serde_json::from_value(definition).unwrap()
    }

    #[test]
    fn best_known_version_that_is_served_is_read() {
        let version = |name: &str| Served::Version(name.to_owned());
        assert_eq!(served(&[("v1alpha2", true), ("v1", true), ("v1beta1", true)]), version("v1"));
        assert_eq!(served(&[("v1alpha2", true), ("v1", false), ("v1alpha3", true)]), version("v1alpha3"));
        assert_eq!(served(&[("v3", false), ("v2", true)]), version("v2"));
        assert_eq!(served(&[("v1", false)]), Served::Nothing);
        let early = definition("False", &json!([{"name": "v1", "served": true}]));
        assert_eq!(Served::of(&early), Served::Nothing);
    }

    #[test]
    fn kinds_are_asked_for_where_they_are_served() {
        let url = |kind, version: &str| {
            use crate::kubernetes::raw::Raw;
            <Raw as kube::Resource>::url_path(&resource(kind, version), None)
        };
        assert_eq!(url(Kind::Pod, "v1"), "/api/v1/pods");
        assert_eq!(url(Kind::EndpointSlice, "v1"), "/apis/discovery.k8s.io/v1/endpointslices");
        let http = Kind::Route(RouteKind::Http);
        assert_eq!(url(http, "v1beta1"), "/apis/gateway.networking.k8s.io/v1beta1/httproutes");
        assert_eq!(super::definition(http).as_deref(), Some("httproutes.gateway.networking.k8s.io"));
        assert_eq!(super::definition(Kind::Pod), None);
    }
}
