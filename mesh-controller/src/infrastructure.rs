//! What a Gateway's proxies need in the cluster, as a function of the Gateway: a Deployment, the Services that clients
//! reach it by, and what these need (GEP-1762). Everything is in the Gateway's namespace and belongs to it by an owner
//! reference, so that it goes with the Gateway without anybody's help.

pub mod folder;
pub mod names;
mod objects;
pub mod parameters;
pub mod plan;
pub mod refused;
pub mod request;
pub mod subject;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weft_model::{ObjectName, TrustDomain};

use parameters::Parameters;

/// What holds for every Gateway's proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The proxy's image.
    pub image: String,
    /// `imagePullPolicy`.
    pub pull_policy: String,
    /// Names of the Secrets with the registry's credentials; they have to be in the Gateway's namespace.
    pub pull_secrets: Vec<String>,
    /// Where the controller is reached, as host:port.
    pub controller: String,
    /// The DNS name in the controller's certificate.
    pub controller_name: String,
    /// The root that the controller's certificate is verified against, PEM. It is public.
    pub root_pem: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
}

/// A Gateway, as far as something is made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The Gateway.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: String,
    /// `apiVersion`, as it is read.
    pub api_version: String,
    /// `spec.gatewayClassName`.
    pub class: String,
    /// `spec.infrastructure.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.infrastructure.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// By which Services it gets the addresses that `spec.addresses` asks for.
    pub services: request::Services,
    /// The ports of the listeners that there are.
    pub ports: BTreeSet<(u16, Transport)>,
    /// What the objects of `parametersRef` say.
    pub parameters: Parameters,
}

/// What carries a listener's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// Everything but UDP.
    Tcp,
    /// UDP.
    Udp,
}

/// The GatewayClass that comes with Weft.
pub fn class(api_version: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": "GatewayClass", "metadata": {"name": names::CLASS},
        "spec": {"controllerName": names::CONTROLLER_NAME, "description": "Gateways served by Weft"},
    })
}

/// The objects that there should be for a Gateway, whole, in the order in which they are best made.
pub fn desired(subject: &Subject, settings: &Settings) -> Vec<Value> {
    let objects = objects::Objects { subject, settings };
    let mut all = vec![objects.service_account(), objects.trust(), objects.disruption_budget()];
    // A Service without ports is not admitted; clients have nothing to connect to either.
    if !subject.ports.is_empty() {
        all.extend(objects.services());
    }
    all.push(objects.deployment());
    all
}

#[cfg(test)]
mod tests;
