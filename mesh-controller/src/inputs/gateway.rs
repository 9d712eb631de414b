//! Gateways and what they are made of: classes, listeners, policies, certificates and bundles of roots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use serde_json::Value;
use weft_gateway_api::backendtlspolicies::BackendTlsPolicySpec;
use weft_gateway_api::gatewayclasses::GatewayClassSpec;
use weft_gateway_api::gateways::GatewaySpec;
use weft_gateway_api::listenersets::ListenerSetSpec;
use weft_gateway_api::xbackends::XBackendSpec;
use weft_gateway_api::xbackendtrafficpolicies::XBackendTrafficPolicySpec;
use weft_model::gateway::Secret;
use weft_model::{ObjectName, Text};

use super::Kind;
use super::head::Head;
use super::object::{Spec, decode_spec};

/// An object of the Gateway API other than a route: who it is, and its spec or why that does not decode.
#[derive(Clone, Debug)]
pub struct Configured<S> {
    /// Metadata and status.
    pub head: Arc<Head>,
    /// The spec, or why it does not decode.
    pub spec: Result<S, String>,
    /// The spec as it is written, if it does not decode.
    raw: Value,
}

/// A GatewayClass.
pub type GatewayClass = Configured<GatewayClassSpec>;
/// A Gateway.
pub type Gateway = Configured<GatewaySpec>;
/// A ListenerSet.
pub type ListenerSet = Configured<ListenerSetSpec>;
/// A BackendTLSPolicy.
pub type BackendTlsPolicy = Configured<BackendTlsPolicySpec>;
/// An XBackendTrafficPolicy.
pub type BackendTrafficPolicy = Configured<XBackendTrafficPolicySpec>;
/// An XBackend.
pub type XBackend = Configured<XBackendSpec>;

impl<S: Spec> Configured<S> {
    pub(super) fn decode(kind: Kind, name: ObjectName, object: &Value) -> Result<Arc<Self>, String> {
        if name.name.is_empty() || name.namespace.is_empty() == kind.is_namespaced() {
            return Err("metadata.namespace or metadata.name is missing".to_owned());
        }
        let head = Head::read(kind, name, object);
        let raw = object.get("spec").unwrap_or(&Value::Null);
        let spec = decode_spec(&head.api_version, raw);
        let raw = if spec.is_err() { raw.clone() } else { Value::Null };
        Ok(Arc::new(Self { head, spec, raw }))
    }
}

impl Gateway {
    /// `spec.gatewayClassName`, also of one that does not decode.
    pub fn class_name(&self) -> &str {
        match &self.spec {
            Ok(spec) => &spec.gateway_class_name,
            Err(_) => self.raw.get("gatewayClassName").and_then(Value::as_str).unwrap_or_default(),
        }
    }
}

/// Group, kind, name and sectionName of each of `spec.targetRefs` that has a name, of a policy that does not decode; what is
/// not written is empty.
fn written_targets(spec: &Value) -> impl Iterator<Item = [&str; 4]> {
    let list = spec.get("targetRefs").and_then(Value::as_array);
    let text = |of, key| Value::get(of, key).and_then(Value::as_str).unwrap_or_default();
    let read = move |of| ["group", "kind", "name", "sectionName"].map(|key| text(of, key));
    list.into_iter().flatten().map(read).filter(|[_, _, name, _]| !name.is_empty())
}

impl BackendTlsPolicy {
    /// The Services that `spec.targetRefs` names, and the port's name if it does; also of one that does not decode.
    pub fn targets(&self) -> Vec<(ObjectName, Option<Text>)> {
        let namespace = &self.head.name().namespace;
        let target = |kind: &str, name: &str, section: Option<&str>| {
            let service = ObjectName::new(namespace.clone(), name);
            (kind == "Service").then(|| (service, section.filter(|it| !it.is_empty()).map(Text::from)))
        };
        match &self.spec {
            Ok(spec) => {
                let named = spec.target_refs.iter();
                named.filter_map(|of| target(&of.kind, &of.name, of.section_name.as_deref())).collect()
            }
            Err(_) => {
                let written = written_targets(&self.raw);
                written.filter_map(|[_, kind, name, section]| target(kind, name, Some(section))).collect()
            }
        }
    }
}

impl BackendTrafficPolicy {
    /// The Services that `spec.targetRefs` names; also of one that does not decode. Targets of other kinds are others'.
    pub fn services(&self) -> BTreeSet<ObjectName> {
        let namespace = &self.head.name().namespace;
        let target = |group: &str, kind: &str, name: &str| {
            let is_service = matches!(group, "" | "core") && kind == "Service";
            is_service.then(|| ObjectName::new(namespace.clone(), name))
        };
        match &self.spec {
            Ok(spec) => {
                let named = spec.target_refs.iter();
                named.filter_map(|of| target(&of.group, &of.kind, &of.name)).collect()
            }
            Err(_) => {
                let written = written_targets(&self.raw);
                written.filter_map(|[group, kind, name, _]| target(group, kind, name)).collect()
            }
        }
    }
}

/// A Secret, as far as it is read: one of type `kubernetes.io/tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSecret {
    /// `metadata.uid`.
    pub uid: String,
    /// The certificate with its key, or why it cannot be used.
    pub pair: Result<CertificatePair, String>,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePair {
    /// `tls.crt`.
    pub chain_pem: Text,
    /// `tls.key`.
    pub key_pem: Secret,
}

impl TlsSecret {
    pub(super) fn read(secret: &k8s::Secret) -> Self {
        let uid = secret.metadata.uid.clone().unwrap_or_default();
        Self { uid, pair: pair(secret) }
    }
}

fn pair(secret: &k8s::Secret) -> Result<CertificatePair, String> {
    if secret.type_.as_deref() != Some("kubernetes.io/tls") {
        let of = secret.type_.as_deref().unwrap_or("Opaque");
        return Err(format!("it is of type {of}, not kubernetes.io/tls"));
    }
    let text = |key: &str| {
        let value = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
        let value = value.or_else(|| Some(secret.string_data.as_ref()?.get(key)?.as_bytes()));
        let value = value.ok_or_else(|| format!("it has no {key}"))?;
        std::str::from_utf8(value).map(Text::from).map_err(|_| format!("its {key} is no PEM"))
    };
    let (chain_pem, key_pem) = (text("tls.crt")?, text("tls.key")?);
    weft_tls::pem::check_pair(&chain_pem, &key_pem).map_err(|error| error.to_string())?;
    Ok(CertificatePair { chain_pem, key_pem: Secret(key_pem) })
}

/// A ConfigMap, as far as it is read: the roots or the parameters in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaBundle {
    /// `metadata.uid`.
    pub uid: String,
    /// `data["ca.crt"]`, PEM, or why there is nothing that can be used.
    pub roots_pem: Result<Text, String>,
    /// The other keys, for `parametersRef`; none of a ConfigMap that holds more than parameters do.
    pub data: BTreeMap<String, String>,
}

impl CaBundle {
    pub(super) fn read(map: &k8s::ConfigMap) -> Self {
        let pem = map.data.as_ref().and_then(|data| data.get("ca.crt"));
        let roots = pem.ok_or_else(|| "it has no ca.crt".to_owned()).and_then(|pem| {
            weft_tls::pem::check_roots(pem).map_err(|error| format!("its ca.crt: {error}"))?;
            Ok(Text::from(pem.as_str()))
        });
        let others = map.data.iter().flatten().filter(|(key, _)| *key != "ca.crt");
        let data = others.map(|(key, value)| (key.clone(), value.clone())).collect();
        Self { uid: map.metadata.uid.clone().unwrap_or_default(), roots_pem: roots, data }
    }
}

/// A ClusterTrustBundle, as far as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.trustBundle`, PEM, or why there is nothing that can be used.
    pub roots_pem: Result<Text, String>,
}

impl TrustBundle {
    /// All versions of the kind have the one field, so none of them is preferred.
    pub(super) fn read(object: &Value) -> Self {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default();
        let pem = text("/spec/trustBundle");
        let roots = weft_tls::pem::check_roots(pem).map_err(|error| format!("its trustBundle: {error}"));
        Self { uid: text("/metadata/uid").to_owned(), roots_pem: roots.map(|_| Text::from(pem)) }
    }
}
