//! What others have put where Weft works: sidecars of another mesh and socket-level load balancers (data-plane rules 6
//! and 7). Looked for before a pod is enrolled, and from time to time while it is.

use std::time::{Duration, Instant};

use weft_runtime::netns::NetNamespace;

use super::members::{Member, MemberError};
use super::pods::Pod;
use crate::kernel::{KernelError, cgroup};

/// An enrolled pod is looked at with every so many comparisons of its rules: all processes of the node are gone through.
pub(super) const SELDOM: u32 = 6;

/// What was found in an enrolled pod.
#[derive(Debug)]
pub(super) struct Foreign {
    looked: Instant,
    found: Option<MemberError>,
}

impl Foreign {
    /// A pod that is being enrolled has just been looked at.
    pub(super) const fn new(now: Instant) -> Self {
        Self { looked: now, found: None }
    }

    /// What stood there last.
    pub(super) const fn found(&self) -> Option<&MemberError> {
        self.found.as_ref()
    }
}

/// Fails for a pod that has another mesh's sidecar or, where that is to be asked, a socket-level load balancer.
pub(super) fn refuse(pod: &Pod, namespace: &NetNamespace, ask: bool) -> Result<(), KernelError> {
    if let Some(name) = &pod.sidecar {
        return Err(KernelError::Sidecar { by: format!("the container {name}") });
    }
    if ask { cgroup::refuse_socket_load_balancer(namespace, &pod.uid) } else { Ok(()) }
}

/// Looks at an enrolled pod, if the last time was so long ago. Blocks. The pod stays captured, whatever is found: nothing is opened by it.
pub(super) fn look(member: &mut Member, now: Instant, every: Duration, ask: bool) {
    if member.is_released() || now.saturating_duration_since(member.foreign.looked) < every {
        return;
    }
    let programs = || match ask {
        true => cgroup::refuse_socket_load_balancer(&member.capture.namespace, &member.pod.uid),
        false => Ok(()),
    };
    let found = member.capture.refuse_sidecar().and_then(|()| programs()).err();
    member.foreign = Foreign { looked: now, found: found.map(MemberError::from) };
}
