//! Who calls from one of the node's own addresses: the owner of the socket in the host's network namespace decides, never
//! the address (data-plane rule 14).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weft_api::node::CallerKind;

use super::members::blocking;
use crate::kernel::owner::{Owner, owners};
use crate::kernel::sock_diag::SockDiag;

/// Judges callers. Nothing of a judgement is kept but whom to ask first the next time.
#[derive(Debug)]
pub(super) struct Callers {
    /// Parts of cgroup paths that mark pods.
    pod_cgroups: Vec<String>,
    /// The process outside pods that called last; 0: none. Mostly the kubelet.
    last: AtomicU32,
}

impl Callers {
    pub(super) const fn new(pod_cgroups: Vec<String>) -> Self {
        Self { pod_cgroups, last: AtomicU32::new(0) }
    }

    /// Who has the socket that is connected from `from` to `to`.
    pub(super) async fn judge(self: &Arc<Self>, from: SocketAddr, to: SocketAddr) -> CallerKind {
        let callers = Arc::clone(self);
        let kind = blocking(move || callers.look(from, to)).await;
        let kind = kind.unwrap_or_else(|error| CallerKind::Unknown { message: error.to_string() });
        tracing::debug!(%from, %to, ?kind, "caller from the node's own address");
        kind
    }

    fn look(&self, from: SocketAddr, to: SocketAddr) -> CallerKind {
        match self.try_look(from, to) {
            Ok(kind) => kind,
            Err(error) => {
                let message = format!("the sockets of the node cannot be listed: {error}");
                tracing::warn!(message);
                CallerKind::Unknown { message }
            }
        }
    }

    /// On a thread in the host's network namespace, which is the agent's own.
    fn try_look(&self, from: SocketAddr, to: SocketAddr) -> io::Result<CallerKind> {
        let socket = SockDiag::open()?.find(from, to)?;
        // One that is only being opened is not the one that the pod has accepted.
        let Some(socket) = socket.filter(|socket| socket.inode != 0 && socket.state.is_established()) else {
            return Ok(CallerKind::Nobody);
        };
        let likely = Some(self.last.load(Ordering::Relaxed)).filter(|pid| *pid != 0);
        let owners = owners(socket.inode, likely);
        let Some(first) = owners.first() else {
            let message = "no process that the agent can see has the caller's socket open: the agent must run in the \
                           node's PID namespace";
            return Ok(CallerKind::Unknown { message: message.to_owned() });
        };
        if owners.iter().any(|owner: &Owner| owner.is_in_pod(&self.pod_cgroups)) {
            return Ok(CallerKind::Pod);
        }
        self.last.store(first.pid, Ordering::Relaxed);
        Ok(CallerKind::Host)
    }
}
