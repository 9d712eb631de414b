//! Everything a translation reads, at one moment: decoded objects by kind and name. An object that does not decode
//! is kept as what could be read of it, if it is a route, and reported in any case.

mod object;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_gateway_api::referencegrants::ReferenceGrantSpec;
use weft_model::{MeshConfig, ObjectName, Text};

pub use object::{Object, ParentRef, Route, RouteKind, RouteName, RouteSpec, Undecodable};

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

    /// The value of a label on a namespace.
    pub(crate) fn namespace_label(&self, namespace: &str, label: &str) -> Option<&str> {
        let labels = self.namespaces.get(namespace)?.metadata.labels.as_ref()?;
        labels.get(label).map(String::as_str)
    }
}
