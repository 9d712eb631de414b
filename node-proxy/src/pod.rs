//! The pods this proxy serves, and the only places where it opens sockets in their namespaces.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::TcpStream;
use weft_api::node::EnrolledPod;
use weft_model::{Identity, Text};

/// A pod of this node that the agent handed over.
#[derive(Debug)]
pub struct LocalPod {
    /// What the agent said of it.
    pub enrolled: EnrolledPod,
    /// The identity of its service account.
    pub identity: Identity,
    /// Its network namespace.
    pub(crate) netns: OwnedFd,
}

impl LocalPod {
    /// Connects from the pod's namespace to anywhere, uncaptured (`bypass_mark`). The kernel's connect, no deadline:
    /// callers set one.
    pub async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let _ = to;
        todo!()
    }

    /// Connects to the pod's own application on `port` of `own` (one of the pod's addresses), with the caller's
    /// address as source (`dataplane.md` rules 16 and 17): IP_TRANSPARENT, `inbound_mark`; the source port is kept
    /// unless the caller is the pod itself or the port is taken.
    pub async fn connect_application(
        &self,
        to: SocketAddr,
        source: SocketAddr,
    ) -> std::io::Result<TcpStream> {
        let _ = (to, source);
        todo!()
    }
}

/// All pods this proxy serves; replaced as a whole when one comes or goes.
#[derive(Debug, Default)]
pub struct LocalPods {
    by_uid: ahash::HashMap<Text, Arc<LocalPod>>,
}

impl LocalPods {
    /// The pod with this UID, if it is served here.
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<LocalPod>> {
        self.by_uid.get(uid)
    }
}
