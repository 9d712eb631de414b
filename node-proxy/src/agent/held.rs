//! A pod with its four descriptors: as received, as held, and its end.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_api::node::EnrolledPod;
use weft_model::{Identity, TrustDomain};
use weft_runtime::fd;
use weft_runtime::netns::{NamespaceId, NetNamespace};

use crate::call::Listener;
use crate::listen::{PodListener, prepare};
use crate::outbound::udp::captured::PodSocket;
use crate::pod::LocalPod;
use crate::worker::Shared;

/// In the order of `PodDescriptor::ALL`, after the namespace.
const LISTENERS: [Listener; 3] = [Listener::Outbound, Listener::InboundPlaintext, Listener::Tunnel];
/// How long connections of an ending pod may take to end well, and how long the rest then has to go: together
/// within the 2 s that the agent waits (rule 26).
const GRACE: Duration = Duration::from_millis(1200);
const FORCED: Duration = Duration::from_millis(600);
/// How often the holders of a pod are counted while it ends.
const COUNT_EVERY: Duration = Duration::from_millis(5);

/// What came with an `Add`.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) enrolled: EnrolledPod,
    netns: NetNamespace,
    listeners: Vec<TcpListener>,
}

/// A pod that is served.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) pod: Arc<LocalPod>,
    netns: NetNamespace,
    /// Duplicates, for an agent that has restarted.
    listeners: Vec<TcpListener>,
    /// As many more holders as listeners are still accepted on.
    open: Arc<()>,
    /// Its datagrams are served.
    datagrams: bool,
}

impl Received {
    pub(super) fn new(enrolled: EnrolledPod, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let count = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let namespace = descriptors.next();
        let listeners: Vec<_> = descriptors.map(TcpListener::from).collect();
        let (Some(namespace), 3) = (namespace, listeners.len()) else {
            return Err(invalid(format!("{count} descriptors came with the pod instead of 4")));
        };
        for (listener, kind) in listeners.iter().zip(LISTENERS) {
            if !fd::is_listening(listener)? {
                return Err(invalid(format!("the {kind:?} socket does not listen: open it anew")));
            }
            prepare(listener)?;
        }
        Ok(Self { enrolled, netns: NetNamespace::from_descriptor(namespace)?, listeners })
    }

    /// Makes it a pod that is served, and its listeners to accept on.
    pub(super) fn into_pod(self, shared: &Shared) -> io::Result<(Held, Vec<PodListener>)> {
        let Self { enrolled, netns, listeners } = self;
        let identity = Identity {
            trust_domain: TrustDomain(shared.config.trust_domain.as_str().into()),
            namespace: enrolled.pod.namespace.clone(),
            service_account: enrolled.service_account.clone(),
        };
        let pod = LocalPod::new(enrolled, identity, netns.clone(), &shared.ends);
        let held = Held { pod: Arc::new(pod), netns, listeners, open: Arc::default(), datagrams: false };
        let mut accepting = Vec::new();
        for (socket, kind) in held.listeners.iter().zip(LISTENERS) {
            let socket = socket.try_clone()?;
            let (pod, scope) = (held.pod.clone(), held.pod.scope.clone());
            accepting.push(PodListener { pod, scope, kind, socket, open: held.open.clone() });
        }
        Ok((held, accepting))
    }
}

impl Held {
    /// Whether it is the same pod with the very same sockets: nothing needs to be done.
    pub(super) fn is_same(&self, received: &Received) -> bool {
        let own = self.identities();
        let other = identities(&received.netns, &received.listeners);
        self.pod.enrolled == received.enrolled && own.is_some() && own == other
    }

    fn identities(&self) -> Option<(NamespaceId, Vec<u64>)> {
        identities(&self.netns, &self.listeners)
    }

    /// The four, in the order of `PodDescriptor::ALL`.
    pub(super) fn descriptors(&self) -> io::Result<Vec<BorrowedFd<'_>>> {
        let listeners = self.listeners.iter().map(AsFd::as_fd);
        Ok(std::iter::once(self.netns.as_fd()).chain(listeners).collect())
    }

    /// Its sockets for captured datagrams, the first time that they can be opened.
    pub(super) fn datagrams(&mut self) -> io::Result<Vec<PodSocket>> {
        if self.datagrams {
            return Ok(Vec::new());
        }
        let sockets = PodSocket::open(&self.pod, &self.open)?;
        self.datagrams = true;
        Ok(sockets)
    }

    /// Closes its own descriptors and waits until the workers have closed theirs.
    pub(super) async fn listeners_closed(self) {
        let Self { open, pod, .. } = self;
        drop(pod);
        let until = Instant::now() + FORCED;
        while Arc::strong_count(&open) > 1 && Instant::now() < until {
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }
}

/// Ends pods whose network goes away: their connections are asked to end, then dropped, then the namespace is let go.
/// The error says how many holders are left.
pub(super) async fn end(pods: Vec<Arc<LocalPod>>) -> Result<(), String> {
    for pod in &pods {
        pod.scope.hurry();
    }
    let held_elsewhere = || pods.iter().map(|pod| Arc::strong_count(pod) - 1).sum::<usize>();
    let mut left = wait_until_zero(held_elsewhere, GRACE).await;
    if left > 0 {
        pods.iter().for_each(|pod| pod.scope.ended.cancel());
        left = wait_until_zero(held_elsewhere, FORCED).await;
    }
    pods.iter().for_each(|pod| pod.drop_netns());
    if left == 0 {
        Ok(())
    } else {
        Err(format!("{left} holders of the pod's sockets did not let go in time"))
    }
}

async fn wait_until_zero(count: impl Fn() -> usize, patience: Duration) -> usize {
    let until = Instant::now() + patience;
    loop {
        let left = count();
        if left == 0 || Instant::now() >= until {
            return left;
        }
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

fn identities(netns: &NetNamespace, listeners: &[TcpListener]) -> Option<(NamespaceId, Vec<u64>)> {
    let inode = |socket: &TcpListener| Some(nix::sys::stat::fstat(socket).ok()?.st_ino);
    Some((netns.id(), listeners.iter().map(inode).collect::<Option<_>>()?))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
