//! Decoding of single objects from JSON.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, NodeStatus, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_gateway_api::grpcroutes::GrpcRouteSpec;
use weft_gateway_api::httproutes::HttpRouteSpec;
use weft_gateway_api::referencegrants::ReferenceGrantSpec;
use weft_gateway_api::tcproutes::TcpRouteSpec;
use weft_gateway_api::tlsroutes::TlsRouteSpec;
use weft_gateway_api::udproutes::UdpRouteSpec;
use weft_model::route::RouteKind;
use weft_model::{ObjectName, Text};

use super::Kind;
use super::gateway::{
    BackendTlsPolicy, BackendTrafficPolicy, CaBundle, Configured, Gateway, GatewayClass, ListenerSet,
    TlsSecret, TrustBundle, XBackend,
};
use super::head::Head;

/// The versions of Gateway API kinds that are known, the better ones first.
pub(crate) const VERSIONS: [&str; 4] = ["v1", "v1beta1", "v1alpha3", "v1alpha2"];

/// The group of the Gateway API.
pub const GATEWAY_API: &str = "gateway.networking.k8s.io";

/// The group of the Gateway API's experiments.
pub const EXPERIMENTAL: &str = "gateway.networking.x-k8s.io";

/// The version of the kinds of that group.
const EXPERIMENTAL_VERSION: &str = "v1alpha1";

/// The group of ClusterTrustBundles.
pub const TRUST_BUNDLES: &str = "certificates.k8s.io";

/// A decoded object.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Namespace.
    Namespace(Text, Arc<Namespace>),
    /// A Node, as far as it is read: labels and addresses.
    Node(Text, Arc<Node>),
    /// A Service.
    Service(ObjectName, Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(ObjectName, Arc<EndpointSlice>),
    /// A Pod.
    Pod(ObjectName, Arc<Pod>),
    /// A Secret.
    Secret(ObjectName, Arc<TlsSecret>),
    /// A ConfigMap.
    ConfigMap(ObjectName, Arc<CaBundle>),
    /// A GatewayClass, decoded or not.
    GatewayClass(Arc<GatewayClass>),
    /// A Gateway, decoded or not.
    Gateway(Arc<Gateway>),
    /// A ListenerSet, decoded or not.
    ListenerSet(Arc<ListenerSet>),
    /// A route of any kind, decoded or not.
    Route(Arc<Route>),
    /// A BackendTLSPolicy, decoded or not.
    BackendTlsPolicy(Arc<BackendTlsPolicy>),
    /// An XBackendTrafficPolicy, decoded or not.
    BackendTrafficPolicy(Arc<BackendTrafficPolicy>),
    /// An XBackend, decoded or not.
    XBackend(Arc<XBackend>),
    /// A ReferenceGrant.
    ReferenceGrant(ObjectName, Arc<ReferenceGrantSpec>),
    /// A NetworkPolicy.
    NetworkPolicy(ObjectName, Arc<NetworkPolicy>),
    /// A ClusterTrustBundle.
    ClusterTrustBundle(Text, Arc<TrustBundle>),
    /// A kind that the controller does not read.
    Other,
}

/// An object that cannot be used at all: it is no route, or a route without a name.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name}: {message}")]
pub struct Undecodable {
    kind: String,
    name: String,
    message: String,
}

/// Which route object, written `HTTPRoute/shop/cart`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteName {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// A route object.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// Metadata and status.
    pub head: Arc<Head>,
    /// `spec.parentRefs`, read leniently, so that they are known also of a route that does not decode.
    pub parent_refs: Vec<ParentRef>,
    /// `spec.hostnames` as far as they are texts.
    pub hostnames: Vec<Text>,
    /// The spec, or why it does not decode.
    pub spec: Result<RouteSpec, String>,
}

/// The decoded spec of a route.
#[derive(Clone, Debug)]
pub enum RouteSpec {
    /// Of a GRPCRoute.
    Grpc(GrpcRouteSpec),
    /// Of an HTTPRoute.
    Http(HttpRouteSpec),
    /// Of a TLSRoute.
    Tls(TlsRouteSpec),
    /// Of a TCPRoute.
    Tcp(TcpRouteSpec),
    /// Of a UDPRoute.
    Udp(UdpRouteSpec),
}

/// One of `spec.parentRefs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    /// `group`; `gateway.networking.k8s.io` when absent, as the CRD has it.
    pub group: String,
    /// `kind`; `Gateway` when absent.
    pub kind: String,
    /// `namespace`.
    pub namespace: Option<String>,
    /// `name`.
    pub name: String,
    /// `sectionName`.
    pub section_name: Option<String>,
    /// `port`.
    pub port: Option<i64>,
}

impl ParentRef {
    /// A Service: group `""`, or `core`, which is seen in the wild.
    pub fn is_service(&self) -> bool {
        matches!(self.group.as_str(), "" | "core") && self.kind == "Service"
    }

    /// A Gateway.
    pub fn is_gateway(&self) -> bool {
        self.group == GATEWAY_API && self.kind == "Gateway"
    }

    /// A ListenerSet.
    pub fn is_listener_set(&self) -> bool {
        self.group == GATEWAY_API && self.kind == "ListenerSet"
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            group: text("group").unwrap_or_else(|| GATEWAY_API.to_owned()),
            kind: text("kind").unwrap_or_else(|| "Gateway".to_owned()),
            namespace: text("namespace"),
            name: text("name")?,
            section_name: text("sectionName"),
            port: value.get("port").and_then(Value::as_i64),
        })
    }
}

impl Object {
    /// Kind and name, for comparing and for words.
    pub fn title(&self) -> String {
        let Some(kind) = self.kind() else { return String::new() };
        match kind.is_namespaced() {
            true => format!("{kind} {}", self.name()),
            false => format!("{kind} {}", self.name().name),
        }
    }

    /// Its kind; `None` if that is not read.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Namespace(..) => Kind::Namespace,
            Self::Node(..) => Kind::Node,
            Self::Service(..) => Kind::Service,
            Self::EndpointSlice(..) => Kind::EndpointSlice,
            Self::Pod(..) => Kind::Pod,
            Self::Secret(..) => Kind::Secret,
            Self::ConfigMap(..) => Kind::ConfigMap,
            Self::ReferenceGrant(..) => Kind::ReferenceGrant,
            Self::NetworkPolicy(..) => Kind::NetworkPolicy,
            Self::ClusterTrustBundle(..) => Kind::ClusterTrustBundle,
            _ => self.head()?.id.kind,
        })
    }

    /// Its name; that of one that lives in no namespace stands beside an empty one.
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Namespace(name, _) | Self::Node(name, _) | Self::ClusterTrustBundle(name, _) => {
                ObjectName::new("", name.clone())
            }
            Self::Service(name, _)
            | Self::EndpointSlice(name, _)
            | Self::Pod(name, _)
            | Self::Secret(name, _)
            | Self::ConfigMap(name, _)
            | Self::ReferenceGrant(name, _)
            | Self::NetworkPolicy(name, _) => name.clone(),
            _ => self.head().map_or_else(|| ObjectName::new("", ""), |head| head.name().clone()),
        }
    }

    /// Its UID, as far as it is kept.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Namespace(_, object) => object.metadata.uid.as_deref(),
            Self::Node(_, object) => object.metadata.uid.as_deref(),
            Self::Service(_, object) => object.metadata.uid.as_deref(),
            Self::EndpointSlice(_, object) => object.metadata.uid.as_deref(),
            Self::Pod(_, object) => object.metadata.uid.as_deref(),
            Self::Secret(_, object) => Some(&object.uid),
            Self::ConfigMap(_, object) => Some(&object.uid),
            Self::ClusterTrustBundle(_, object) => Some(&object.uid),
            Self::NetworkPolicy(_, object) => object.metadata.uid.as_deref(),
            _ => self.head().map(|head| &*head.uid),
        }
    }

    /// Metadata and status, of the kinds that have a status of ours.
    pub fn head(&self) -> Option<&Arc<Head>> {
        match self {
            Self::GatewayClass(object) => Some(&object.head),
            Self::Gateway(object) => Some(&object.head),
            Self::ListenerSet(object) => Some(&object.head),
            Self::Route(object) => Some(&object.head),
            Self::BackendTlsPolicy(object) => Some(&object.head),
            Self::BackendTrafficPolicy(object) => Some(&object.head),
            Self::XBackend(object) => Some(&object.head),
            _ => None,
        }
    }

    /// Decodes one object.
    ///
    /// # Errors
    /// When an object of a kind that is read cannot be used at all. One of the Gateway API whose spec does not decode
    /// is no error.
    pub fn decode(object: Value) -> Result<Self, Undecodable> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        let name = ObjectName::new(text("/metadata/namespace"), text("/metadata/name"));
        let fail = |message: String| Undecodable { kind: kind.to_owned(), name: name.to_string(), message };
        let decoded = match version.split_once('/') {
            Some((GATEWAY_API, _)) => Self::of_gateway_api(kind, version, name.clone(), &object),
            Some((EXPERIMENTAL, _)) => Self::experimental(kind, name.clone(), &object),
            _ => Self::built_in(kind, version, name.clone(), &object),
        };
        decoded.map_err(fail)
    }

    fn built_in(kind: &str, version: &str, name: ObjectName, object: &Value) -> Result<Self, String> {
        Ok(match (version, kind) {
            ("v1", "Namespace") => Self::Namespace(name.name, decode(object)?),
            ("v1", "Node") => Self::Node(name.name, decode_node(object)?),
            ("v1", "Service") => Self::Service(name, decode(object)?),
            ("v1", "Pod") => Self::Pod(name, decode(object)?),
            ("v1", "Secret") => {
                let secret: Arc<Secret> = decode(object)?;
                Self::Secret(name, Arc::new(TlsSecret::read(&secret)))
            }
            ("v1", "ConfigMap") => {
                let map: Arc<ConfigMap> = decode(object)?;
                Self::ConfigMap(name, Arc::new(CaBundle::read(&map)))
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice(name, decode(object)?),
            ("networking.k8s.io/v1", "NetworkPolicy") => Self::NetworkPolicy(name, decode(object)?),
            (_, "ClusterTrustBundle") if version.starts_with(TRUST_BUNDLES) => {
                Self::ClusterTrustBundle(name.name, Arc::new(TrustBundle::read(object)))
            }
            _ => Self::Other,
        })
    }

    fn experimental(kind: &str, name: ObjectName, object: &Value) -> Result<Self, String> {
        Ok(match kind {
            "XBackendTrafficPolicy" => {
                Self::BackendTrafficPolicy(Configured::decode(Kind::BackendTrafficPolicy, name, object)?)
            }
            "XBackend" => Self::XBackend(Configured::decode(Kind::XBackend, name, object)?),
            _ => Self::Other,
        })
    }

    fn of_gateway_api(kind: &str, version: &str, name: ObjectName, object: &Value) -> Result<Self, String> {
        let route = |kind| decode_route(kind, name.clone(), object).map(Self::Route);
        Ok(match kind {
            "GatewayClass" => Self::GatewayClass(Configured::decode(Kind::GatewayClass, name, object)?),
            "Gateway" => Self::Gateway(Configured::decode(Kind::Gateway, name, object)?),
            "ListenerSet" => Self::ListenerSet(Configured::decode(Kind::ListenerSet, name, object)?),
            "BackendTLSPolicy" => {
                Self::BackendTlsPolicy(Configured::decode(Kind::BackendTlsPolicy, name, object)?)
            }
            "GRPCRoute" => route(RouteKind::Grpc)?,
            "HTTPRoute" => route(RouteKind::Http)?,
            "TLSRoute" => route(RouteKind::Tls)?,
            "TCPRoute" => route(RouteKind::Tcp)?,
            "UDPRoute" => route(RouteKind::Udp)?,
            "ReferenceGrant" if !is_known(version) => {
                return Err(format!("its version {version} is not known"));
            }
            "ReferenceGrant" => {
                Self::ReferenceGrant(name, decode(object.get("spec").unwrap_or(&Value::Null))?)
            }
            _ => Self::Other,
        })
    }
}

/// Decodes, naming the field that is wrong.
fn decode<T: DeserializeOwned>(value: &Value) -> Result<Arc<T>, String> {
    T::deserialize(value).map(Arc::new).map_err(|e| e.to_string())
}

/// Only what is read of a Node is kept: the rest changes all the time.
fn decode_node(value: &Value) -> Result<Arc<Node>, String> {
    let Node { metadata, status, .. } = Arc::unwrap_or_clone(decode(value)?);
    let metadata = ObjectMeta {
        name: metadata.name,
        uid: metadata.uid,
        labels: metadata.labels,
        deletion_timestamp: metadata.deletion_timestamp,
        ..ObjectMeta::default()
    };
    let status = status.map(|NodeStatus { addresses, .. }| NodeStatus { addresses, ..NodeStatus::default() });
    Ok(Arc::new(Node { metadata, spec: None, status }))
}

fn decode_route(kind: RouteKind, name: ObjectName, object: &Value) -> Result<Arc<Route>, String> {
    if name.name.is_empty() || name.namespace.is_empty() {
        return Err("a route needs metadata.namespace and metadata.name".to_owned());
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let list = |key: &str| spec.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let head = Head::read(Kind::Route(kind), name.clone(), object);
    let version = &head.api_version;
    let decoded = match kind {
        RouteKind::Grpc => decode_spec(version, spec).map(RouteSpec::Grpc),
        RouteKind::Http => decode_spec(version, spec).map(RouteSpec::Http),
        RouteKind::Tls => decode_spec(version, spec).map(RouteSpec::Tls),
        RouteKind::Tcp => decode_spec(version, spec).map(RouteSpec::Tcp),
        RouteKind::Udp => decode_spec(version, spec).map(RouteSpec::Udp),
    };
    Ok(Arc::new(Route {
        name: RouteName { kind, name },
        parent_refs: list("parentRefs").iter().filter_map(ParentRef::read).collect(),
        hostnames: list("hostnames").iter().filter_map(Value::as_str).map(Text::from).collect(),
        spec: decoded,
        head,
    }))
}

/// Whether objects of this `apiVersion` mean what this program takes them to mean.
fn is_known(api_version: &str) -> bool {
    match api_version.split_once('/') {
        Some((EXPERIMENTAL, version)) => version == EXPERIMENTAL_VERSION,
        _ => api_version.rsplit('/').next().is_some_and(|version| VERSIONS.contains(&version)),
    }
}

/// A generated type of a spec.
pub trait Spec: DeserializeOwned + Serialize {}

impl<T: DeserializeOwned + Serialize> Spec for T {}

/// Decodes a spec whole: of a version that is known, and with no field that is not.
pub(super) fn decode_spec<T: Spec>(api_version: &str, spec: &Value) -> Result<T, String> {
    if !is_known(api_version) {
        return Err(format!("its version {api_version} is not known"));
    }
    let decoded = T::deserialize(spec).map_err(|e| e.to_string())?;
    let known = serde_json::to_value(&decoded).map_err(|e| e.to_string())?;
    match unknown_field(spec, &known, "spec".to_owned()) {
        Some(field) => Err(format!("the field {field} is not known")),
        None => Ok(decoded),
    }
}

/// The first field of `raw` that decoding dropped. A field that a newer CRD added may narrow what a rule matches, so a
/// route that has one must not be carried out as if it had not.
pub(crate) fn unknown_field(raw: &Value, known: &Value, path: String) -> Option<String> {
    match (raw, known) {
        (Value::Object(raw), Value::Object(known)) => raw.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match known.get(key) {
                Some(known) => unknown_field(value, known, path),
                None => (!value.is_null()).then_some(path),
            }
        }),
        (Value::Array(raw), Value::Array(known)) => raw
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(index, (raw, known))| unknown_field(raw, known, format!("{path}[{index}]"))),
        _ => None,
    }
}
