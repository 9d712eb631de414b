//! XBackends (GEP-4894): what each leads to, and what its status says. One is published as a Service with its endpoints,
//! under a name that no Service can have, so that proxies treat both alike. Its status has an entry for each Service and each
//! Gateway whose routes name it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_gateway_api::backendtlspolicies::BackendTlsPolicyValidation as Validation;
use weft_gateway_api::xbackends::{
    XBackendProtocol as Protocol, XBackendSpec as Spec, XBackendTls as WrittenTls,
    XBackendTlsMode as TlsMode, XBackendType as Type,
};
use weft_model::gateway::{BackendRoots, BackendTls, Certificate, ShownCertificate, SubjectAltName};
use weft_model::service::{self, AppProtocol, Endpoints, PortProtocol, Service};
use weft_model::session::SessionPersistence;
use weft_model::traffic::BackendTraffic;
use weft_model::{ObjectName, Resource, Text};

use super::endpoint::{self, endpoints};
use super::fault::UnresolvedReason;
use super::gateway::Problem;
use super::gateway::policy::{alt_names, trusted};
use super::gateway::reference::{Referrer, To};
use super::service::Port;
use super::status::{
    AncestorStatus, CONTROLLER_NAME, Condition, GATEWAY_CONTROLLER_NAME, PolicyStatus, Status,
    StatusParentRef,
};
use super::workload::Workloads;
use super::{Translated, filter, session};
use crate::inputs::gateway::XBackend;
use crate::inputs::{Inputs, Kind};

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
    place: Place,
    /// Its port, of each protocol that routes may use it by.
    ports: Vec<Port>,
    session: Option<SessionPersistence>,
    tls: Option<Tls>,
}

/// Where its endpoints are.
#[derive(Debug)]
enum Place {
    /// `endpointSelector.matchLabels`.
    Pods(BTreeMap<String, String>),
    /// `externalHostname.hostname`.
    Host(Text),
}

/// How its applications are reached by TLS.
#[derive(Debug)]
struct Tls {
    hostname: Text,
    subject_alt_names: Vec<SubjectAltName>,
    roots: BackendRoots,
    /// Why not all references to roots lead anywhere.
    unresolved: Option<Problem>,
    /// `clientCertificateRef`.
    certificate: Option<ObjectName>,
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
        let meaning = read(inputs, backend);
        if let Ok(meaning) = &meaning {
            publish(inputs, name, meaning, workloads, out);
        }
        by_name.insert(name, Judged { backend, meaning });
    }
    XBackends { installed: inputs.has_xbackends(), by_name }
}

fn read(inputs: &Inputs, backend: &XBackend) -> Result<Meaning, Problem> {
    let spec: &Spec =
        backend.spec.as_ref().map_err(|error| invalid(format!("this XBackend does not decode: {error}")))?;
    let tls = spec.tls.as_ref().filter(|tls| tls.mode != TlsMode::None);
    let by = Referrer { inputs, kind: Kind::XBackend, namespace: &backend.head.name().namespace };
    let tls = tls.map(|tls| read_tls(&by, tls)).transpose()?;
    let (place, ports) = (read_place(inputs, spec)?, ports(spec, tls.is_some())?);
    let session = read_session(spec, backend.head.name())?;
    Ok(Meaning { place, ports, session, tls })
}

fn invalid(message: String) -> Problem {
    Problem::new("Invalid", message)
}

fn read_place(inputs: &Inputs, spec: &Spec) -> Result<Place, Problem> {
    if spec.r#type == Type::EndpointSelector {
        let selector = spec.endpoint_selector.as_ref().map(|of| of.match_labels.clone()).unwrap_or_default();
        if selector.is_empty() {
            return Err(invalid("endpointSelector.matchLabels: name the labels of the pods".to_owned()));
        }
        return Ok(Place::Pods(selector));
    }
    let host = spec.external_hostname.as_ref().map(|of| of.hostname.as_str()).unwrap_or_default();
    let own = format!(".{}", inputs.mesh.cluster_domain);
    let is_inside = [".cluster.local", &own].iter().any(|domain| format!(".{host}").ends_with(domain));
    if host.is_empty() || host.parse::<IpAddr>().is_ok() || is_inside {
        let message = format!("externalHostname.hostname: {host:?} is no name of a host outside the cluster");
        return Err(invalid(message));
    }
    Ok(Place::Host(host.into()))
}

fn read_tls(by: &Referrer<'_>, tls: &WrittenTls) -> Result<Tls, Problem> {
    let missing = |field: &str| invalid(format!("tls.{field} is missing; fill it in"));
    let read: Vec<Validation> =
        filter::read(tls.validation.as_slice()).map_err(|fault| invalid(fault.message))?;
    let validation = read.first().ok_or_else(|| missing("validation"))?;
    let certificate = match (&tls.mode, &tls.client_certificate_ref) {
        (TlsMode::ClientAndServer, None) => return Err(missing("clientCertificateRef")),
        (TlsMode::ClientAndServer, Some(of)) => {
            let to = To {
                group: of.group.as_deref().unwrap_or_default(),
                kind: of.kind.as_deref().unwrap_or("Secret"),
                namespace: of.namespace.as_deref(),
                name: &of.name,
            };
            Some(by.certificate(&to, "InvalidClientCertificateRef")?)
        }
        (TlsMode::ServerOnly | TlsMode::None, _) => None,
    };
    let (roots, unresolved) = trusted(by, validation);
    let listed = validation.subject_alt_names.as_deref().unwrap_or_default();
    Ok(Tls {
        hostname: validation.hostname.as_str().into(),
        subject_alt_names: alt_names(listed),
        roots: roots?,
        unresolved,
        certificate,
    })
}

fn read_session(spec: &Spec, name: &ObjectName) -> Result<Option<SessionPersistence>, Problem> {
    let place = format!("XBackend/{name}");
    let session = spec.session_persistence.as_ref().map(|written| session::convert(written, &place));
    let session = session.transpose().map_err(|fault| invalid(fault.message))?;
    if let Some(problem) = session.as_ref().and_then(weft_routing::validate::session) {
        return Err(invalid(problem));
    }
    Ok(session)
}

/// The one port. Where no protocol is said it is as a route has it: of TCP, or, of pods without TLS, of UDP.
fn ports(spec: &Spec, by_tls: bool) -> Result<Vec<Port>, Problem> {
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
    let unsupported =
        |message: &str| Err(Problem::new(UnresolvedReason::UnsupportedProtocol.as_str(), message));
    match spec.protocol {
        None if by_tls || spec.r#type == Type::ExternalHostname => tcp(AppProtocol::Unspecified, None),
        None => Ok([PortProtocol::Tcp, PortProtocol::Udp]
            .map(|transport| port(transport, AppProtocol::Unspecified, None))
            .into()),
        // Whichever version a route's kind needs.
        Some(Protocol::Http) => tcp(AppProtocol::Http, None),
        Some(Protocol::Http11) => tcp(AppProtocol::Http, Some("HTTP11")),
        Some(Protocol::H2c) => tcp(AppProtocol::H2c, Some("H2C")),
        Some(Protocol::Grpc) => tcp(AppProtocol::H2c, Some("GRPC")),
        Some(Protocol::Tcp) => tcp(AppProtocol::Tcp, Some("TCP")),
        Some(Protocol::Http2) if by_tls => tcp(AppProtocol::H2c, Some("HTTP2")),
        Some(Protocol::Wss) if by_tls => tcp(AppProtocol::WebSocket, Some("WSS")),
        Some(Protocol::Http2) => unsupported("protocol HTTP2 needs TLS; without it use H2C"),
        Some(Protocol::Wss) => unsupported("protocol WSS needs TLS; without it use HTTP11"),
        Some(Protocol::Mcp) => unsupported("protocol MCP is not supported; use HTTP, which carries it"),
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
        host: meaning.host().cloned(),
        tls_only: meaning.tls.is_some(),
        ..Service::new(published.clone())
    }));
    publish_tls(inputs, name, meaning, out);
    let Place::Pods(selector) = &meaning.place else { return };
    let slice = slice(inputs, &name.namespace, selector, &meaning.ports);
    let mut at = |transport| {
        of(transport)
            .map(|port| (port.number, endpoints(port, &[&slice], workloads, &mut out.notices)))
            .collect()
    };
    let (ports, udp_ports) = (at(PortProtocol::Tcp), at(PortProtocol::Udp));
    out.insert(Resource::Endpoints(Endpoints { service: published, ports, udp_ports }));
}

/// What a Service with this selector would have written for it.
fn slice(
    inputs: &Inputs,
    namespace: &str,
    selector: &BTreeMap<String, String>,
    ports: &[Port],
) -> EndpointSlice {
    let selected = |(name, pod): &(&ObjectName, &std::sync::Arc<Pod>)| {
        let labels = pod.metadata.labels.as_ref();
        let has = |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
        *name.namespace == *namespace && selector.iter().all(has)
    };
    let pods = inputs.pods.iter().filter(selected);
    endpoint::slice_of(pods.map(|(_, pod)| &**pod), ports)
}

fn publish_tls(inputs: &Inputs, name: &ObjectName, meaning: &Meaning, out: &mut Translated) {
    let (Some(tls), Some(port)) = (&meaning.tls, meaning.ports.first()) else { return };
    let shown = tls.certificate.clone().map_or(ShownCertificate::None, ShownCertificate::Own);
    out.insert(Resource::BackendTls(BackendTls {
        service: service::name_of_xbackend(name),
        port: port.number,
        policy: name.clone(),
        hostname: tls.hostname.clone(),
        subject_alt_names: tls.subject_alt_names.clone(),
        roots: tls.roots.clone(),
        shown,
        in_mesh: meaning.in_mesh().is_ok(),
        refusal: None,
    }));
    let pair = |certificate: &ObjectName| inputs.secrets.get(certificate)?.pair.as_ref().ok();
    if let Some((certificate, pair)) = tls.certificate.as_ref().and_then(|name| Some((name, pair(name)?))) {
        out.insert(Resource::Certificate(Certificate {
            name: certificate.clone(),
            chain_pem: pair.chain_pem.clone(),
            key_pem: pair.key_pem.clone(),
        }));
    }
}

impl Meaning {
    fn host(&self) -> Option<&Text> {
        match &self.place {
            Place::Host(host) => Some(host),
            Place::Pods(_) => None,
        }
    }

    /// Whether callers in the mesh may be sent there: what is said of TLS between pods is the mesh's own, and every node
    /// would have to hold a client's key.
    fn in_mesh(&self) -> Result<(), Problem> {
        let why = match (&self.tls, &self.place) {
            (Some(_), Place::Pods(_)) => "its TLS to pods is carried out at Gateways only",
            (Some(Tls { certificate: Some(_), .. }), _) => "its client certificate is shown at Gateways only",
            (Some(Tls { certificate: None, .. }) | None, _) => return Ok(()),
        };
        Err(Problem::new("UnsupportedValue", format!("{why}; leave it out for routes on Services")))
    }
}

impl XBackends<'_> {
    /// The port of one with a protocol, for callers in the mesh or at Gateways, or why it cannot be used. `None`: there is no such XBackend.
    pub(crate) fn port(
        &self,
        name: &ObjectName,
        transport: PortProtocol,
        in_mesh: bool,
    ) -> Option<Result<&Port, (UnresolvedReason, String)>> {
        let judged = self.by_name.get(name)?;
        let unusable = |reason, why: &str| (reason, format!("backend XBackend {name} cannot be used: {why}"));
        let meaning = match judged.usable(in_mesh) {
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
    fn usable(&self, in_mesh: bool) -> Result<&Meaning, Problem> {
        let meaning = self.meaning.as_ref().map_err(Clone::clone)?;
        if in_mesh {
            meaning.in_mesh()?;
        }
        Ok(meaning)
    }

    fn entry(&self, ancestor: &Ancestor) -> AncestorStatus {
        let (ancestor_ref, controller_name) = match ancestor {
            Ancestor::Service(name) => (StatusParentRef::service(name), CONTROLLER_NAME),
            Ancestor::Gateway(name) => (StatusParentRef::gateway(name), GATEWAY_CONTROLLER_NAME),
        };
        let generation = self.backend.head.generation;
        let accepted = match self.usable(matches!(ancestor, Ancestor::Service(_))) {
            Ok(Meaning { tls: Some(Tls { unresolved: Some(problem), .. }), .. }) => {
                let message = format!("The backend is accepted, but not all its roots: {}.", problem.message);
                Condition::new("Accepted", "True", "Accepted", message, generation)
            }
            Ok(_) => Condition::new("Accepted", "True", "Accepted", "The backend is accepted.", generation),
            Err(problem) => {
                Condition::new("Accepted", "False", problem.reason, problem.message.as_str(), generation)
            }
        };
        AncestorStatus { ancestor_ref, controller_name, conditions: vec![accepted] }
    }
}
