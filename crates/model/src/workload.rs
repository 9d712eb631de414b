//! Pods, as a proxy needs to know them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::name::{ObjectName, Text};

/// One pod of the cluster that is neither terminal nor in the host's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// The pod's UID: the key that a pod keeps for life. Names and addresses are reused.
    pub uid: Text,
    /// Namespace and name of the pod.
    pub pod: ObjectName,
    /// The name telemetry uses: the controlling owner's (Deployment, Job, …), else the pod's, so that it is bounded.
    pub workload: Text,
    /// The node the pod is bound to.
    pub node: Text,
    /// Every address of the pod.
    pub addresses: Vec<IpAddr>,
    /// The identity of the pod's service account.
    pub identity: Identity,
    /// How to reach it.
    pub protocol: WorkloadProtocol,
    /// What its node's proxy does with plaintext callers.
    pub mtls: MtlsMode,
}

/// How a proxy reaches a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkloadProtocol {
    /// Not enrolled: plaintext.
    Plaintext,
    /// Enrolled: mutual TLS on port 15008, ALPN `h2`, `weft-h1` or `weft-h2`.
    Tunnel,
}

/// Whether an enrolled pod's proxy admits callers outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MtlsMode {
    /// Plaintext callers are refused.
    Strict,
    /// Plaintext callers are let in, without an identity.
    Permissive,
}
