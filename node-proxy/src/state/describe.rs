//! The snapshot in words, for the admin server: every resource in force, and what could not be read.

use std::sync::Arc;

use serde_json::{Value, json};
use weft_model::Resource;
use weft_model::gateway::{Certificate, Secret};

use super::Snapshot;

impl Snapshot {
    /// Version, resources whose names begin with `prefix` (by name, in the form they travel in), and rejections.
    pub fn describe(&self, prefix: &str) -> Value {
        let mut resources: Vec<_> = self
            .resources()
            .map(|resource| (resource.name(), resource))
            .filter(|(name, _)| name.0.starts_with(prefix))
            .collect();
        resources.sort_by(|(a, _), (b, _)| a.cmp(b));
        let resources: Vec<Value> = resources
            .into_iter()
            .map(|(name, resource)| json!({ "name": name, "resource": resource }))
            .collect();
        let rejected: Vec<Value> =
            self.rejected.iter().map(|(name, message)| json!({ "name": name, "message": message })).collect();
        json!({ "version": self.version, "resources": resources, "rejected": rejected })
    }

    /// Keys stay where they are.
    fn of_gateway(&self) -> impl Iterator<Item = Resource> {
        let of = &self.listeners;
        let gateway = of.gateway.iter().map(|gateway| Resource::Gateway((**gateway).clone()));
        let certificates = of.certificates.values().map(|certificate| {
            let key_pem = Secret("(not shown)".into());
            Resource::Certificate(Certificate { key_pem, ..(**certificate).clone() })
        });
        let backend_tls = of.backend_tls.values().map(|tls| Resource::BackendTls((**tls).clone()));
        gateway.chain(certificates).chain(backend_tls)
    }

    fn resources(&self) -> impl Iterator<Item = Resource> {
        let mesh = self.mesh.iter().map(|mesh| Resource::MeshConfig((**mesh).clone()));
        let services = self.services.iter().map(|(_, service)| Resource::Service((**service).clone()));
        let endpoints =
            self.all_endpoints.iter().map(|(_, endpoints)| Resource::Endpoints((**endpoints).clone()));
        let nodes = self.nodes.iter().map(|(_, node)| Resource::Node((**node).clone()));
        let workloads = self.workloads.iter().map(|(_, workload)| Resource::Workload((**workload).clone()));
        let routes =
            self.routes.iter().map(|(_, route)| Resource::Route(Arc::unwrap_or_clone(route.clone())));
        mesh.chain(nodes)
            .chain(services)
            .chain(endpoints)
            .chain(workloads)
            .chain(routes)
            .chain(self.of_gateway())
    }
}
