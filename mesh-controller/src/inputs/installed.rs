//! The Gateway API's CustomResourceDefinitions that are installed, as far as they decide which release they count as and
//! what a GatewayClass may claim: a field that the API server prunes is no feature, whatever Weft can do with it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weft_model::Text;

use super::Kind;

/// The annotation with a definition's release.
pub(crate) const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
/// The release that Weft is made for, as the beginning of its versions.
const RELEASE: &str = "v1.7.";

/// The definitions by kind. A kind that is not here is not installed.
pub type Definitions = BTreeMap<Kind, Definition>;

/// One definition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// Its release, as its annotation tells.
    pub release: Option<Text>,
    /// Which of [`FIELDS`] the version that is read has.
    pub(crate) fields: BTreeSet<&'static str>,
}

impl Definition {
    /// Whether it is of the release that Weft is made for. What this is for: `SupportedVersion` of a GatewayClass, which
    /// must be false when any definition has another release or tells none.
    pub(crate) fn is_supported(&self) -> bool {
        let patch = self.release.as_deref().and_then(|release| release.strip_prefix(RELEASE));
        patch.is_some_and(|patch| patch.parse::<u32>().is_ok())
    }
}

/// Fields that features need besides their kind, since some release or channel of the API lacks them: the path in the
/// schema, `[]` for the items of a list, `=` before a value that has to be one of those that are admitted.
pub(crate) const FIELDS: &[(&str, &str)] = &[
    ("BackendTLSPolicySANValidation", "spec.validation.subjectAltNames"),
    ("GRPCRouteNamedRouteRule", "spec.rules[].name"),
    ("GatewayAddressRoutability", "spec.addresses[].routability"),
    ("GatewayAddressRoutabilityCluster", "spec.addresses[].routability"),
    ("GatewayBackendClientCertificate", "spec.tls.backend.clientCertificateRef"),
    ("GatewayFrontendClientCertificateValidation", "spec.tls.frontend"),
    ("GatewayFrontendClientCertificateValidationInsecureFallback", "spec.tls.frontend"),
    ("GatewayInfrastructure", "spec.infrastructure"),
    ("GatewayListenerFilters", "spec.listeners[].filters"),
    ("HTTPRoute303RedirectStatusCode", "spec.rules[].filters[].requestRedirect.statusCode=303"),
    ("HTTPRoute307RedirectStatusCode", "spec.rules[].filters[].requestRedirect.statusCode=307"),
    ("HTTPRoute308RedirectStatusCode", "spec.rules[].filters[].requestRedirect.statusCode=308"),
    ("HTTPRouteBackendTimeout", "spec.rules[].timeouts.backendRequest"),
    ("HTTPRouteCORS", "spec.rules[].filters[].cors"),
    ("HTTPRouteDestinationPortMatching", "spec.parentRefs[].port"),
    ("HTTPRouteNamedRouteRule", "spec.rules[].name"),
    ("HTTPRouteParentRefPort", "spec.parentRefs[].port"),
    ("HTTPRouteRequestPercentageMirror", "spec.rules[].filters[].requestMirror.percent"),
    ("HTTPRouteRequestTimeout", "spec.rules[].timeouts.request"),
    ("HTTPRouteRetryCodes", "spec.rules[].retry"),
    ("HTTPRouteRetryConnectionError", "spec.rules[].retry"),
];

/// Whether the definitions have what a feature needs. A feature's name begins with that of its kind.
pub(crate) fn express(definitions: &Definitions, feature: &str) -> bool {
    let kind = Kind::ALL.into_iter().find(|kind| feature.starts_with(kind.as_str()));
    let Some(definition) = kind.and_then(|kind| definitions.get(&kind)) else { return false };
    let mut needed = FIELDS.iter().filter(|(name, _)| *name == feature);
    needed.all(|(_, field)| definition.fields.contains(field))
}

/// Which of [`FIELDS`] an OpenAPI schema has.
pub(crate) fn fields(schema: &Value) -> BTreeSet<&'static str> {
    FIELDS.iter().map(|(_, field)| *field).filter(|field| has(schema, field)).collect()
}

fn has(schema: &Value, field: &str) -> bool {
    let (path, value) = field.split_once('=').map_or((field, None), |(path, value)| (path, Some(value)));
    let mut at = Some(schema);
    for part in path.split('.') {
        let name = part.trim_end_matches("[]");
        at = at.and_then(|schema| schema.get("properties")?.get(name));
        if name != part {
            at = at.and_then(|schema| schema.get("items"));
        }
    }
    let admitted = |schema: &Value, value: &str| {
        let values = schema.get("enum").and_then(Value::as_array);
        values.is_none_or(|values| values.iter().any(|one| one.to_string().trim_matches('"') == value))
    };
    at.is_some_and(|schema| value.is_none_or(|value| admitted(schema, value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_found_in_objects_lists_and_values() {
        let code = json!({"enum": [301, 302], "type": "integer"});
        let rule = json!({"properties": {"name": {}, "filters": {"items": {"properties": {
            "requestRedirect": {"properties": {"statusCode": code}}, "cors": {},
        }}}}});
        let schema = json!({"properties": {"spec": {"properties": {"rules": {"items": rule}}}}});
        let redirect = "spec.rules[].filters[].requestRedirect.statusCode";
        assert!(has(&schema, "spec.rules[].name") && has(&schema, redirect));
        assert!(has(&schema, &format!("{redirect}=302")) && !has(&schema, &format!("{redirect}=308")));
        assert!(!has(&schema, "spec.rules[].retry") && !has(&schema, "spec.parentRefs[].port"));
        assert_eq!(fields(&schema), ["spec.rules[].name", "spec.rules[].filters[].cors"].into());
    }

    #[test]
    fn only_releases_of_this_minor_version_are_supported() {
        let of = |release: &str| Definition { release: Some(release.into()), ..Definition::default() };
        for known in ["v1.7.0", "v1.7.12"] {
            assert!(of(known).is_supported(), "{known}");
        }
        for other in ["v1.6.3", "v1.8.0", "v1.70.0", "v1.7.0-rc.1", "v1.7.", "main", ""] {
            assert!(!of(other).is_supported(), "{other}");
        }
        assert!(!Definition::default().is_supported());
    }
}
