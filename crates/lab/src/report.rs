//! What the lab says about itself: written to `lab.json` by the supervisor whenever it changes,
//! read by `weft lab status`, `up`, `exec` and the tests.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// How far the lab is.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Namespaces, network and daemons are being made.
    #[default]
    Starting,
    /// The lab runs.
    Running,
    /// The lab could not start or had to stop; the reason.
    Failed(String),
}

/// The whole lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabReport {
    /// The lab's name.
    pub name: String,
    /// The folder it reads.
    pub folder: String,
    /// How far it is.
    pub phase: Phase,
    /// Every pod, by namespace and name.
    pub pods: Vec<PodReport>,
    /// Agents, proxies and the controller.
    pub daemons: Vec<DaemonReport>,
    /// Gateways that will serve and do not yet, in words.
    #[serde(default)]
    pub waiting: Vec<String>,
    /// What the controller says about Gateways and routes; only `weft lab status` fills this in.
    #[serde(default)]
    pub objects: Vec<ObjectReport>,
    /// Objects that were refused; their last good version stays in force.
    pub rejected: Vec<RejectedObject>,
    /// How often the folder has been read with a change in it.
    pub folder_version: u64,
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Owning Deployment, if any.
    pub deployment: Option<String>,
    /// Node.
    pub node: String,
    /// Addresses, IPv4 first.
    pub addresses: Vec<String>,
    /// As kubectl would show it: `Running`, `ContainerCreating`, `Terminating`, `Completed`, `Error` …
    pub status: String,
    /// Every container is ready.
    pub ready: bool,
    /// Why it is not further, if known.
    pub message: String,
    /// What the last CNI CHECK found.
    pub network: NetworkCheck,
    /// Containers in order.
    pub containers: Vec<ContainerReport>,
}

/// What CNI CHECK found.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetworkCheck {
    /// Not asked yet.
    #[default]
    Unchecked,
    /// The pod's network is as it was made.
    Passed,
    /// It is not; which plugin said so, and why.
    Failed(String),
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerReport {
    /// Name.
    pub name: String,
    /// Process id inside the lab, while running.
    pub pid: Option<i32>,
    /// Ready.
    pub ready: bool,
    /// Starts after the first.
    pub restarts: u32,
    /// Exit code of the last run, when ended.
    pub exit_code: Option<i32>,
    /// Why it does not run or is not ready.
    pub message: String,
}

/// One of Weft's own processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonReport {
    /// `node1/proxy`, `node1/agent`, `controller`.
    pub name: String,
    /// Process id inside the lab, while running.
    pub pid: Option<i32>,
    /// Starts after the first.
    pub restarts: u32,
    /// How it last ended, if it did.
    pub message: String,
}

/// The status of an object, of one of its listeners, or for one of its parents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReport {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The listener or the parent, in words; empty for the object itself.
    pub of: String,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// Conditions in short.
    pub status: String,
    /// What the first condition that is bad news says.
    pub message: String,
}

/// An object or file that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedObject {
    /// `FILE:LINE`.
    pub place: String,
    /// `Kind namespace/name`, or empty when the file could not be read so far.
    pub object: String,
    /// What is wrong.
    pub message: String,
}

impl LabReport {
    /// Reads the report, if it is there and whole.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Running, with every pod ready (pods that ended well count) and every daemon up.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Running && self.missing().is_empty()
    }

    /// What is not ready, one line each.
    pub fn missing(&self) -> Vec<String> {
        let pods = self.pods.iter().filter(|p| !p.ready && p.status != "Completed").map(|p| {
            let message = if p.message.is_empty() { String::new() } else { format!(": {}", p.message) };
            format!("{}/{} is {}{message}", p.namespace, p.name, p.status)
        });
        let daemons = self
            .daemons
            .iter()
            .filter(|d| d.pid.is_none())
            .map(|d| format!("{} does not run: {}", d.name, d.message));
        pods.chain(daemons).chain(self.waiting.iter().cloned()).collect()
    }
}
