//! What the kubelet does to tell how a pod is, as the pod declares it (`livenessProbe`, `readinessProbe`,
//! `startupProbe`, and `httpGet` of `lifecycle` hooks). `exec` needs no network and is not among them.

use serde::{Deserialize, Serialize};
use weft_model::Text;

/// One probe, to a port of the pod's own address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Probe {
    /// The port, names resolved.
    pub port: u16,
    /// What is done there.
    pub action: ProbeAction,
}

/// What a probe does on its port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ProbeAction {
    /// Connects and closes.
    Tcp,
    /// `GET` in plaintext.
    Http {
        /// The request target as the kubelet writes it: path and query.
        target: Text,
        /// `httpHeaders`, in the order of the declaration.
        headers: Vec<(Text, Text)>,
    },
    /// `GET` over TLS: what is asked cannot be seen from outside.
    Https,
    /// `grpc.health.v1.Health/Check` in plaintext.
    Grpc {
        /// The service that is asked for; empty: the whole server.
        service: Text,
    },
}
