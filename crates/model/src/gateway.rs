//! Gateways, in the form that their proxies serve them by. Every field names the Gateway API field it came from;
//! references are resolved, conflicts decided, and what cannot be carried out is a [`Refusal`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::name::{ObjectName, Text};
use crate::route::{ExternalAuth, Refusal};

/// A Gateway with the listeners of its own and of its ListenerSets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// The object.
    pub name: ObjectName,
    /// `metadata.generation`, for explanations.
    pub generation: i64,
    /// What is to be served. Those that lose a conflict are not in here: their ports belong to the winners.
    pub listeners: Vec<Listener>,
    /// `spec.tls.backend.clientCertificateRef`: the [`Certificate`] shown to backends that are reached by TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ObjectName>,
}

/// A listener of a Gateway or of one of its ListenerSets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Which one.
    pub id: ListenerId,
    /// `port`: the one that clients and the proxy's own socket use.
    pub port: u16,
    /// `protocol`.
    pub protocol: ListenerProtocol,
    /// `hostname`, lower case: exact, or `*.` and a suffix. `None`: every name and none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Text>,
    /// `tls`; always there for HTTPS and TLS, never for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// `filters.requests` (GEP-5224): asked in this order about every request, before its route is chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<ExternalAuth>,
    /// What a rule here sends to a Service's port is then routed by that Service's own routes, once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service_routes: bool,
    /// Set when the listener cannot be served although its port is its own: whoever connects to it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// The refusal is meant only for proxies that do not know all of these, the names of fields above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_without: Vec<Text>,
}

/// The fields by which a listener lets fewer pass than it would without, or others. Those that this program knows.
const DEMANDS: [&str; 2] = ["filters", "service_routes"];

impl Listener {
    /// For proxies of any version: one that does not know such a field would serve the listener as if it were not there.
    /// It knows refusals.
    #[must_use]
    pub fn demanding(mut self) -> Self {
        if self.refusal.is_some() {
            return self;
        }
        let demands = [!self.filters.is_empty(), self.service_routes];
        let demands = DEMANDS.iter().zip(demands).filter(|(_, demanded)| *demanded);
        self.refused_without = demands.map(|(name, _)| Text::from(*name)).collect();
        if self.refused_without.is_empty() {
            return self;
        }
        let message = format!(
            "this proxy is older than its controller and does not know the listener's {}: upgrade it",
            self.refused_without.join(", ")
        );
        self.refusal = Some(Refusal { message: message.into() });
        self
    }

    /// For this program: without a refusal that is not meant for it.
    #[must_use]
    pub fn understood(mut self) -> Self {
        let known = |name: &Text| DEMANDS.contains(&&**name);
        if !self.refused_without.is_empty() && self.refused_without.iter().all(known) {
            self.refused_without.clear();
            self.refusal = None;
        }
        self
    }
}

/// A listener's place: its owner and its name there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListenerId {
    /// The ListenerSet that it is from; `None`: the Gateway itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_set: Option<ObjectName>,
    /// `name`.
    pub name: Text,
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.listener_set {
            Some(set) => write!(f, "{set}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ListenerProtocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP over TLS that ends here.
    #[serde(rename = "HTTPS")]
    Https,
    /// TLS: passed through by server name, or ended here and carried on as bytes.
    #[serde(rename = "TLS")]
    Tls,
    /// Bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// Datagrams.
    #[serde(rename = "UDP")]
    Udp,
}

/// What becomes of TLS at a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode")]
pub enum ListenerTls {
    /// `mode: Terminate`.
    Terminate {
        /// `certificateRefs` that can be used, in order: names of [`Certificate`]s. The first whose names cover the
        /// client's server name is shown, else the first.
        certificates: Vec<ObjectName>,
        /// `spec.tls.frontend`, the part that holds for the listener's port. `None`: clients are asked for nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_validation: Option<ClientValidation>,
    },
    /// `mode: Passthrough`.
    Passthrough,
}

/// `spec.tls.frontend.*.validation`: what clients' certificates are held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientValidation {
    /// `caCertificateRefs` that can be used, each as PEM. Empty: nobody can be verified.
    pub roots_pem: Vec<Text>,
    /// `mode: AllowInsecureFallback`: clients without a certificate, or with one that is not trusted, are let in too.
    pub allow_insecure_fallback: bool,
}

/// A certificate with its key, from a Secret of type `kubernetes.io/tls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The Secret.
    pub name: ObjectName,
    /// `tls.crt`: PEM, the leaf first.
    pub chain_pem: Text,
    /// `tls.key`: PEM.
    pub key_pem: Secret,
}

/// A text that is for no eyes: it travels, and is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub Text);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How the backends of one Service port are reached by TLS: the BackendTLSPolicy in force there. It holds for what
/// comes through Gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTls {
    /// The Service.
    pub service: ObjectName,
    /// The Service port number.
    pub port: u16,
    /// The BackendTLSPolicy or the XBackend, for explanations.
    pub policy: ObjectName,
    /// `validation.hostname`: the server name that is sent, and the name that the certificate must bear unless
    /// `subject_alt_names` says otherwise.
    pub hostname: Text,
    /// `validation.subjectAltNames`; if there are any, the certificate must bear one of these, and `hostname` is only sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
    /// What the certificate is verified against.
    pub roots: BackendRoots,
    /// What is shown to a backend that asks for a certificate.
    #[serde(default, skip_serializing_if = "ShownCertificate::is_gateways")]
    pub shown: ShownCertificate,
    /// It holds for callers in the mesh too, not only at Gateways.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_mesh: bool,
    /// Set when the policy cannot be carried out: nothing is sent to the Service port, least of all in plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// `validation.subjectAltNames[]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum SubjectAltName {
    /// `type: Hostname`.
    Hostname(Text),
    /// `type: URI`.
    #[serde(rename = "URI")]
    Uri(Text),
}

/// What a backend that asks for a certificate is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "name", rename_all = "camelCase")]
pub enum ShownCertificate {
    /// The Gateway's, if it names one.
    #[default]
    Gateways,
    /// Nothing.
    None,
    /// This one.
    Own(ObjectName),
}

impl ShownCertificate {
    /// Whether it is the default.
    pub const fn is_gateways(&self) -> bool {
        matches!(self, Self::Gateways)
    }
}

/// What a backend's certificate is verified against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value", rename_all = "camelCase")]
pub enum BackendRoots {
    /// `caCertificateRefs` or `trustBundle`, each as PEM.
    Pem(Vec<Text>),
    /// `wellKnownCACertificates: System`: the roots of the proxy's image.
    System,
}

/// A listener that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The listener.
    pub listener: ListenerId,
    /// Those of the route's `hostnames`, lower case and as written in the route, that have names in common with the
    /// listener's hostname. Empty: the route names none, and takes every name of the listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<Text>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{AuthProtocol, BackendTarget};

    /// A listener as programs before filters of listeners knew it.
    #[derive(Deserialize)]
    struct Older {
        refusal: Option<Refusal>,
    }

    fn listener() -> Listener {
        Listener {
            id: ListenerId { listener_set: None, name: "http".into() },
            port: 80,
            protocol: ListenerProtocol::Http,
            hostname: None,
            tls: None,
            filters: Vec::new(),
            service_routes: false,
            refusal: None,
            refused_without: Vec::new(),
        }
    }

    #[test]
    fn a_proxy_refuses_what_it_does_not_know_and_serves_what_it_knows() {
        let filters = vec![ExternalAuth {
            server: BackendTarget::Invalid { message: "no such Service".into() },
            protocol: AuthProtocol::Grpc { allowed_headers: Vec::new() },
            max_body: 0,
        }];
        for (stated, demands) in [
            (listener(), ""),
            (Listener { filters: filters.clone(), ..listener() }, "filters"),
            (Listener { service_routes: true, ..listener() }, "service_routes"),
            (Listener { filters, service_routes: true, ..listener() }, "filters, service_routes"),
        ] {
            let sent = stated.clone().demanding();
            assert_eq!(sent.refused_without.join(", "), demands);
            let json = serde_json::to_value(&sent).unwrap();
            let older: Older = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(older.refusal.is_some(), !demands.is_empty(), "{json}");
            assert_eq!(serde_json::from_value::<Listener>(json).unwrap().understood(), stated);
            let mut newer = sent;
            newer.refused_without.push("hereafter".into());
            newer.refusal = Some(Refusal { message: "upgrade it".into() });
            assert!(newer.understood().refusal.is_some(), "{demands}");
        }
    }

    #[test]
    fn a_refusal_for_everybody_stays() {
        let refusal = Some(Refusal { message: "no certificate".into() });
        let stated = Listener { service_routes: true, refusal, ..listener() };
        assert_eq!(stated.clone().demanding().understood(), stated);
    }

    #[test]
    fn a_key_is_not_printed() {
        let certificate = Certificate {
            name: ObjectName::new("shop", "tls"),
            chain_pem: "chain".into(),
            key_pem: Secret("very private".into()),
        };
        assert!(!format!("{certificate:?}").contains("very private"));
        assert!(serde_json::to_string(&certificate).unwrap().contains("very private"));
    }
}
