//! Which addresses a Gateway has been given, of those that `spec.addresses` asks for (GEP-5093).

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use weft_model::ObjectName;

use super::Facts;
use crate::infrastructure::names;
use crate::infrastructure::request::{self, Reach, Request, Routability};
use crate::inputs::{Inputs, installed};
use crate::translate::status::Address;

/// Where a Gateway is reached, and what was asked for that it has not.
#[derive(Debug, Default)]
pub(crate) struct Assigned {
    /// Its addresses, each once: where some are asked for one for each that could be had, in the order of the spec.
    pub(crate) usable: Vec<Address>,
    /// The addresses that were asked for by value and are not had.
    pub(crate) unusable: Vec<IpAddr>,
    /// Entries of `spec.addresses` that have not been met, in words.
    pub(crate) missing: Vec<String>,
    /// All Services that could be given addresses are there.
    pub(crate) tried: bool,
}

/// An address that a Service has been given.
struct Given {
    kind: &'static str,
    value: String,
    /// A ClusterIP.
    of_cluster: bool,
}

/// Hands out what the Gateway's Services have been given: by the load balancer, or where there is none their ClusterIPs.
pub(crate) fn assign(inputs: &Inputs, facts: &Facts<'_>) -> Assigned {
    let Ok(spec) = &facts.gateway.spec else { return Assigned::default() };
    let services = Services { inputs, facts, wanted: request::services(spec) };
    let mut assigned = Assigned { tried: services.are_there(), ..Assigned::default() };
    // A status with a field that the API server prunes would be written again and again.
    let definitions = inputs.definitions.as_ref();
    let says =
        definitions.is_none_or(|definitions| installed::express(definitions, "GatewayAddressRoutability"));
    if request::asks_for_none(spec) {
        let given = services.any().into_iter().filter(|given| services.is_default(given));
        assigned.usable = given.map(|given| given.reported(&Routability::Default, says)).collect();
        return assigned;
    }
    let mut taken = BTreeSet::new();
    for request in request::requests(spec) {
        let candidates = request.value.map_or_else(|| services.any(), |value| services.named(value));
        let meets = |given: &Given| match request.routability {
            Routability::Cluster => given.of_cluster,
            Routability::Default | Routability::Sentinel => services.is_default(given),
            Routability::Unknown(_) => false,
        };
        let is_wanted = |given: &Given| request.value.is_none_or(|value| given.value.parse() == Ok(value));
        let mut found = candidates.into_iter().filter(|given| meets(given) && is_wanted(given));
        match found.find(|given| taken.insert(given.value.clone())) {
            Some(given) => assigned.usable.push(given.reported(&request.routability, says)),
            None => {
                assigned.missing.push(in_words(&request));
                assigned.unusable.extend(request.value);
            }
        }
    }
    assigned
}

impl Given {
    /// As the status says it: what was asked for, but a ClusterIP is said to be one. `says`: the API has the field.
    fn reported(self, asked: &Routability, says: bool) -> Address {
        let routability = match asked {
            Routability::Default if self.of_cluster => Routability::Cluster.as_str(),
            asked => asked.as_str(),
        };
        Address { kind: self.kind, value: self.value, routability: says.then(|| routability.to_owned()) }
    }
}

fn in_words(request: &Request) -> String {
    let what = request.value.map_or_else(|| "an address".to_owned(), |value| value.to_string());
    match request.routability.as_str() {
        "" => what,
        routability => format!("{what} of routability {routability}"),
    }
}

/// The Services that are made for a Gateway.
struct Services<'a> {
    inputs: &'a Inputs,
    facts: &'a Facts<'a>,
    wanted: request::Services,
}

impl Services<'_> {
    fn name(&self, address: Option<IpAddr>) -> ObjectName {
        let (gateway, class) = (self.facts.name(), self.facts.class);
        let service = match address {
            None => names::object(&gateway.name, class),
            Some(address) => names::service_for(&gateway.name, class, &address.to_string()),
        };
        ObjectName::new(gateway.namespace.clone(), service)
    }

    fn are_there(&self) -> bool {
        let any = self.wanted.any.map(|_| self.name(None));
        let named = self.wanted.named.keys().map(|address| self.name(Some(*address)));
        any.into_iter().chain(named).all(|name| self.inputs.services.contains_key(&name))
    }

    /// Whether there is a load balancer to give addresses.
    fn has_balancer(&self) -> bool {
        self.facts.service_type.has_load_balancer()
    }

    /// Whether an address is what a Service of the configured type is reached by.
    fn is_default(&self, given: &Given) -> bool {
        given.of_cluster != self.has_balancer()
    }

    fn any(&self) -> Vec<Given> {
        self.wanted.any.map_or_else(Vec::new, |reach| self.given(None, reach))
    }

    fn named(&self, address: IpAddr) -> Vec<Given> {
        self.wanted.named.get(&address).map_or_else(Vec::new, |reach| self.given(Some(address), *reach))
    }

    fn given(&self, address: Option<IpAddr>, reach: Reach) -> Vec<Given> {
        let Some(service) = self.inputs.services.get(&self.name(address)) else { return Vec::new() };
        let balanced = reach == Reach::AsConfigured && self.has_balancer();
        let by_balancer = balanced.then(|| ingress(service)).into_iter().flatten();
        by_balancer.chain(cluster_ips(service)).collect()
    }
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = Given> {
    let addresses = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    let addresses = addresses.filter(|address| !address.is_empty() && *address != "None");
    addresses.map(|address| Given { kind: "IPAddress", value: address.clone(), of_cluster: true })
}

fn ingress(service: &Service) -> impl Iterator<Item = Given> {
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let listed = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
    let given = |of: &LoadBalancerIngress| {
        let hostname = || Some(("Hostname", of.hostname.clone()?));
        let (kind, value) = of.ip.clone().map(|ip| ("IPAddress", ip)).or_else(hostname)?;
        Some(Given { kind, value, of_cluster: false })
    };
    listed.filter_map(given)
}
