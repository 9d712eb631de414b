//! Gateways: which are ours, what they listen for, which routes are attached where, what their proxies need, and what
//! the statuses of all of them say.

mod addresses;
pub(crate) mod attach;
mod class;
mod conflict;
mod features;
pub(crate) mod filters;
mod frontend;
mod hostname;
pub(crate) mod listener;
mod namespaces;
mod needs;
pub(crate) mod obeyed;
pub(crate) mod policy;
pub(crate) mod reference;
mod status;

use std::collections::BTreeMap;

use weft_gateway_api::gateways::{GatewayListeners, GatewaySpec};
use weft_model::gateway::ListenerId;
use weft_model::{ObjectName, Resource, Text, gateway as model};

use super::status::GATEWAY_CONTROLLER_NAME;
use super::{Translated, filter};
use crate::infrastructure::parameters::ServiceType;
use crate::infrastructure::subject;
use crate::inputs::gateway::{Gateway, GatewayClass, ListenerSet};
use crate::inputs::{Inputs, Kind};
use listener::Listener;
use namespaces::Namespaces;
use reference::{Referrer, To};

pub use features::FEATURES;
pub use needs::GatewayNeeds;

/// Something wrong: a reason of the API and words for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Every Gateway of a class of ours, and the ListenerSets that name one.
#[derive(Debug, Default)]
pub(crate) struct Gateways<'a> {
    pub(crate) by_name: BTreeMap<ObjectName, Facts<'a>>,
    pub(crate) sets: BTreeMap<ObjectName, SetFacts<'a>>,
}

/// What is known of a Gateway.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) gateway: &'a Gateway,
    pub(crate) class: &'a str,
    /// Its own listeners in the order of the spec, then those of its ListenerSets by precedence.
    pub(crate) listeners: Vec<Listener>,
    /// Why it is not accepted at all.
    pub(crate) unaccepted: Option<Problem>,
    /// What its Services are: where its addresses are read from.
    pub(crate) service_type: ServiceType,
    /// It obeys the routes of the Services that it sends to.
    pub(crate) service_routes: bool,
    /// The certificate shown to backends.
    pub(crate) client_certificate: Option<Result<ObjectName, Problem>>,
    /// Clients without a certificate that is trusted are let in somewhere.
    pub(crate) insecure: bool,
}

/// What is known of a ListenerSet.
#[derive(Debug)]
pub(crate) struct SetFacts<'a> {
    pub(crate) set: &'a ListenerSet,
    pub(crate) gateway: ObjectName,
    /// Why it has no listener at the Gateway.
    pub(crate) unaccepted: Option<Problem>,
}

/// Reads all of them; no route is attached yet.
pub(crate) fn resolve(inputs: &Inputs) -> Gateways<'_> {
    let mut gateways = Gateways::default();
    for (name, gateway) in &inputs.gateways {
        if let Some((class, object)) = class_of(inputs, gateway) {
            gateways.by_name.insert(name.clone(), facts(inputs, gateway, class, object));
        }
    }
    let mut sets: Vec<_> = inputs.listener_sets.iter().collect();
    sets.sort_by_key(|(name, set)| (set.head.created, (*name).clone()));
    for (name, set) in sets {
        let parent = set_parent(name, set);
        if let Some((gateway, facts)) = parent.and_then(|parent| gateways.by_name.get_key_value(&parent)) {
            let unaccepted = not_allowed(inputs, facts, name, set);
            let known = SetFacts { set, gateway: gateway.clone(), unaccepted };
            if known.unaccepted.is_none() {
                add_set(inputs, &mut gateways, name, &known);
            }
            gateways.sets.insert(name.clone(), known);
        }
    }
    for facts in gateways.by_name.values_mut() {
        conflict::decide(&mut facts.listeners);
        conflict::overlap(&mut facts.listeners);
        facts.listeners.iter_mut().for_each(|listener| listener.service_routes = facts.service_routes);
    }
    gateways
}

/// The class of a Gateway, if it is ours.
fn class_of<'a>(inputs: &'a Inputs, gateway: &'a Gateway) -> Option<(&'a str, &'a GatewayClass)> {
    let name = gateway.class_name();
    let class = inputs.gateway_classes.get(name)?;
    is_ours(class).then_some((name, &**class))
}

/// Whether a GatewayClass names this controller.
pub(crate) fn is_ours(class: &GatewayClass) -> bool {
    class.spec.as_ref().is_ok_and(|spec| spec.controller_name == GATEWAY_CONTROLLER_NAME)
}

fn facts<'a>(
    inputs: &'a Inputs,
    gateway: &'a Gateway,
    class: &'a str,
    object: &'a GatewayClass,
) -> Facts<'a> {
    let by = Referrer { inputs, kind: Kind::Gateway, namespace: &gateway.head.name().namespace };
    let mut facts = Facts {
        gateway,
        class,
        listeners: Vec::new(),
        unaccepted: None,
        service_type: ServiceType::default(),
        service_routes: false,
        client_certificate: None,
        insecure: false,
    };
    let spec = match &gateway.spec {
        Ok(spec) => spec,
        Err(error) => {
            facts.unaccepted =
                Some(Problem::new("Invalid", format!("this Gateway does not decode: {error}")));
            return facts;
        }
    };
    let own = |of: &GatewayListeners| ListenerId { listener_set: None, name: of.name.as_str().into() };
    let validation = |port| frontend::validation(spec, &by, port);
    facts.listeners = spec.listeners.iter().map(|of| Listener::read(of, own(of), &by, &validation)).collect();
    facts.insecure = frontend::is_insecure(spec);
    facts.client_certificate = client_certificate(spec, &by);
    match subject::parameters(inputs, gateway, object) {
        Ok(parameters) => {
            facts.service_type = parameters.service_type;
            facts.service_routes = parameters.service_routes;
        }
        Err(error) => facts.unaccepted = Some(Problem::new("InvalidParameters", error.to_string())),
    }
    if let Some(problem) = unsupported(spec) {
        facts.unaccepted.get_or_insert(problem);
    }
    facts
}

fn client_certificate(spec: &GatewaySpec, by: &Referrer<'_>) -> Option<Result<ObjectName, Problem>> {
    let of = spec.tls.as_ref()?.backend.as_ref()?.client_certificate_ref.as_ref()?;
    let to = To {
        group: of.group.as_deref().unwrap_or_default(),
        kind: of.kind.as_deref().unwrap_or("Secret"),
        namespace: of.namespace.as_deref(),
        name: &of.name,
    };
    Some(by.certificate(&to, "InvalidClientCertificateRef"))
}

/// What a Gateway as a whole asks for that cannot be had.
fn unsupported(spec: &GatewaySpec) -> Option<Problem> {
    for address in spec.addresses.iter().flatten() {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or_default();
        let message = if kind != "IPAddress" {
            format!("addresses of type {kind} are not supported; use IPAddress")
        } else if !value.is_empty() && value.parse::<std::net::IpAddr>().is_err() {
            format!("{value:?} is no IP address")
        } else {
            continue;
        };
        return Some(Problem::new("UnsupportedAddress", message));
    }
    use weft_gateway_api::gateways::GatewayDefaultScope::All;
    let default = spec.default_scope.as_ref() == Some(&All);
    default.then(|| Problem::new("Invalid", "defaultScope All is not supported; remove it"))
}

/// The Gateway that a ListenerSet names.
fn set_parent(name: &ObjectName, set: &ListenerSet) -> Option<ObjectName> {
    let parent = &set.spec.as_ref().ok()?.parent_ref;
    let group = parent.group.as_deref().unwrap_or(crate::inputs::GATEWAY_API);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.clone().unwrap_or_else(|| name.namespace.to_string());
    (group == crate::inputs::GATEWAY_API && kind == "Gateway")
        .then(|| ObjectName::new(namespace, parent.name.as_str()))
}

fn not_allowed(inputs: &Inputs, facts: &Facts<'_>, name: &ObjectName, set: &ListenerSet) -> Option<Problem> {
    let gateway = facts.gateway.head.name();
    if let Some(problem) = &facts.unaccepted {
        let message = format!("Gateway {gateway} is not accepted: {}", problem.message);
        return Some(Problem::new("ParentNotAccepted", message));
    }
    let spec = facts.gateway.spec.as_ref().ok()?;
    let allowed = spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    if !Namespaces::read(allowed, "None").allow(inputs, &gateway.namespace, &name.namespace) {
        let message = format!("Gateway {gateway} allows no ListenerSets of namespace {}", name.namespace);
        return Some(Problem::new("NotAllowed", message));
    }
    let error = set.spec.as_ref().err()?;
    Some(Problem::new("Invalid", format!("this ListenerSet does not decode: {error}")))
}

fn add_set(inputs: &Inputs, gateways: &mut Gateways<'_>, name: &ObjectName, set: &SetFacts<'_>) {
    let Some(facts) = gateways.by_name.get_mut(&set.gateway) else { return };
    let (Ok(spec), Ok(of)) = (&facts.gateway.spec, &set.set.spec) else { return };
    let gateway = Referrer { inputs, kind: Kind::Gateway, namespace: &set.gateway.namespace };
    let by = Referrer { inputs, kind: Kind::ListenerSet, namespace: &name.namespace };
    let validation = |port| frontend::validation(spec, &gateway, port);
    // The generated listener types of both kinds have one shape.
    let read: Vec<GatewayListeners> = filter::read(&of.listeners).unwrap_or_default();
    facts.listeners.extend(read.iter().map(|of| {
        let id = ListenerId { listener_set: Some(name.clone()), name: of.name.as_str().into() };
        Listener::read(of, id, &by, &validation)
    }));
}

impl Facts<'_> {
    pub(crate) fn name(&self) -> &ObjectName {
        self.gateway.head.name()
    }

    /// The listeners of the Gateway itself, or of one of its ListenerSets.
    pub(crate) fn listeners_of(&self, set: Option<&ObjectName>) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(move |listener| listener.id.listener_set.as_ref() == set)
    }

    /// As its proxies serve it. One that is not accepted serves nothing.
    pub(crate) fn to_model(&self) -> model::Gateway {
        let served = self.listeners.iter().filter(|_| self.unaccepted.is_none());
        model::Gateway {
            name: self.name().clone(),
            generation: self.gateway.head.generation,
            listeners: served.filter_map(Listener::to_model).collect(),
            client_certificate: self.client_certificate.as_ref().and_then(|it| it.as_ref().ok()).cloned(),
        }
    }
}

/// Publishes everything but the routes, which have been published, and judges.
pub(crate) fn convert(
    inputs: &Inputs,
    gateways: &Gateways<'_>,
    policies: &policy::Policies<'_>,
    out: &mut Translated,
) {
    for facts in gateways.by_name.values() {
        let model = facts.to_model();
        for certificate in certificates(inputs, &model) {
            out.insert(Resource::Certificate(certificate));
        }
        out.insert(Resource::Gateway(model));
    }
    policies.publish(out);
    out.gateways = needs::all(inputs, gateways, out);
    policies.judge(out);
    status::judge(inputs, gateways, out);
}

/// The certificates that a Gateway names.
fn certificates(inputs: &Inputs, gateway: &model::Gateway) -> Vec<model::Certificate> {
    let find = |name: &ObjectName| {
        let pair = inputs.secrets.get(name)?.pair.as_ref().ok()?;
        let (chain_pem, key_pem) = (pair.chain_pem.clone(), pair.key_pem.clone());
        Some(model::Certificate { name: name.clone(), chain_pem, key_pem })
    };
    needs::certificates(gateway).into_iter().filter_map(find).collect()
}

/// A text as the model has it.
fn lower(names: &[Text]) -> Vec<Text> {
    names.iter().map(|name| name.to_ascii_lowercase().into()).collect()
}
