//! XBackends (GEP-4894): what each leads to, and what its status says. One is published as a Service with its endpoints,
//! under a name that no Service can have, so that proxies treat both alike. Its status has an entry for each Service and each
//! Gateway whose routes name it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_gateway_api::xbackends::{
    XBackendProtocol as Protocol, XBackendSpec as Spec, XBackendTlsMode as TlsMode, XBackendType as Type,
};
use weft_model::service::{self, AppProtocol, Endpoints, PortProtocol, Service};
use weft_model::session::SessionPersistence;
use weft_model::traffic::BackendTraffic;
use weft_model::{ObjectName, Resource};

use super::endpoint::{self, endpoints};
use super::fault::UnresolvedReason;
use super::gateway::Problem;
use super::service::Port;
use super::status::{
    AncestorStatus, CONTROLLER_NAME, Condition, GATEWAY_CONTROLLER_NAME, PolicyStatus, Status,
    StatusParentRef,
};
use super::workload::Workloads;
use super::{Translated, session};
use crate::inputs::Inputs;
use crate::inputs::gateway::XBackend;

/// All XBackends.
#[derive(Debug)]
pub(crate) struct XBackends<'a> {
    /// Whether the API server serves the kind.
    pub(crate) installed: bool,
    by_name: BTreeMap<&'a ObjectName, Judged<'a>>,
}

#[derive(Debug)]
struct Judged<'a> {
    backend: &'a XBackend,
    meaning: Result<Meaning, Problem>,
}

/// What one that is accepted says.
#[derive(Debug)]
struct Meaning {
    /// `endpointSelector.matchLabels`.
    selector: BTreeMap<String, String>,
    /// Its port, of each protocol that routes may use it by.
    ports: Vec<Port>,
    session: Option<SessionPersistence>,
}

/// Whose routes name which XBackends.
#[derive(Debug, Default)]
pub(crate) struct Referrers(BTreeMap<ObjectName, BTreeSet<Ancestor>>);

/// Through what an XBackend is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ancestor {
    Service(ObjectName),
    Gateway(ObjectName),
}

impl Referrers {
    pub(crate) fn note(&mut self, named: &BTreeSet<ObjectName>, ancestor: &Ancestor) {
        for name in named {
            self.0.entry(name.clone()).or_default().insert(ancestor.clone());
        }
    }
}

/// Reads them, and publishes those that can be used.
pub(crate) fn convert<'a>(inputs: &'a Inputs, workloads: &Workloads, out: &mut Translated) -> XBackends<'a> {
    let mut by_name = BTreeMap::new();
    for (name, backend) in &inputs.xbackends {
        let meaning = read(backend);
        if let Ok(meaning) = &meaning {
            publish(inputs, name, meaning, workloads, out);
        }
        by_name.insert(name, Judged { backend, meaning });
    }
    XBackends { installed: inputs.has_xbackends(), by_name }
}

fn read(backend: &XBackend) -> Result<Meaning, Problem> {
    let invalid = |message: String| Problem::new("Invalid", message);
    let spec: &Spec =
        backend.spec.as_ref().map_err(|error| invalid(format!("this XBackend does not decode: {error}")))?;
    if spec.r#type == Type::ExternalHostname {
        return Err(unsupported("type ExternalHostname is not supported; use EndpointSelector".to_owned()));
    }
    let selector = spec.endpoint_selector.as_ref().map(|of| of.match_labels.clone()).unwrap_or_default();
    if selector.is_empty() {
        return Err(invalid("endpointSelector.matchLabels: name the labels of the pods".to_owned()));
    }
    if let Some(tls) = spec.tls.as_ref().filter(|tls| tls.mode != TlsMode::None) {
        return Err(unsupported(format!("tls.mode {:?} is not supported; use None", tls.mode)));
    }
    let place = format!("XBackend/{}", backend.head.name());
    let session = spec.session_persistence.as_ref().map(|written| session::convert(written, &place));
    let session = session.transpose().map_err(|fault| invalid(fault.message))?;
    if let Some(problem) = session.as_ref().and_then(weft_routing::validate::session) {
        return Err(invalid(problem));
    }
    Ok(Meaning { selector, ports: ports(spec)?, session })
}

fn unsupported(message: String) -> Problem {
    Problem::new("UnsupportedValue", message)
}

/// The one port. Where no protocol is said it is as a route has it: of TCP or of UDP.
fn ports(spec: &Spec) -> Result<Vec<Port>, Problem> {
    let number = spec.port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    let missing = || Problem::new("Invalid", "port.number: name a port from 1 to 65535");
    let number = number.ok_or_else(missing)?;
    let port = |transport, protocol, declared: Option<&str>| Port {
        number,
        name: None,
        transport,
        protocol,
        node_port: None,
        declared: declared.map(str::to_owned),
    };
    let tcp = |protocol, declared| Ok(vec![port(PortProtocol::Tcp, protocol, declared)]);
    let unsupported = |protocol: &str, instead: &str| {
        let message = format!("protocol {protocol} is not supported; {instead}");
        Err(Problem::new(UnresolvedReason::UnsupportedProtocol.as_str(), message))
    };
    match spec.protocol {
        None => Ok([PortProtocol::Tcp, PortProtocol::Udp]
            .map(|transport| port(transport, AppProtocol::Unspecified, None))
            .into()),
        // Whichever version a route's kind needs.
        Some(Protocol::Http) => tcp(AppProtocol::Http, None),
        Some(Protocol::Http11) => tcp(AppProtocol::Http, Some("HTTP11")),
        Some(Protocol::H2c) => tcp(AppProtocol::H2c, Some("H2C")),
        Some(Protocol::Grpc) => tcp(AppProtocol::H2c, Some("GRPC")),
        Some(Protocol::Tcp) => tcp(AppProtocol::Tcp, Some("TCP")),
        Some(Protocol::Http2) => unsupported("HTTP2", "it needs TLS; use H2C"),
        Some(Protocol::Wss) => unsupported("WSS", "it needs TLS; use HTTP11"),
        Some(Protocol::Mcp) => unsupported("MCP", "use HTTP, which carries it"),
    }
}

fn publish(
    inputs: &Inputs,
    name: &ObjectName,
    meaning: &Meaning,
    workloads: &Workloads,
    out: &mut Translated,
) {
    let published = service::name_of_xbackend(name);
    let of = |transport| meaning.ports.iter().filter(move |port| port.transport == transport);
    let session = meaning.session.clone();
    out.insert(Resource::Service(Service {
        ports: of(PortProtocol::Tcp).map(Port::to_model).collect(),
        udp_ports: of(PortProtocol::Udp).map(|port| port.number).collect(),
        traffic: session.map(|session| BackendTraffic {
            policy: name.clone(),
            retry: None,
            session: Some(session),
        }),
        ..Service::new(published.clone())
    }));
    let slice = slice(inputs, &name.namespace, meaning);
    let mut at = |transport| {
        of(transport)
            .map(|port| (port.number, endpoints(port, &[&slice], workloads, &mut out.notices)))
            .collect()
    };
    let (ports, udp_ports) = (at(PortProtocol::Tcp), at(PortProtocol::Udp));
    out.insert(Resource::Endpoints(Endpoints { service: published, ports, udp_ports }));
}

/// What a Service with this selector would have written for it.
fn slice(inputs: &Inputs, namespace: &str, meaning: &Meaning) -> EndpointSlice {
    let selected = |(name, pod): &(&ObjectName, &std::sync::Arc<Pod>)| {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
        *name.namespace == *namespace && meaning.selector.iter().all(has)
    };
    let pods = inputs.pods.iter().filter(selected);
    endpoint::slice_of(pods.map(|(_, pod)| &**pod), &meaning.ports)
}

impl XBackends<'_> {
    /// The port of one with a protocol, or why it cannot be used. `None`: there is no such XBackend.
    pub(crate) fn port(
        &self,
        name: &ObjectName,
        transport: PortProtocol,
    ) -> Option<Result<&Port, (UnresolvedReason, String)>> {
        let judged = self.by_name.get(name)?;
        let unusable = |reason, why: &str| (reason, format!("backend XBackend {name} cannot be used: {why}"));
        let meaning = match &judged.meaning {
            Ok(meaning) => meaning,
            Err(problem) => {
                let by_protocol = UnresolvedReason::UnsupportedProtocol;
                let is_protocol = problem.reason == by_protocol.as_str();
                let reason = if is_protocol { by_protocol } else { UnresolvedReason::InvalidKind };
                return Some(Err(unusable(reason, &problem.message)));
            }
        };
        let port = meaning.ports.iter().find(|port| port.transport == transport);
        Some(port.ok_or_else(|| {
            let why = format!("its protocol is none of {}", transport.as_str());
            unusable(UnresolvedReason::UnsupportedProtocol, &why)
        }))
    }

    /// Says of each what becomes of it wherever routes name it.
    pub(crate) fn judge(&self, referrers: &Referrers, out: &mut Translated) {
        for (name, judged) in &self.by_name {
            let ancestors = referrers.0.get(name).into_iter().flatten();
            let ancestors = ancestors.map(|ancestor| judged.entry(ancestor)).collect();
            let id = judged.backend.head.id.clone();
            out.statuses.insert(id, Status::XBackend(PolicyStatus { ancestors }));
        }
    }
}

impl Judged<'_> {
    fn entry(&self, ancestor: &Ancestor) -> AncestorStatus {
        let (ancestor_ref, controller_name) = match ancestor {
            Ancestor::Service(name) => (StatusParentRef::service(name), CONTROLLER_NAME),
            Ancestor::Gateway(name) => (StatusParentRef::gateway(name), GATEWAY_CONTROLLER_NAME),
        };
        let generation = self.backend.head.generation;
        let accepted = match &self.meaning {
            Ok(_) => Condition::new("Accepted", "True", "Accepted", "The backend is accepted.", generation),
            Err(problem) => {
                Condition::new("Accepted", "False", problem.reason, problem.message.as_str(), generation)
            }
        };
        AncestorStatus { ancestor_ref, controller_name, conditions: vec![accepted] }
    }
}
