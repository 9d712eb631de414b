//! What statuses say: conditions in the Gateway API's own words, by kind of object. Times are added when a status is
//! written, and what others have written is left alone then (`crate::status`).

use serde::Serialize;

use crate::inputs::{GATEWAY_API, Kind};

/// The `controllerName` of what Weft's mesh writes: entries of Service parents.
pub const CONTROLLER_NAME: &str = "weft-mesh.dev/mesh";

/// The `controllerName` of what Weft's Gateways write, and of the GatewayClasses that are Weft's.
pub const GATEWAY_CONTROLLER_NAME: &str = "weft-mesh.dev/gateway";

/// Our part of an object's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// Of a route.
    Route(RouteStatus),
    /// Of a GatewayClass.
    GatewayClass(GatewayClassStatus),
    /// Of a Gateway.
    Gateway(GatewayStatus),
    /// Of a ListenerSet.
    ListenerSet(ListenerSetStatus),
    /// Of a policy.
    Policy(PolicyStatus),
    /// Of an XBackend.
    XBackend(PolicyStatus),
}

/// Our entries of a route's `status.parents`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// One entry for each parentRef that names a Service, a Gateway of ours or a ListenerSet of one, in the order of
    /// the spec.
    pub parents: Vec<ParentStatus>,
}

/// One entry of `status.parents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parentRef, with group, kind and namespace filled in.
    pub parent_ref: StatusParentRef,
    /// [`CONTROLLER_NAME`] or [`GATEWAY_CONTROLLER_NAME`].
    pub controller_name: &'static str,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// `parentRef` or `ancestorRef` of a status entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusParentRef {
    /// Its group: `""` for a Service.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace, also where the spec leaves it out.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// As in the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// As in the spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

/// A GatewayClass's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassStatus {
    /// `Accepted`, `SupportedVersion`.
    pub conditions: Vec<Condition>,
    /// What the official suite calls features, sorted.
    pub supported_features: Vec<Feature>,
}

/// One of `supportedFeatures`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
}

/// A Gateway's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Where it is reached.
    pub addresses: Vec<Address>,
    /// How many ListenerSets have a listener at it.
    pub attached_listener_sets: usize,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, and others where they hold.
    pub conditions: Vec<Condition>,
    /// One for each listener of its own, in the order of the spec.
    pub listeners: Vec<ListenerStatus>,
}

/// One of a Gateway's addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Address {
    /// `IPAddress` or `Hostname`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The address.
    pub value: String,
    /// From where it can be reached; `None` where the API has no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routability: Option<String>,
}

/// A ListenerSet's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerSetStatus {
    /// `Accepted`, `Programmed`.
    pub conditions: Vec<Condition>,
    /// One for each listener, in the order of the spec.
    pub listeners: Vec<ListenerStatus>,
}

/// A listener's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// The kinds of route that it can serve and that it allows.
    pub supported_kinds: Vec<SupportedKind>,
    /// How many routes are accepted at it.
    pub attached_routes: usize,
    /// `Accepted`, `Conflicted`, `Programmed`, `ResolvedRefs`.
    pub conditions: Vec<Condition>,
}

/// One of `supportedKinds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SupportedKind {
    /// Its group.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
}

/// Our entries of the `status.ancestors` of a policy or an XBackend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyStatus {
    /// One entry for each Gateway, or Service, that the object holds for.
    pub ancestors: Vec<AncestorStatus>,
}

/// One entry of `status.ancestors`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The Gateway or the Service.
    pub ancestor_ref: StatusParentRef,
    /// [`CONTROLLER_NAME`] or [`GATEWAY_CONTROLLER_NAME`].
    pub controller_name: &'static str,
    /// The conditions.
    pub conditions: Vec<Condition>,
}

/// A condition, without its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// Its reason.
    pub reason: &'static str,
    /// Words for the user: what holds, and if something is wrong what to do.
    pub message: String,
    /// The generation of the object that was judged.
    pub observed_generation: i64,
}

impl Status {
    /// What a status of a kind is that says nothing. `None`: of this kind, nothing is said by leaving it as it is.
    pub fn nothing(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Route(_) => Some(Self::Route(RouteStatus::default())),
            Kind::BackendTlsPolicy | Kind::BackendTrafficPolicy => {
                Some(Self::Policy(PolicyStatus::default()))
            }
            Kind::XBackend => Some(Self::XBackend(PolicyStatus::default())),
            _ => None,
        }
    }

    /// Every condition in it.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let (own, parents, listeners, ancestors): (&[Condition], &[_], &[_], &[_]) = match self {
            Self::Route(status) => (&[], &status.parents, &[], &[]),
            Self::GatewayClass(status) => (&status.conditions, &[], &[], &[]),
            Self::Gateway(status) => (&status.conditions, &[], &status.listeners, &[]),
            Self::ListenerSet(status) => (&status.conditions, &[], &status.listeners, &[]),
            Self::Policy(status) | Self::XBackend(status) => (&[], &[], &[], &status.ancestors),
        };
        let parents = parents.iter().flat_map(|parent: &ParentStatus| &parent.conditions);
        let listeners = listeners.iter().flat_map(|listener: &ListenerStatus| &listener.conditions);
        let ancestors = ancestors.iter().flat_map(|ancestor: &AncestorStatus| &ancestor.conditions);
        own.iter().chain(parents).chain(listeners).chain(ancestors)
    }
}

impl Condition {
    /// One of a generation.
    pub(crate) fn new(
        kind: &'static str,
        status: &'static str,
        reason: &'static str,
        message: impl Into<String>,
        observed_generation: i64,
    ) -> Self {
        Self { kind, status, reason, message: message.into(), observed_generation }
    }
}

impl StatusParentRef {
    /// A Service, whole.
    pub(crate) fn service(name: &weft_model::ObjectName) -> Self {
        Self { group: "", kind: "Service", ..Self::gateway(name) }
    }

    /// A Gateway, whole.
    pub fn gateway(name: &weft_model::ObjectName) -> Self {
        Self {
            group: GATEWAY_API,
            kind: "Gateway",
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            section_name: None,
            port: None,
        }
    }
}
