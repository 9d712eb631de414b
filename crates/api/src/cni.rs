//! What the CNI plugin asks the agent: one JSON request and one JSON answer per connection,
//! newline-terminated, over a Unix stream socket that only root can reach.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_model::{ObjectName, Text};

/// One CNI command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "camelCase")]
pub enum Request {
    /// Enrol the pod if it is to be enrolled; answered when the proxy has it, or with an error.
    Add(Sandbox),
    /// The pod ends.
    Del(Sandbox),
    /// Are the pod's rules and listeners as they should be?
    Check(Sandbox),
    /// Can new pods be enrolled?
    Status,
    /// Forget every sandbox that is not in this list.
    Gc {
        /// Container ids that are still valid.
        valid: Vec<String>,
    },
}

/// A pod sandbox as the container runtime describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; a runtime may leave it out on DEL.
    pub netns: Option<String>,
    /// `K8S_POD_NAMESPACE` and `K8S_POD_NAME` of `CNI_ARGS`.
    pub pod: Option<ObjectName>,
    /// `K8S_POD_UID` of `CNI_ARGS`.
    pub uid: Option<Text>,
    /// The addresses that the plugins before this one gave the pod (`prevResult`).
    pub addresses: Vec<IpAddr>,
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "camelCase")]
pub enum Response {
    /// Done; for ADD: the pod is served by the proxy, or is not to be enrolled.
    Ok,
    /// Refused.
    Error {
        /// CNI error code (spec 1.1, "Error": 1–99 well known, 100+ plugin's own; 50 and 51 for STATUS).
        code: u32,
        /// What is wrong and what to do.
        message: String,
    },
}
