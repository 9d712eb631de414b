//! A pod of the mesh as the agent holds it, and why one is not.

use std::collections::BTreeMap;

use tokio::task::JoinSet;
use weft_api::node::EnrolledPod;
use weft_model::Text;

use crate::agent::foreign::Foreign;
use crate::agent::link::LinkError;
use crate::agent::old::OldConnections;
use crate::agent::release::Stage;
use crate::kernel::KernelError;
use crate::kernel::capture::{Capture, random_marks};
use crate::kernel::listen::Listeners;

/// Why a pod is not enrolled.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum MemberError {
    /// No proxy within `hold`.
    #[error("no weft-proxy is connected on this node; new meshed pods wait until one is")]
    NoProxy,
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The proxy did not take the pod.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A running pod that cannot be found.
    #[error("no process on this node runs in a network namespace that has the pod's addresses")]
    NoNamespace,
    /// An internal task ended early.
    #[error("the enrolment was interrupted; try again")]
    Interrupted,
    /// Capturing the running pod now would break connections.
    #[error("not yet: {0}")]
    Waits(String),
    /// It started outside the mesh, and its controller makes another one.
    #[error("it started outside the mesh and is being evicted")]
    Evicted,
}

/// An enrolled, or released but not yet finished, pod.
#[derive(Debug)]
pub(in crate::agent) struct Member {
    pub(in crate::agent) pod: EnrolledPod,
    pub(in crate::agent) capture: Capture,
    /// `CNI_CONTAINERID`, when the pod came by ADD.
    pub(in crate::agent) container: Option<String>,
    /// The proxy that confirmed the pod, by connection number.
    pub(in crate::agent) confirmed_by: Option<u64>,
    pub(in crate::agent) stage: Stage,
    /// Those that are older than its capture.
    pub(in crate::agent) old: OldConnections,
    /// Probes that are carried to its application without a proxy; they end with the member.
    pub(in crate::agent) carried: JoinSet<()>,
    /// What others have put there since it was captured.
    pub(in crate::agent) foreign: Foreign,
}

impl Member {
    /// New connections of the pod are no longer captured.
    pub(in crate::agent) const fn is_released(&self) -> bool {
        matches!(self.stage, Stage::Uncaptured(_) | Stage::Closed)
    }
}

/// What is left of an earlier capture of a pod.
pub(super) struct Held {
    /// Those of its sockets and connections.
    pub(super) marks: (u32, u32),
    pub(super) listeners: Option<Listeners>,
    /// [`EnrolledPod::settings`].
    pub(super) settings: BTreeMap<Text, u64>,
}

impl Held {
    pub(super) fn nothing() -> Self {
        Self { marks: random_marks(), listeners: None, settings: BTreeMap::new() }
    }
}

impl From<Capture> for Held {
    fn from(capture: Capture) -> Self {
        let marks = (capture.ruleset.bypass_mark, capture.ruleset.inbound_mark);
        Self { marks, settings: capture.settings(), listeners: capture.listeners }
    }
}
