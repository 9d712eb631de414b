//! The translation: a pure function from objects to what proxies decide by and to what route statuses say.
//!
//! Read [`translate`] first; each step is a module. What cannot be expressed is published as a rule that refuses.

mod auth;
mod backend;
mod duration;
mod endpoint;
mod fault;
mod filter;
pub(crate) mod gateway;
mod grant;
mod grpc;
mod http;
mod network_policy;
mod node;
mod parent;
mod port_labels;
mod route;
mod service;
mod session;
pub mod status;
mod tcp;
mod tls;
mod traffic;
mod verdict;
mod workload;
mod xbackend;

use std::collections::{BTreeMap, BTreeSet};

use weft_model::{Identity, ObjectName, Resource, ResourceName, Text};

use crate::inputs::{Inputs, ObjectId};
use status::Status;

pub use gateway::{FEATURES as GATEWAY_FEATURES, GatewayNeeds};
pub use workload::LivePod;

/// What a set of objects means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translated {
    /// What is published, before it is filtered by node.
    pub resources: BTreeMap<ResourceName, Resource>,
    /// Our part of the status of every object that has one.
    pub statuses: BTreeMap<ObjectId, Status>,
    /// What runs where, by node.
    pub nodes: BTreeMap<Text, Node>,
    /// Who the proxies of each Gateway of ours are, and what they need.
    pub gateways: BTreeMap<ObjectName, GatewayNeeds>,
    /// What was left out and no status can say, in words for the log.
    pub notices: BTreeSet<String>,
}

/// What runs on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The identities of the enrolled pods bound to the node: those its proxy may have certificates for.
    pub identities: BTreeSet<Identity>,
    /// The namespaces of the enrolled pods bound to the node.
    pub namespaces: BTreeSet<Text>,
}

/// Translates everything.
pub fn translate(inputs: &Inputs) -> Translated {
    let mut out = Translated::default();
    out.insert(Resource::MeshConfig(inputs.mesh.clone()));
    node::convert(inputs, &mut out);
    let mut workloads = workload::convert(inputs, &mut out);
    port_labels::convert(inputs, &mut workloads, &mut out.notices);
    let services = service::convert(inputs, &workloads, &mut out);
    let xbackends = xbackend::convert(inputs, &workloads, &mut out);
    for workload in workloads.into_workloads() {
        out.insert(Resource::Workload(workload));
    }
    let traffic = traffic::convert(inputs, &services, &mut out);
    let mut gateways = gateway::resolve(inputs);
    let policies = gateway::policy::resolve(inputs, &services);
    let context = route::Context { inputs, services: &services, xbackends: &xbackends, policies: &policies };
    let mut referrers = xbackend::Referrers::default();
    gateway::filters::resolve(&context, &mut gateways, &mut referrers);
    let obeyed = route::convert(&context, &mut gateways, &mut referrers, &mut out);
    gateway::convert(inputs, &gateways, &policies, &mut out);
    route::judge_obeyed(&obeyed, &mut referrers, &mut out);
    traffic.judge(&mut out);
    xbackends.judge(&referrers, &mut out);
    out
}

impl Translated {
    fn insert(&mut self, resource: Resource) {
        self.resources.insert(resource.name(), resource);
    }

    /// Whether any pod is enrolled, in `namespace` or (if `None`) anywhere.
    fn has_clients(&self, namespace: Option<&str>) -> bool {
        self.nodes.values().any(|node| match namespace {
            Some(namespace) => node.namespaces.contains(namespace),
            None => !node.namespaces.is_empty(),
        })
    }
}
