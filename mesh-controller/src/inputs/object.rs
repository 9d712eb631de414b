//! Decoding of single objects from JSON.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
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

/// The versions of Gateway API kinds that are known, the better ones first.
pub(crate) const VERSIONS: [&str; 4] = ["v1", "v1beta1", "v1alpha3", "v1alpha2"];

/// A decoded object.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Namespace.
    Namespace(Text, Arc<Namespace>),
    /// A Service.
    Service(ObjectName, Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(ObjectName, Arc<EndpointSlice>),
    /// A Pod.
    Pod(ObjectName, Arc<Pod>),
    /// A route of any kind, decoded or not.
    Route(Arc<Route>),
    /// A ReferenceGrant.
    ReferenceGrant(ObjectName, Arc<ReferenceGrantSpec>),
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
    /// `apiVersion`, as written.
    pub api_version: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`; empty in a folder.
    pub resource_version: String,
    /// `metadata.creationTimestamp`, seconds since the epoch; 0 when absent.
    pub created: i64,
    /// `spec.parentRefs`, read leniently, so that they are known also of a route that does not decode.
    pub parent_refs: Vec<ParentRef>,
    /// `spec.hostnames` as far as they are texts.
    pub hostnames: Vec<Text>,
    /// `status`, as it stands in the object: other controllers' entries are in there.
    pub status: Value,
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

    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            group: text("group").unwrap_or_else(|| "gateway.networking.k8s.io".to_owned()),
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
        match self {
            Self::Namespace(name, _) => format!("Namespace {name}"),
            Self::Service(name, _) => format!("Service {name}"),
            Self::EndpointSlice(name, _) => format!("EndpointSlice {name}"),
            Self::Pod(name, _) => format!("Pod {name}"),
            Self::Route(route) => format!("{} {}", route.name.kind, route.name.name),
            Self::ReferenceGrant(name, _) => format!("ReferenceGrant {name}"),
            Self::Other => String::new(),
        }
    }

    /// Its kind; `None` if that is not read.
    pub fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Namespace(..) => Kind::Namespace,
            Self::Service(..) => Kind::Service,
            Self::EndpointSlice(..) => Kind::EndpointSlice,
            Self::Pod(..) => Kind::Pod,
            Self::Route(route) => Kind::Route(route.name.kind),
            Self::ReferenceGrant(..) => Kind::ReferenceGrant,
            Self::Other => return None,
        })
    }

    /// Its name; a Namespace's stands beside an empty namespace.
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Namespace(name, _) => ObjectName::new("", name.clone()),
            Self::Service(name, _)
            | Self::EndpointSlice(name, _)
            | Self::Pod(name, _)
            | Self::ReferenceGrant(name, _) => name.clone(),
            Self::Route(route) => route.name.name.clone(),
            Self::Other => ObjectName::new("", ""),
        }
    }

    /// Its UID, as far as it is kept.
    pub fn uid(&self) -> Option<&str> {
        match self {
            Self::Namespace(_, object) => object.metadata.uid.as_deref(),
            Self::Service(_, object) => object.metadata.uid.as_deref(),
            Self::EndpointSlice(_, object) => object.metadata.uid.as_deref(),
            Self::Pod(_, object) => object.metadata.uid.as_deref(),
            Self::Route(route) => Some(&route.uid),
            Self::ReferenceGrant(..) | Self::Other => None,
        }
    }

    /// Decodes one object.
    ///
    /// # Errors
    /// When an object of a kind that is read cannot be used at all. A route whose spec does not decode is no error.
    pub fn decode(object: Value) -> Result<Self, Undecodable> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        let name = ObjectName::new(text("/metadata/namespace"), text("/metadata/name"));
        let fail = |message: String| Undecodable { kind: kind.to_owned(), name: name.to_string(), message };
        let route = |route_kind| decode_route(route_kind, name.clone(), version, &object).map_err(&fail);
        let gateway_api = version.starts_with("gateway.networking.k8s.io/");
        Ok(match kind {
            "Namespace" if version == "v1" => {
                Self::Namespace(name.name.clone(), decode(&object).map_err(fail)?)
            }
            "Service" if version == "v1" => Self::Service(name.clone(), decode(&object).map_err(fail)?),
            "Pod" if version == "v1" => Self::Pod(name.clone(), decode(&object).map_err(fail)?),
            "EndpointSlice" if version == "discovery.k8s.io/v1" => {
                Self::EndpointSlice(name.clone(), decode(&object).map_err(fail)?)
            }
            "GRPCRoute" if gateway_api => Self::Route(route(RouteKind::Grpc)?),
            "HTTPRoute" if gateway_api => Self::Route(route(RouteKind::Http)?),
            "TLSRoute" if gateway_api => Self::Route(route(RouteKind::Tls)?),
            "TCPRoute" if gateway_api => Self::Route(route(RouteKind::Tcp)?),
            "UDPRoute" if gateway_api => Self::Route(route(RouteKind::Udp)?),
            "ReferenceGrant" if gateway_api && !is_known(version) => {
                return Err(fail(format!("its version {version} is not known")));
            }
            "ReferenceGrant" if gateway_api => {
                let spec = object.get("spec").unwrap_or(&Value::Null);
                Self::ReferenceGrant(name.clone(), decode(spec).map_err(fail)?)
            }
            _ => Self::Other,
        })
    }
}

/// Decodes, naming the field that is wrong.
fn decode<T: DeserializeOwned>(value: &Value) -> Result<Arc<T>, String> {
    T::deserialize(value).map(Arc::new).map_err(|e| e.to_string())
}

fn decode_route(
    kind: RouteKind,
    name: ObjectName,
    version: &str,
    object: &Value,
) -> Result<Arc<Route>, String> {
    if name.name.is_empty() || name.namespace.is_empty() {
        return Err("a route needs metadata.namespace and metadata.name".to_owned());
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let list = |key: &str| spec.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    let created = object.pointer("/metadata/creationTimestamp").and_then(Value::as_str);
    Ok(Arc::new(Route {
        name: RouteName { kind, name },
        api_version: version.to_owned(),
        uid: text("/metadata/uid"),
        generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
        resource_version: text("/metadata/resourceVersion"),
        created: created
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
            .map_or(0, jiff::Timestamp::as_second),
        parent_refs: list("parentRefs").iter().filter_map(ParentRef::read).collect(),
        hostnames: list("hostnames").iter().filter_map(Value::as_str).map(Text::from).collect(),
        status: object.get("status").cloned().unwrap_or(Value::Null),
        spec: match is_known(version) {
            true => decode_spec(kind, spec),
            false => Err(format!("its version {version} is not known")),
        },
    }))
}

/// Whether objects of this `apiVersion` mean what this program takes them to mean.
fn is_known(api_version: &str) -> bool {
    api_version.rsplit('/').next().is_some_and(|version| VERSIONS.contains(&version))
}

fn decode_spec(kind: RouteKind, spec: &Value) -> Result<RouteSpec, String> {
    fn typed<T: DeserializeOwned + Serialize>(
        spec: &Value,
        wrap: fn(T) -> RouteSpec,
    ) -> Result<RouteSpec, String> {
        let decoded = T::deserialize(spec).map_err(|e| e.to_string())?;
        let known = serde_json::to_value(&decoded).map_err(|e| e.to_string())?;
        match unknown_field(spec, &known, "spec".to_owned()) {
            Some(field) => Err(format!("the field {field} is not known")),
            None => Ok(wrap(decoded)),
        }
    }
    match kind {
        RouteKind::Grpc => typed(spec, RouteSpec::Grpc),
        RouteKind::Http => typed(spec, RouteSpec::Http),
        RouteKind::Tls => typed(spec, RouteSpec::Tls),
        RouteKind::Tcp => typed(spec, RouteSpec::Tcp),
        RouteKind::Udp => typed(spec, RouteSpec::Udp),
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
