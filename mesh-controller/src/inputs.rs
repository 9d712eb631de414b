//! Everything a translation reads, at one moment: decoded objects by kind and name. An object that does not decode
//! is kept as what could be read of it, if it is a route, and reported in any case.

pub mod gateway;
mod head;
pub mod installed;
mod kind;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use weft_gateway_api::referencegrants::ReferenceGrantSpec;
use weft_model::workload::{Exempt, MESH_LABEL, is_enrolled};
use weft_model::{MeshConfig, ObjectName, Text};

use crate::awaited::Asked;
use crate::enrolment::Enrolment;
use crate::infrastructure::refused::Refused;

use gateway::{
    BackendTlsPolicy, BackendTrafficPolicy, CaBundle, Gateway, GatewayClass, ListenerSet, TlsSecret,
    TrustBundle, XBackend,
};
pub use head::{Head, Heads, ObjectId};
pub use kind::Kind;
pub use object::{
    EXPERIMENTAL, GATEWAY_API, Object, ParentRef, Route, RouteName, RouteSpec, TRUST_BUNDLES, Undecodable,
};
pub(crate) use object::{VERSIONS, unknown_field};
pub use weft_model::route::RouteKind;

/// What all proxies of a Gateway that count have in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// The Gateway as they serve it.
    pub gateway: Option<Arc<weft_model::gateway::Gateway>>,
    /// What keeps one of them from serving it, in its words.
    pub trouble: Option<String>,
}

/// One consistent set of objects. The values are shared with the source, so that a change costs what changed.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Facts about the cluster, from the command line.
    pub mesh: MeshConfig,
    /// Namespaces by name.
    pub namespaces: BTreeMap<Text, Arc<Namespace>>,
    /// Nodes by name.
    pub nodes: BTreeMap<Text, Arc<Node>>,
    /// Services.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// Pods.
    pub pods: BTreeMap<ObjectName, Arc<Pod>>,
    /// Secrets of type `kubernetes.io/tls`; others count as unusable.
    pub secrets: BTreeMap<ObjectName, Arc<TlsSecret>>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<ObjectName, Arc<CaBundle>>,
    /// ClusterTrustBundles by name.
    pub cluster_trust_bundles: BTreeMap<Text, Arc<TrustBundle>>,
    /// GatewayClasses by name.
    pub gateway_classes: BTreeMap<Text, Arc<GatewayClass>>,
    /// Gateways.
    pub gateways: BTreeMap<ObjectName, Arc<Gateway>>,
    /// ListenerSets.
    pub listener_sets: BTreeMap<ObjectName, Arc<ListenerSet>>,
    /// BackendTLSPolicies.
    pub backend_tls_policies: BTreeMap<ObjectName, Arc<BackendTlsPolicy>>,
    /// XBackendTrafficPolicies.
    pub backend_traffic_policies: BTreeMap<ObjectName, Arc<BackendTrafficPolicy>>,
    /// XBackends.
    pub xbackends: BTreeMap<ObjectName, Arc<XBackend>>,
    /// Routes of all five kinds.
    pub routes: BTreeMap<RouteName, Arc<Route>>,
    /// ReferenceGrants. Mesh routes need none; they count at Gateways.
    pub reference_grants: BTreeMap<ObjectName, Arc<ReferenceGrantSpec>>,
    /// The Gateway API's definitions, and an entry for ClusterTrustBundle where that is served; `None` if objects do not come from an API server, which is as if all were there.
    pub definitions: Option<installed::Definitions>,
    /// What Gateways' proxies have in force.
    pub in_force: BTreeMap<ObjectName, InForce>,
    /// What Gateways need and has been refused.
    pub refused: Refused,
    /// Addresses that Gateways ask for and that there is still time to be given.
    pub awaited: BTreeSet<Asked>,
    /// NetworkPolicies: whose packets something else judges too.
    pub network_policies: BTreeMap<ObjectName, Arc<NetworkPolicy>>,
    /// The definitions of other policy engines' kinds that are installed, or may be.
    pub policy_engines: BTreeSet<Text>,
    /// Namespaces that are never in the mesh.
    pub exempt: Exempt,
    /// Weft is being uninstalled: no pod is to be in the mesh any longer, whatever labels say.
    pub uninstalling: bool,
    /// How far pods are on their way into the mesh and out of it.
    pub enrolment: Enrolment,
}

impl Inputs {
    /// No objects.
    pub fn new(mesh: MeshConfig) -> Self {
        Self {
            mesh,
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            endpoint_slices: BTreeMap::new(),
            pods: BTreeMap::new(),
            secrets: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            cluster_trust_bundles: BTreeMap::new(),
            gateway_classes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            listener_sets: BTreeMap::new(),
            backend_tls_policies: BTreeMap::new(),
            backend_traffic_policies: BTreeMap::new(),
            xbackends: BTreeMap::new(),
            routes: BTreeMap::new(),
            reference_grants: BTreeMap::new(),
            definitions: None,
            in_force: BTreeMap::new(),
            refused: Refused::new(),
            awaited: BTreeSet::new(),
            network_policies: BTreeMap::new(),
            policy_engines: BTreeSet::new(),
            exempt: Exempt::default(),
            uninstalling: false,
            enrolment: Enrolment::default(),
        }
    }

    /// Adds an object; one of the same kind and name is replaced. Returns false for a replacement, which in a folder
    /// means that two files hold the same object.
    pub fn insert(&mut self, object: &Object) -> bool {
        let name = object.name();
        match object {
            Object::Namespace(name, value) => self.namespaces.insert(name.clone(), value.clone()).is_none(),
            Object::Node(name, value) => self.nodes.insert(name.clone(), value.clone()).is_none(),
            Object::Service(_, value) => self.services.insert(name, value.clone()).is_none(),
            Object::EndpointSlice(_, value) => self.endpoint_slices.insert(name, value.clone()).is_none(),
            Object::Pod(_, value) => self.pods.insert(name, value.clone()).is_none(),
            Object::Secret(_, value) => self.secrets.insert(name, value.clone()).is_none(),
            Object::ConfigMap(_, value) => self.config_maps.insert(name, value.clone()).is_none(),
            Object::GatewayClass(value) => self.gateway_classes.insert(name.name, value.clone()).is_none(),
            Object::Gateway(value) => self.gateways.insert(name, value.clone()).is_none(),
            Object::ListenerSet(value) => self.listener_sets.insert(name, value.clone()).is_none(),
            Object::Route(route) => self.routes.insert(route.name.clone(), route.clone()).is_none(),
            Object::BackendTlsPolicy(value) => {
                self.backend_tls_policies.insert(name, value.clone()).is_none()
            }
            Object::BackendTrafficPolicy(value) => {
                self.backend_traffic_policies.insert(name, value.clone()).is_none()
            }
            Object::XBackend(value) => self.xbackends.insert(name, value.clone()).is_none(),
            Object::ReferenceGrant(_, value) => self.reference_grants.insert(name, value.clone()).is_none(),
            Object::NetworkPolicy(_, value) => self.network_policies.insert(name, value.clone()).is_none(),
            Object::ClusterTrustBundle(name, value) => {
                self.cluster_trust_bundles.insert(name.clone(), value.clone()).is_none()
            }
            Object::Other => true,
        }
    }

    /// Whether the API server serves ClusterTrustBundles.
    pub fn has_cluster_trust_bundles(&self) -> bool {
        let definitions = self.definitions.as_ref();
        definitions.is_none_or(|definitions| definitions.contains_key(&Kind::ClusterTrustBundle))
    }

    /// Whether the API server serves XBackends.
    pub(crate) fn has_xbackends(&self) -> bool {
        self.definitions.as_ref().is_none_or(|definitions| definitions.contains_key(&Kind::XBackend))
    }

    /// The object of a kind with a name. The name of one that lives in no namespace stands beside an empty one.
    pub fn get(&self, kind: Kind, name: &ObjectName) -> Option<Object> {
        let named = || name.clone();
        Some(match kind {
            Kind::Namespace => Object::Namespace(name.name.clone(), self.namespaces.get(&name.name)?.clone()),
            Kind::Node => Object::Node(name.name.clone(), self.nodes.get(&name.name)?.clone()),
            Kind::Service => Object::Service(named(), self.services.get(name)?.clone()),
            Kind::EndpointSlice => Object::EndpointSlice(named(), self.endpoint_slices.get(name)?.clone()),
            Kind::Pod => Object::Pod(named(), self.pods.get(name)?.clone()),
            Kind::Secret => Object::Secret(named(), self.secrets.get(name)?.clone()),
            Kind::ConfigMap => Object::ConfigMap(named(), self.config_maps.get(name)?.clone()),
            Kind::GatewayClass => Object::GatewayClass(self.gateway_classes.get(&name.name)?.clone()),
            Kind::Gateway => Object::Gateway(self.gateways.get(name)?.clone()),
            Kind::ListenerSet => Object::ListenerSet(self.listener_sets.get(name)?.clone()),
            Kind::Route(kind) => Object::Route(self.routes.get(&RouteName { kind, name: named() })?.clone()),
            Kind::BackendTlsPolicy => Object::BackendTlsPolicy(self.backend_tls_policies.get(name)?.clone()),
            Kind::BackendTrafficPolicy => {
                Object::BackendTrafficPolicy(self.backend_traffic_policies.get(name)?.clone())
            }
            Kind::XBackend => Object::XBackend(self.xbackends.get(name)?.clone()),
            Kind::ReferenceGrant => Object::ReferenceGrant(named(), self.reference_grants.get(name)?.clone()),
            Kind::NetworkPolicy => Object::NetworkPolicy(named(), self.network_policies.get(name)?.clone()),
            Kind::ClusterTrustBundle => {
                let bundle = self.cluster_trust_bundles.get(&name.name)?.clone();
                Object::ClusterTrustBundle(name.name.clone(), bundle)
            }
        })
    }

    /// Removes the object of a kind with a name. Returns whether there was one.
    pub fn remove(&mut self, kind: Kind, name: &ObjectName) -> bool {
        match kind {
            Kind::Namespace => self.namespaces.remove(&name.name).is_some(),
            Kind::Node => self.nodes.remove(&name.name).is_some(),
            Kind::Service => self.services.remove(name).is_some(),
            Kind::EndpointSlice => self.endpoint_slices.remove(name).is_some(),
            Kind::Pod => self.pods.remove(name).is_some(),
            Kind::Secret => self.secrets.remove(name).is_some(),
            Kind::ConfigMap => self.config_maps.remove(name).is_some(),
            Kind::GatewayClass => self.gateway_classes.remove(&name.name).is_some(),
            Kind::Gateway => self.gateways.remove(name).is_some(),
            Kind::ListenerSet => self.listener_sets.remove(name).is_some(),
            Kind::Route(kind) => self.routes.remove(&RouteName { kind, name: name.clone() }).is_some(),
            Kind::BackendTlsPolicy => self.backend_tls_policies.remove(name).is_some(),
            Kind::BackendTrafficPolicy => self.backend_traffic_policies.remove(name).is_some(),
            Kind::XBackend => self.xbackends.remove(name).is_some(),
            Kind::ReferenceGrant => self.reference_grants.remove(name).is_some(),
            Kind::NetworkPolicy => self.network_policies.remove(name).is_some(),
            Kind::ClusterTrustBundle => self.cluster_trust_bundles.remove(&name.name).is_some(),
        }
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: Kind) -> BTreeSet<ObjectName> {
        let bare = |name: &Text| ObjectName::new("", name.clone());
        match kind {
            Kind::Namespace => self.namespaces.keys().map(bare).collect(),
            Kind::Node => self.nodes.keys().map(bare).collect(),
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.endpoint_slices.keys().cloned().collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Secret => self.secrets.keys().cloned().collect(),
            Kind::ConfigMap => self.config_maps.keys().cloned().collect(),
            Kind::GatewayClass => self.gateway_classes.keys().map(bare).collect(),
            Kind::Gateway => self.gateways.keys().cloned().collect(),
            Kind::ListenerSet => self.listener_sets.keys().cloned().collect(),
            Kind::Route(kind) => {
                let of_kind = self.routes.keys().filter(|route| route.kind == kind);
                of_kind.map(|route| route.name.clone()).collect()
            }
            Kind::BackendTlsPolicy => self.backend_tls_policies.keys().cloned().collect(),
            Kind::BackendTrafficPolicy => self.backend_traffic_policies.keys().cloned().collect(),
            Kind::XBackend => self.xbackends.keys().cloned().collect(),
            Kind::ReferenceGrant => self.reference_grants.keys().cloned().collect(),
            Kind::NetworkPolicy => self.network_policies.keys().cloned().collect(),
            Kind::ClusterTrustBundle => self.cluster_trust_bundles.keys().map(bare).collect(),
        }
    }

    /// Every object that has a status of ours.
    pub fn heads(&self) -> Heads {
        let classes = self.gateway_classes.values().map(|object| &object.head);
        let gateways = self.gateways.values().map(|object| &object.head);
        let sets = self.listener_sets.values().map(|object| &object.head);
        let routes = self.routes.values().map(|object| &object.head);
        let policies = self.backend_tls_policies.values().map(|object| &object.head);
        let traffic = self.backend_traffic_policies.values().map(|object| &object.head);
        let backends = self.xbackends.values().map(|object| &object.head);
        let policies = policies.chain(traffic).chain(backends);
        let heads = classes.chain(gateways).chain(sets).chain(routes).chain(policies);
        heads.map(|head| (head.id.clone(), Arc::clone(head))).collect()
    }

    /// Whether a pod is to be in the mesh: labels say so, and Weft is not being uninstalled.
    pub(crate) fn is_wanted(&self, name: &ObjectName, pod: &Pod) -> bool {
        let own = pod.metadata.labels.as_ref().and_then(|labels| labels.get(MESH_LABEL));
        let namespace = &*name.namespace;
        let of_namespace = self.namespace_label(namespace, MESH_LABEL);
        !self.uninstalling && is_enrolled(&self.exempt, namespace, of_namespace, own.map(String::as_str))
    }

    /// The value of a label on a namespace.
    pub(crate) fn namespace_label(&self, namespace: &str, label: &str) -> Option<&str> {
        let labels = self.namespaces.get(namespace)?.metadata.labels.as_ref()?;
        labels.get(label).map(String::as_str)
    }
}
