//! One word for each way in which a pod is not in the mesh: the reason of its condition `weft-mesh.dev/Meshed`.

use super::link::LinkError;
use super::members::MemberError;
use super::status::PodState;
use crate::kernel::KernelError;

impl MemberError {
    /// The word. Part of the interface: people filter by it.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::NoProxy | Self::Link(LinkError::Gone | LinkError::Send(_)) => "NoProxy",
            Self::Link(LinkError::Refused(_)) => "RefusedByProxy",
            Self::Link(LinkError::Late(_)) => "ProxyTooSlow",
            Self::NoNamespace => "NoNamespace",
            Self::Interrupted => "Interrupted",
            Self::Waits(_) => "Waiting",
            Self::Evicted => "Evicted",
            Self::Kernel(error) => error.reason(),
        }
    }
}

impl KernelError {
    const fn reason(&self) -> &'static str {
        match self {
            Self::MissingProgram { .. } => "ProgramMissing",
            Self::PortTaken { .. } => "PortTaken",
            Self::Sidecar { .. } => "ForeignSidecar",
            Self::SocketLoadBalancer { .. } => "SocketLoadBalancer",
            Self::Differs { .. } => "RulesDiffer",
            Self::Program { .. } | Self::System { .. } => "CaptureFailed",
        }
    }
}

impl PodState {
    /// The word for a state without an error.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Enrolled => "Enrolled",
            Self::NotEnrolled => "NotEnrolled",
            Self::Waiting => "Waiting",
            Self::Leaving => "Leaving",
            Self::Released => "Released",
        }
    }
}
