//! Everything a translation reads, at one moment: decoded objects by kind and name. An object that does not decode
//! is kept as what could be read of it, if it is a route, and reported in any case.

mod kind;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_gateway_api::referencegrants::ReferenceGrantSpec;
use weft_model::workload::{MESH_LABEL, is_enrolled};
use weft_model::{MeshConfig, ObjectName, Text};

use crate::enrolment::Enrolment;

pub use kind::Kind;
pub use object::{Object, ParentRef, Route, RouteName, RouteSpec, Undecodable};
pub(crate) use object::{VERSIONS, unknown_field};
pub use weft_model::route::RouteKind;

/// One consistent set of objects. The values are shared with the source, so that a change costs what changed.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Facts about the cluster, from the command line.
    pub mesh: MeshConfig,
    /// Namespaces by name.
    pub namespaces: BTreeMap<Text, Arc<Namespace>>,
    /// Services.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// Pods.
    pub pods: BTreeMap<ObjectName, Arc<Pod>>,
    /// Routes of all five kinds.
    pub routes: BTreeMap<RouteName, Arc<Route>>,
    /// ReferenceGrants. Mesh routes need none; they count at Gateways.
    pub reference_grants: BTreeMap<ObjectName, Arc<ReferenceGrantSpec>>,
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
            services: BTreeMap::new(),
            endpoint_slices: BTreeMap::new(),
            pods: BTreeMap::new(),
            routes: BTreeMap::new(),
            reference_grants: BTreeMap::new(),
            uninstalling: false,
            enrolment: Enrolment::default(),
        }
    }

    /// Adds an object; one of the same kind and name is replaced. Returns false for a replacement, which in a folder
    /// means that two files hold the same object.
    pub fn insert(&mut self, object: &Object) -> bool {
        match object {
            Object::Namespace(name, value) => self.namespaces.insert(name.clone(), value.clone()).is_none(),
            Object::Service(name, value) => self.services.insert(name.clone(), value.clone()).is_none(),
            Object::EndpointSlice(name, value) => {
                self.endpoint_slices.insert(name.clone(), value.clone()).is_none()
            }
            Object::Pod(name, value) => self.pods.insert(name.clone(), value.clone()).is_none(),
            Object::Route(route) => self.routes.insert(route.name.clone(), route.clone()).is_none(),
            Object::ReferenceGrant(name, value) => {
                self.reference_grants.insert(name.clone(), value.clone()).is_none()
            }
            Object::Other => true,
        }
    }

    /// The object of a kind with a name. A Namespace's name stands alone, beside an empty namespace.
    pub fn get(&self, kind: Kind, name: &ObjectName) -> Option<Object> {
        let named = || name.clone();
        match kind {
            Kind::Namespace => {
                self.namespaces.get(&name.name).map(|it| Object::Namespace(name.name.clone(), it.clone()))
            }
            Kind::Service => self.services.get(name).map(|it| Object::Service(named(), it.clone())),
            Kind::EndpointSlice => {
                self.endpoint_slices.get(name).map(|it| Object::EndpointSlice(named(), it.clone()))
            }
            Kind::Pod => self.pods.get(name).map(|it| Object::Pod(named(), it.clone())),
            Kind::Route(kind) => {
                self.routes.get(&RouteName { kind, name: named() }).cloned().map(Object::Route)
            }
            Kind::ReferenceGrant => {
                self.reference_grants.get(name).map(|it| Object::ReferenceGrant(named(), it.clone()))
            }
        }
    }

    /// Removes the object of a kind with a name. Returns whether there was one.
    pub fn remove(&mut self, kind: Kind, name: &ObjectName) -> bool {
        match kind {
            Kind::Namespace => self.namespaces.remove(&name.name).is_some(),
            Kind::Service => self.services.remove(name).is_some(),
            Kind::EndpointSlice => self.endpoint_slices.remove(name).is_some(),
            Kind::Pod => self.pods.remove(name).is_some(),
            Kind::Route(kind) => self.routes.remove(&RouteName { kind, name: name.clone() }).is_some(),
            Kind::ReferenceGrant => self.reference_grants.remove(name).is_some(),
        }
    }

    /// The names of all objects of a kind.
    pub fn names(&self, kind: Kind) -> BTreeSet<ObjectName> {
        match kind {
            Kind::Namespace => self.namespaces.keys().map(|name| ObjectName::new("", name.clone())).collect(),
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.endpoint_slices.keys().cloned().collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Route(kind) => {
                let of_kind = self.routes.keys().filter(|route| route.kind == kind);
                of_kind.map(|route| route.name.clone()).collect()
            }
            Kind::ReferenceGrant => self.reference_grants.keys().cloned().collect(),
        }
    }

    /// Whether a pod is to be in the mesh: labels say so, and Weft is not being uninstalled.
    pub(crate) fn is_wanted(&self, name: &ObjectName, pod: &Pod) -> bool {
        let own = pod.metadata.labels.as_ref().and_then(|labels| labels.get(MESH_LABEL));
        let namespace = &*name.namespace;
        let of_namespace = self.namespace_label(namespace, MESH_LABEL);
        !self.uninstalling && is_enrolled(namespace, of_namespace, own.map(String::as_str))
    }

    /// The value of a label on a namespace.
    pub(crate) fn namespace_label(&self, namespace: &str, label: &str) -> Option<&str> {
        let labels = self.namespaces.get(namespace)?.metadata.labels.as_ref()?;
        labels.get(label).map(String::as_str)
    }
}
