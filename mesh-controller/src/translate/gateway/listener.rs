//! One listener: what it is to serve, and what is wrong with it.

use weft_gateway_api::gateways::{
    GatewayListeners as Spec, GatewayListenersFiltersRequests as WrittenFilter,
    GatewayListenersTlsMode as Mode,
};
use weft_model::gateway::{ClientValidation, ListenerId, ListenerProtocol, ListenerTls};
use weft_model::route::{ExternalAuth, Refusal, RouteKind};
use weft_model::{Text, gateway as model};

use super::Problem;
use super::namespaces::Namespaces;
use super::reference::{Referrer, To};
use crate::inputs::GATEWAY_API;

/// A listener of a Gateway or of a ListenerSet.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) id: ListenerId,
    /// The namespace of the Gateway or ListenerSet that it is written in.
    pub(crate) namespace: Text,
    pub(crate) port: u16,
    /// `None`: it is not known.
    pub(crate) protocol: Option<ListenerProtocol>,
    pub(crate) hostname: Option<Text>,
    /// The kinds of route that it serves and allows.
    pub(crate) kinds: Vec<RouteKind>,
    pub(crate) namespaces: Namespaces,
    pub(crate) tls: Option<ListenerTls>,
    /// `filters.requests` as they are written, and what they come to.
    pub(crate) written_filters: Vec<WrittenFilter>,
    pub(crate) filters: Vec<ExternalAuth>,
    /// The routes of Services that are chosen here come after its own.
    pub(crate) service_routes: bool,
    /// Why it is not accepted.
    pub(crate) unaccepted: Option<Problem>,
    /// Why not all its references lead anywhere.
    pub(crate) unresolved: Option<Problem>,
    /// Why its port belongs to another listener.
    pub(crate) conflict: Option<Problem>,
    /// Which other listener's TLS configuration may be met by its clients.
    pub(crate) overlap: Option<Problem>,
    /// How many routes are attached to it.
    pub(crate) attached: usize,
}

/// What a Gateway says for every listener.
pub(crate) type Validation<'a> = &'a dyn Fn(u16) -> Option<Result<ClientValidation, [Problem; 2]>>;

impl Listener {
    /// Reads and checks one. `validation`: `spec.tls.frontend` of the Gateway, by port.
    pub(crate) fn read(spec: &Spec, id: ListenerId, by: &Referrer<'_>, validation: Validation<'_>) -> Self {
        let protocol = protocol(&spec.protocol);
        let served = protocol.map_or(&[][..], kinds_of);
        let (kinds, unknown) = allowed_kinds(spec, served);
        let namespaces = spec.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        let hostname = spec.hostname.as_deref().filter(|name| !name.is_empty());
        let named = !matches!(protocol, Some(ListenerProtocol::Tcp | ListenerProtocol::Udp));
        let mut listener = Self {
            id,
            namespace: by.namespace.into(),
            port: u16::try_from(spec.port).unwrap_or_default(),
            protocol,
            hostname: hostname.filter(|_| named).map(|name| name.to_ascii_lowercase().into()),
            kinds,
            namespaces: Namespaces::read(namespaces, "Same"),
            tls: None,
            written_filters: spec
                .filters
                .iter()
                .flat_map(|of| of.requests.iter().flatten())
                .cloned()
                .collect(),
            filters: Vec::new(),
            service_routes: false,
            unaccepted: unsupported(spec, protocol),
            unresolved: unknown,
            conflict: None,
            overlap: None,
            attached: 0,
        };
        if matches!(protocol, Some(ListenerProtocol::Https | ListenerProtocol::Tls)) {
            listener.read_tls(spec, by, validation);
        }
        listener
    }

    fn read_tls(&mut self, spec: &Spec, by: &Referrer<'_>, validation: Validation<'_>) {
        let tls = spec.tls.as_ref();
        let is_http = self.protocol == Some(ListenerProtocol::Https);
        if tls.and_then(|tls| tls.mode.as_ref()) == Some(&Mode::Passthrough) {
            self.tls = Some(ListenerTls::Passthrough);
            if is_http {
                self.refuse(
                    "UnsupportedValue",
                    "TLS that is passed through cannot be read as HTTP: use mode Terminate",
                );
            }
            return;
        }
        let refs = tls.and_then(|tls| tls.certificate_refs.as_deref()).unwrap_or_default();
        let mut certificates = Vec::new();
        for of in refs {
            let to = To {
                group: of.group.as_deref().unwrap_or_default(),
                kind: of.kind.as_deref().unwrap_or("Secret"),
                namespace: of.namespace.as_deref(),
                name: &of.name,
            };
            match by.certificate(&to, "InvalidCertificateRef") {
                Ok(name) => certificates.push(name),
                Err(problem) => drop(self.unresolved.get_or_insert(problem)),
            }
        }
        if refs.is_empty() {
            let problem =
                Problem::new("InvalidCertificateRef", "tls.certificateRefs names no certificate".to_owned());
            self.unresolved.get_or_insert(problem);
        }
        let client_validation = match validation(self.port).filter(|_| is_http) {
            None => None,
            Some(Ok(validation)) => Some(validation),
            Some(Err([unaccepted, unresolved])) => {
                self.unaccepted.get_or_insert(unaccepted);
                self.unresolved.get_or_insert(unresolved);
                Some(ClientValidation { roots_pem: Vec::new(), allow_insecure_fallback: false })
            }
        };
        self.tls = Some(ListenerTls::Terminate { certificates, client_validation });
    }

    fn refuse(&mut self, reason: &'static str, message: &str) {
        self.unaccepted.get_or_insert_with(|| Problem::new(reason, message.to_owned()));
    }

    /// Whether a port is to be opened for it.
    pub(crate) fn has_port(&self) -> bool {
        self.protocol.is_some() && self.port != 0 && self.conflict.is_none()
    }

    pub(crate) fn is_accepted(&self) -> bool {
        self.unaccepted.is_none() && self.conflict.is_none()
    }

    /// Why whoever connects is refused.
    fn refusal(&self) -> Option<&Problem> {
        let without = |tls: &ListenerTls| matches!(tls, ListenerTls::Terminate { certificates, .. } if certificates.is_empty());
        let certificateless = self.tls.as_ref().is_some_and(without);
        self.unaccepted.as_ref().or_else(|| self.unresolved.as_ref().filter(|_| certificateless))
    }

    /// Why it is never going to be programmed as it is.
    pub(crate) fn invalid(&self) -> Option<&Problem> {
        self.conflict.as_ref().or_else(|| self.refusal())
    }

    /// As proxies serve it; `None` if no port is its own.
    pub(crate) fn to_model(&self) -> Option<model::Listener> {
        let listener = model::Listener {
            id: self.id.clone(),
            port: self.port,
            protocol: self.protocol.filter(|_| self.has_port())?,
            hostname: self.hostname.clone(),
            tls: self.tls.clone(),
            filters: self.filters.clone(),
            service_routes: self.service_routes,
            refusal: self.refusal().map(|problem| Refusal { message: problem.message.as_str().into() }),
            refused_without: Vec::new(),
        };
        Some(listener.demanding())
    }
}

fn protocol(word: &str) -> Option<ListenerProtocol> {
    Some(match word {
        "HTTP" => ListenerProtocol::Http,
        "HTTPS" => ListenerProtocol::Https,
        "TLS" => ListenerProtocol::Tls,
        "TCP" => ListenerProtocol::Tcp,
        "UDP" => ListenerProtocol::Udp,
        _ => return None,
    })
}

/// The kinds of route that a protocol can serve.
fn kinds_of(protocol: ListenerProtocol) -> &'static [RouteKind] {
    match protocol {
        ListenerProtocol::Http | ListenerProtocol::Https => &[RouteKind::Grpc, RouteKind::Http],
        ListenerProtocol::Tls => &[RouteKind::Tls],
        ListenerProtocol::Tcp => &[RouteKind::Tcp],
        ListenerProtocol::Udp => &[RouteKind::Udp],
    }
}

/// `allowedRoutes.kinds`, as far as the protocol can serve them, and what is wrong with the others.
fn allowed_kinds(spec: &Spec, served: &[RouteKind]) -> (Vec<RouteKind>, Option<Problem>) {
    let listed = spec.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_deref());
    let Some(listed) = listed.filter(|listed| !listed.is_empty()) else { return (served.to_vec(), None) };
    let (mut kinds, mut others) = (Vec::new(), Vec::new());
    for of in listed {
        let group = of.group.as_deref().unwrap_or(GATEWAY_API);
        match served.iter().find(|kind| group == GATEWAY_API && kind.as_str() == of.kind) {
            Some(kind) if kinds.contains(kind) => {}
            Some(kind) => kinds.push(*kind),
            None => others.push(of.kind.as_str()),
        }
    }
    let problem = (!others.is_empty()).then(|| {
        let message = format!("a listener of protocol {} cannot serve {}", spec.protocol, others.join(", "));
        Problem::new("InvalidRouteKinds", message)
    });
    (kinds, problem)
}

/// What is written that cannot be carried out.
fn unsupported(spec: &Spec, protocol: Option<ListenerProtocol>) -> Option<Problem> {
    if protocol.is_none() {
        let message =
            format!("protocol {} is not supported; use HTTP, HTTPS, TLS, TCP or UDP", spec.protocol);
        return Some(Problem::new("UnsupportedProtocol", message));
    }
    let options = spec.tls.as_ref().and_then(|tls| tls.options.as_ref());
    let what = if let Some(option) = options.and_then(|options| options.keys().next()) {
        format!("the TLS option {option} is not supported; remove it")
    } else if u16::try_from(spec.port).unwrap_or_default() == 0 {
        format!("{} is no port", spec.port)
    } else {
        return None;
    };
    Some(Problem::new("UnsupportedValue", what))
}
