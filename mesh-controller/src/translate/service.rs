//! Services with their ports, and the endpoints behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use weft_model::service::{AppProtocol, Endpoint, Endpoints, Service, ServicePort};
use weft_model::{ObjectName, Resource, Text};

use super::Translated;
use super::workload::Workloads;
use crate::inputs::Inputs;

/// The Services by name, as routes look them up.
pub(crate) type Services = BTreeMap<ObjectName, ServiceFacts>;

/// What routes need to know of a Service.
#[derive(Debug)]
pub(crate) struct ServiceFacts {
    pub(crate) form: Form,
    pub(crate) ports: Vec<Port>,
}

/// Whether a Service has addresses of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// It has: a ClusterIP, whatever `type` adds to it.
    Addressed,
    /// `clusterIP: None`.
    Headless,
    /// `type: ExternalName`.
    ExternalName,
}

/// A port of a Service.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) name: Option<Text>,
    pub(crate) udp: bool,
    pub(crate) protocol: AppProtocol,
    /// `appProtocol` as written. The port-name convention is only a hint; this is a declaration.
    pub(crate) declared: Option<String>,
}

impl ServiceFacts {
    /// The port with a number, of TCP or of UDP.
    pub(crate) fn port(&self, number: i64, udp: bool) -> Option<&Port> {
        self.ports.iter().find(|port| i64::from(port.number) == number && port.udp == udp)
    }
}

/// Converts Services and EndpointSlices.
pub(crate) fn convert(inputs: &Inputs, workloads: &Workloads, out: &mut Translated) -> Services {
    let mut slices: BTreeMap<ObjectName, Vec<&EndpointSlice>> = BTreeMap::new();
    for (name, slice) in &inputs.endpoint_slices {
        let labels = slice.metadata.labels.as_ref();
        if let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")) {
            slices.entry(ObjectName::new(name.namespace.clone(), service.as_str())).or_default().push(slice);
        }
    }
    let mut services = Services::new();
    for (name, service) in &inputs.services {
        let facts = facts(service);
        if facts.form != Form::ExternalName {
            out.insert(Resource::Service(Service {
                name: name.clone(),
                addresses: addresses(service),
                ports: tcp(&facts).map(Port::to_model).collect(),
            }));
            if let Some(slices) = slices.get(name) {
                let ports = tcp(&facts)
                    .map(|port| (port.number, endpoints(port, slices, workloads, &mut out.notices)))
                    .collect();
                out.insert(Resource::Endpoints(Endpoints { service: name.clone(), ports }));
            }
        }
        services.insert(name.clone(), facts);
    }
    services
}

fn tcp(facts: &ServiceFacts) -> impl Iterator<Item = &Port> {
    facts.ports.iter().filter(|port| !port.udp)
}

impl Port {
    fn to_model(&self) -> ServicePort {
        ServicePort { port: self.number, name: self.name.clone(), protocol: self.protocol }
    }
}

fn facts(service: &k8s::Service) -> ServiceFacts {
    let spec = service.spec.as_ref();
    let form = match spec {
        Some(spec) if spec.type_.as_deref() == Some("ExternalName") => Form::ExternalName,
        Some(spec) if spec.cluster_ip.as_deref() == Some("None") => Form::Headless,
        _ => Form::Addressed,
    };
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ServiceFacts { form, ports: ports.iter().filter_map(convert_port).collect() }
}

fn convert_port(port: &k8s::ServicePort) -> Option<Port> {
    let udp = match port.protocol.as_deref() {
        None | Some("TCP") => false,
        Some("UDP") => true,
        Some(_) => return None,
    };
    let name = port.name.as_deref().filter(|name| !name.is_empty());
    Some(Port {
        number: u16::try_from(port.port).ok().filter(|number| *number > 0)?,
        name: name.map(Text::from),
        udp,
        protocol: match (port.app_protocol.as_deref(), name) {
            (Some(word), _) => declared_protocol(word),
            (None, Some(name)) => named_protocol(name),
            (None, None) => AppProtocol::Unspecified,
        },
        declared: port.app_protocol.clone(),
    })
}

/// `appProtocol`: Kubernetes' own words (KEP-3726) and the bare ones in use. Unknown words must not break.
fn declared_protocol(word: &str) -> AppProtocol {
    match word.to_ascii_lowercase().as_str() {
        "http" => AppProtocol::Http,
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => AppProtocol::H2c,
        "kubernetes.io/ws" | "ws" => AppProtocol::WebSocket,
        "kubernetes.io/wss" | "wss" | "https" | "tls" => AppProtocol::Tls,
        "tcp" => AppProtocol::Tcp,
        _ => AppProtocol::Unspecified,
    }
}

/// The port-name convention: `http` or `http-anything`.
fn named_protocol(name: &str) -> AppProtocol {
    match name.split_once('-').map_or(name, |(word, _)| word) {
        "http" => AppProtocol::Http,
        "http2" | "grpc" => AppProtocol::H2c,
        "https" | "tls" => AppProtocol::Tls,
        "tcp" => AppProtocol::Tcp,
        _ => AppProtocol::Unspecified,
    }
}

/// Every address the Service is called by (dataplane rule 8); NodePorts are not among them.
fn addresses(service: &k8s::Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let cluster = spec.into_iter().flat_map(|spec| {
        let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.as_ref());
        listed.chain(spec.external_ips.iter().flatten()).map(String::as_str)
    });
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    // ipMode Proxy: the balancer delivers to nodes or pods itself, its address never reaches a pod's kernel.
    let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let ingress = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let texts = cluster.chain(ingress.filter_map(|ingress| ingress.ip.as_deref()));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The endpoints of one Service port: the union of its slices, each address once.
fn endpoints(
    port: &Port,
    slices: &[&EndpointSlice],
    workloads: &Workloads,
    notices: &mut BTreeSet<String>,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<SocketAddr, Candidate> = BTreeMap::new();
    for slice in slices {
        let target = slice.ports.iter().flatten().find(|target| {
            target.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && target.protocol.as_deref().unwrap_or("TCP") == "TCP"
        });
        let Some(number) = target.and_then(|t| t.port).and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some((address, candidate)) = candidate(endpoint, number, workloads, notices) else {
                continue;
            };
            // An address that moves from slice to slice is in both for a moment: the better one counts.
            let known = found.entry(address).or_insert_with(|| candidate.clone());
            if candidate.state > known.state {
                *known = candidate;
            }
        }
    }
    // As kube-proxy: those that end but still serve are chosen only when no other is ready.
    let any_ready = found.values().any(|candidate| candidate.state == State::Ready);
    let convert = |(address, candidate): (SocketAddr, Candidate)| Endpoint {
        address,
        workload: candidate.workload,
        ready: candidate.state == State::Ready
            || (!any_ready && candidate.state == State::ServingTerminating),
        zone: candidate.zone,
        conflict: candidate.conflict,
    };
    found.into_iter().map(convert).collect()
}

#[derive(Clone, Debug)]
struct Candidate {
    workload: Option<Text>,
    state: State,
    zone: Option<Text>,
    conflict: Option<Text>,
}

/// From the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    NotReady,
    ServingTerminating,
    Ready,
}

fn candidate(
    endpoint: &SliceEndpoint,
    port: u16,
    workloads: &Workloads,
    notices: &mut BTreeSet<String>,
) -> Option<(SocketAddr, Candidate)> {
    // The API says that of several addresses only the first is used. An FQDN slice has none that parses.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let state = match (ready, serving && terminating) {
        (true, _) => State::Ready,
        (false, true) => State::ServingTerminating,
        (false, false) => State::NotReady,
    };
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let named = target.and_then(|target| target.uid.as_deref());
    let zone = endpoint.zone.as_deref().map(Text::from);
    let at = SocketAddr::new(address, port);
    let workload = match (named, workloads.at(address)) {
        (Some(uid), Some(owner)) if **owner != *uid => {
            if let Some((one, other)) = workloads.rivals(uid, address) {
                // Listed, so that whoever calls it is told why it is refused. The pods' own notice tells the operator.
                let conflict = Some(format!("pods {one} and {other} both claim {address}").into());
                return Some((at, Candidate { workload: None, state: State::NotReady, zone, conflict }));
            }
            notices.insert(format!(
                "endpoint {address} is listed for the pod with UID {uid} but belongs to another pod now: left out \
                 until its EndpointSlice is corrected"
            ));
            return None;
        }
        (_, Some(owner)) => Some(owner.clone()),
        (Some(uid), None) => workloads.has_uid(uid).then(|| Text::from(uid)),
        (None, None) => None,
    };
    Some((at, Candidate { workload, state, zone, conflict: None }))
}
