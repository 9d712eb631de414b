//! From what is read and translated to what is made: which Gateways are ours, and what each of them asks for.

use std::collections::{BTreeMap, BTreeSet};

use weft_gateway_api::gateways::GatewaySpec;
use weft_model::gateway::ListenerProtocol;
use weft_model::{ObjectName, Resource, ResourceName};

use super::names::CONTROLLER_NAME;
use super::parameters::{InvalidParameters, Parameters, Reference};
use super::plan::{Desired, ForGateway};
use super::{Settings, Subject, Transport, desired, request};
use crate::inputs::Inputs;
use crate::inputs::gateway::{Gateway, GatewayClass};

/// The keys and values of a ConfigMap.
type Data = BTreeMap<String, String>;

/// What there should be for every Gateway. `resources`: what was translated.
pub fn all(inputs: &Inputs, resources: &BTreeMap<ResourceName, Resource>, settings: &Settings) -> Desired {
    // What Weft has made goes with Weft.
    if inputs.uninstalling {
        return Desired::new();
    }
    let each = inputs.gateways.iter().filter_map(|(name, gateway)| {
        let translated = resources.get(&ResourceName(format!("Gateway/{name}").into()));
        Some((name.clone(), one(inputs, gateway, translated, settings)?))
    });
    each.collect()
}

/// `None`: the Gateway is another controller's.
fn one(
    inputs: &Inputs,
    gateway: &Gateway,
    translated: Option<&Resource>,
    settings: &Settings,
) -> Option<ForGateway> {
    // What cannot be judged now is not torn down.
    let Ok(spec) = &gateway.spec else { return Some(ForGateway::AsItIs) };
    let Some(class) = inputs.gateway_classes.get(&*spec.gateway_class_name) else {
        return Some(ForGateway::AsItIs);
    };
    match &class.spec {
        Ok(class) if class.controller_name != CONTROLLER_NAME => return None,
        Ok(_) => {}
        Err(_) => return Some(ForGateway::AsItIs),
    }
    let (Some(Resource::Gateway(translated)), Ok(parameters)) =
        (translated, parameters(inputs, gateway, class))
    else {
        return Some(ForGateway::AsItIs);
    };
    let ports = translated.listeners.iter().map(|listener| {
        let udp = listener.protocol == ListenerProtocol::Udp;
        (listener.port, if udp { Transport::Udp } else { Transport::Tcp })
    });
    let subject = subject(gateway, spec, ports.collect(), parameters);
    let objects = desired(&subject, settings);
    Some(ForGateway::Exactly { uid: subject.uid, objects })
}

fn subject(
    gateway: &Gateway,
    spec: &GatewaySpec,
    ports: BTreeSet<(u16, Transport)>,
    parameters: Parameters,
) -> Subject {
    let infrastructure = spec.infrastructure.as_ref();
    let head = &gateway.head;
    Subject {
        name: head.name().clone(),
        uid: head.uid.clone(),
        api_version: head.api_version.clone(),
        class: spec.gateway_class_name.clone(),
        labels: infrastructure.and_then(|it| it.labels.clone()).unwrap_or_default(),
        annotations: infrastructure.and_then(|it| it.annotations.clone()).unwrap_or_default(),
        services: request::services(spec),
        ports,
        parameters,
    }
}

/// What the parameters of a Gateway and of its class say together.
///
/// # Errors
/// They cannot be used: `InvalidParameters` in the Gateway's status.
pub fn parameters(
    inputs: &Inputs,
    gateway: &Gateway,
    class: &GatewayClass,
) -> Result<Parameters, InvalidParameters> {
    let of_class = class_data(inputs, class)?;
    let spec = gateway.spec.as_ref().ok();
    let reference = spec.and_then(|spec| spec.infrastructure.as_ref()?.parameters_ref.as_ref());
    let own = reference.map(|it| {
        let reference = Reference { group: &it.group, kind: &it.kind, name: &it.name };
        data(inputs, &gateway.head.name().namespace, &reference)
    });
    Parameters::read(of_class.into_iter().chain(own.transpose()?))
}

/// Judges the parameters of a class.
///
/// # Errors
/// They cannot be used: `InvalidParameters` in the GatewayClass's status.
pub fn judge_class(inputs: &Inputs, class: &GatewayClass) -> Result<(), InvalidParameters> {
    Parameters::read(class_data(inputs, class)?).map(drop)
}

fn class_data<'a>(inputs: &'a Inputs, class: &GatewayClass) -> Result<Option<&'a Data>, InvalidParameters> {
    let Some(it) = class.spec.as_ref().ok().and_then(|spec| spec.parameters_ref.as_ref()) else {
        return Ok(None);
    };
    let Some(namespace) = &it.namespace else {
        return Err(InvalidParameters("parametersRef of a GatewayClass needs a namespace".to_owned()));
    };
    let reference = Reference { group: &it.group, kind: &it.kind, name: &it.name };
    data(inputs, namespace, &reference).map(Some)
}

fn data<'a>(
    inputs: &'a Inputs,
    namespace: &str,
    reference: &Reference<'_>,
) -> Result<&'a Data, InvalidParameters> {
    let name = ObjectName::new(namespace, reference.config_map()?);
    let found = inputs.config_maps.get(&name);
    let found = found.ok_or_else(|| {
        InvalidParameters(format!("parametersRef names ConfigMap {name}, which does not exist"))
    })?;
    Ok(&found.data)
}

#[cfg(test)]
mod tests;
