//! Services with their ports, and the endpoints behind them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use weft_model::service::{
    AppProtocol, Endpoint, Endpoints, NodePort, PortProtocol, Service, ServicePort, TrafficPolicy,
};
use weft_model::{ObjectName, Resource, Text};

use super::Translated;
use super::endpoint::endpoints;
use super::workload::Workloads;
use crate::inputs::Inputs;

/// The Services by name, as routes look them up.
pub(crate) type Services = BTreeMap<ObjectName, ServiceFacts>;

/// What routes need to know of a Service.
#[derive(Debug)]
pub(crate) struct ServiceFacts {
    pub(crate) form: Form,
    pub(crate) ports: Vec<Port>,
    /// `sessionAffinity: ClientIP`.
    pub(crate) client_ip_affinity: bool,
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
    pub(crate) transport: PortProtocol,
    pub(crate) protocol: AppProtocol,
    pub(crate) node_port: Option<u16>,
    /// `appProtocol` as written. The port-name convention is only a hint; this is a declaration.
    pub(crate) declared: Option<String>,
}

impl ServiceFacts {
    /// The port with a number, of TCP or of UDP.
    pub(crate) fn port(&self, number: i64, transport: PortProtocol) -> Option<&Port> {
        self.of(transport).find(|port| i64::from(port.number) == number)
    }

    /// The TCP ports, or those of UDP.
    pub(crate) fn of(&self, transport: PortProtocol) -> impl Iterator<Item = &Port> {
        self.ports.iter().filter(move |port| port.transport == transport)
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
            out.insert(Resource::Service(to_model(name, service, &facts)));
            if let Some(slices) = slices.get(name) {
                let mut of = |transport| -> BTreeMap<u16, Vec<Endpoint>> {
                    let ports = facts.of(transport);
                    ports
                        .map(|port| (port.number, endpoints(port, slices, workloads, &mut out.notices)))
                        .collect()
                };
                let (ports, udp_ports) = (of(PortProtocol::Tcp), of(PortProtocol::Udp));
                out.insert(Resource::Endpoints(Endpoints { service: name.clone(), ports, udp_ports }));
            }
        }
        services.insert(name.clone(), facts);
    }
    services
}

fn to_model(name: &ObjectName, service: &k8s::Service, facts: &ServiceFacts) -> Service {
    let spec = service.spec.as_ref();
    let is_local = |spec: &&k8s::ServiceSpec| spec.internal_traffic_policy.as_deref() == Some("Local");
    Service {
        name: name.clone(),
        addresses: addresses(service),
        ports: facts.of(PortProtocol::Tcp).map(Port::to_model).collect(),
        udp_ports: facts.of(PortProtocol::Udp).map(|port| port.number).collect(),
        node_ports: facts.ports.iter().filter_map(Port::node_port).collect(),
        internal_traffic_policy: match spec.filter(is_local) {
            Some(_) => TrafficPolicy::Local,
            None => TrafficPolicy::Cluster,
        },
        client_ip_affinity: spec.and_then(client_ip_affinity),
        traffic: None,
        host: None,
        tls_only: false,
    }
}

/// Seconds. An API server fills in the timeout; three hours are its default.
fn client_ip_affinity(spec: &k8s::ServiceSpec) -> Option<u32> {
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(10_800);
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| u32::try_from(seconds).unwrap_or(0))
}

impl Port {
    fn node_port(&self) -> Option<NodePort> {
        self.node_port.map(|node_port| NodePort { node_port, port: self.number, protocol: self.transport })
    }

    pub(crate) fn to_model(&self) -> ServicePort {
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
    ServiceFacts {
        form,
        ports: ports.iter().filter_map(convert_port).collect(),
        client_ip_affinity: spec.and_then(client_ip_affinity).is_some(),
    }
}

fn convert_port(port: &k8s::ServicePort) -> Option<Port> {
    let transport = match port.protocol.as_deref() {
        None | Some("TCP") => PortProtocol::Tcp,
        Some("UDP") => PortProtocol::Udp,
        Some(_) => return None,
    };
    let name = port.name.as_deref().filter(|name| !name.is_empty());
    Some(Port {
        number: u16::try_from(port.port).ok().filter(|number| *number > 0)?,
        name: name.map(Text::from),
        transport,
        protocol: match (port.app_protocol.as_deref(), name) {
            (Some(word), _) => declared_protocol(word),
            (None, Some(name)) => named_protocol(name),
            (None, None) => AppProtocol::Unspecified,
        },
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
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
