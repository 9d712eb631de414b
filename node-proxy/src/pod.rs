//! The pods this proxy serves, and the only places where it opens sockets in their namespaces.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Response, StatusCode, header};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use weft_api::node::{EnrolledPod, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use weft_model::{Identity, Text};
use weft_runtime::netns::NetNamespace;

use crate::body::Body;
use crate::http_server::HttpVersion;

/// How long the next request is waited for on an HTTP/1 connection of a pod that has left the mesh.
/// Short: soon after, this proxy may know no destinations any more.
const LAST_REQUEST: Duration = Duration::from_millis(250);

/// Whether `port` is one of those that Weft itself uses in a pod: never dialled as a destination (rules 6 and 17).
pub fn is_own_port(port: u16) -> bool {
    matches!(port, OUTBOUND_PORT | INBOUND_PLAINTEXT_PORT | TUNNEL_PORT)
}

/// A pod of this node that the agent handed over.
#[derive(Debug)]
pub struct LocalPod {
    /// What the agent said of it.
    pub enrolled: EnrolledPod,
    /// The identity of its service account.
    pub identity: Identity,
    /// Cancelled when the pod's connections shall end well: HTTP/2 gets GOAWAY, HTTP/1 `Connection: close`, pooled
    /// and idle connections are closed, nothing new begins. Also cancelled when the process drains.
    pub closing: CancellationToken,
    /// Cancelled when that shall be soon, for the pod ends or the process drains: idle connections are closed at once.
    /// `closing` follows.
    pub(crate) hurry: CancellationToken,
    /// Cancelled when whatever still has a socket in the pod's namespace must drop it at once. [`Self::until_ended`]
    /// does that for a future; also cancelled when the process's drain has run out.
    pub ended: CancellationToken,
    /// Cancelled when its listeners shall be closed; also when `closing` is.
    pub(crate) accepting: CancellationToken,
    /// Its network namespace; `None` once the pod has ended.
    netns: ArcSwapOption<NetNamespace>,
    connections: AtomicUsize,
}

impl LocalPod {
    /// A pod in `netns`. `closing` and `ended` are the process's own tokens; the pod gets children of them.
    pub fn new(
        enrolled: EnrolledPod,
        identity: Identity,
        netns: NetNamespace,
        closing: &CancellationToken,
        ended: &CancellationToken,
    ) -> Self {
        let hurry = closing.child_token();
        let closing = hurry.child_token();
        Self {
            enrolled,
            identity,
            accepting: closing.child_token(),
            closing,
            hurry,
            ended: ended.child_token(),
            netns: ArcSwapOption::from_pointee(netns),
            connections: AtomicUsize::new(0),
        }
    }

    /// Connects from the pod's namespace to anywhere, uncaptured (`bypass_mark`). The kernel's connect, no deadline:
    /// callers set one.
    ///
    /// # Errors
    /// Those of socket(2) and connect(2); `NotConnected` if the pod has ended.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to)?;
        socket.set_mark(self.enrolled.bypass_mark)?;
        connect(socket, to).await
    }

    /// Connects to the pod's own application at `to` (one of the pod's addresses), with the caller's
    /// address as source (`dataplane.md` rules 16 and 17): IP_TRANSPARENT, `inbound_mark`; the source port is kept
    /// unless the caller is the pod itself or the port is taken.
    ///
    /// # Errors
    /// `PermissionDenied` for a destination that is not the pod's own or one of Weft's ports, `InvalidInput` if the
    /// addresses are of two families; else those of socket(2), bind(2) and connect(2).
    pub async fn connect_application(&self, to: SocketAddr, source: SocketAddr) -> io::Result<TcpStream> {
        self.check_application(to, source)?;
        let hairpin = self.enrolled.addresses.contains(&source.ip());
        if !hairpin && source.port() != 0 {
            match self.connect_from(to, source).await {
                Err(error) if is_taken(&error) => {}
                result => return result,
            }
        }
        self.connect_from(to, SocketAddr::new(source.ip(), 0)).await
    }

    fn check_application(&self, to: SocketAddr, source: SocketAddr) -> io::Result<()> {
        let refused = |message: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        if to.ip().is_loopback() || !self.enrolled.addresses.contains(&to.ip()) {
            return refused(format!("{} is no address of pod {}", to.ip(), self.enrolled.pod));
        }
        if is_own_port(to.port()) {
            return refused(format!("port {} belongs to Weft itself", to.port()));
        }
        if to.is_ipv4() != source.is_ipv4() {
            let message = format!("caller {} and application {to} are of two address families", source.ip());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(())
    }

    async fn connect_from(&self, to: SocketAddr, source: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to)?;
        socket.set_mark(self.enrolled.inbound_mark)?;
        match to {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
        // Several connections may share a source: the kernel tells them apart by the whole 4-tuple.
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
        connect(socket, to).await
    }

    /// A socket of the namespace. Only its creation needs the thread in there: bind and connect act in the socket's.
    fn socket(&self, to: SocketAddr) -> io::Result<socket2::Socket> {
        let netns = self.netns()?;
        let domain = socket2::Domain::for_address(to);
        let kind = socket2::Type::STREAM.nonblocking().cloexec();
        let socket = netns.run_in(|| socket2::Socket::new(domain, kind, Some(socket2::Protocol::TCP)))??;
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    }

    /// Runs `future` until it is done or the pod has ended; then it is dropped with all its sockets.
    pub async fn until_ended<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.ended.run_until_cancelled(future).await
    }

    /// Completes when an HTTP connection of an application is to be shut down. Over HTTP/1 nothing but a response can
    /// announce that, and a request that meets the closing of an idle connection is lost: while the pod merely leaves
    /// the mesh, there is time for a last response ([`Self::say_goodbye`]).
    pub(crate) async fn parted(&self, version: HttpVersion) {
        self.closing.cancelled().await;
        if version == HttpVersion::Http1 {
            let _ = tokio::time::timeout(LAST_REQUEST, self.hurry.cancelled()).await;
        }
    }

    /// Makes a response the last one of its connection, if the pod's connections are to end.
    pub(crate) fn say_goodbye(&self, version: HttpVersion, response: &mut Response<Body>) {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if version == HttpVersion::Http1 && !switches && self.closing.is_cancelled() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Counts one more connection of the pod, unless there are `limit` already.
    pub fn admit(self: &Arc<Self>, limit: usize) -> Option<Admission> {
        let add = |n: usize| (n < limit).then_some(n + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Admission { pod: self.clone() })
    }

    /// How many connections of the pod are open now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The namespace.
    ///
    /// # Errors
    /// `NotConnected` if the pod has ended.
    pub(crate) fn netns(&self) -> io::Result<Arc<NetNamespace>> {
        self.netns.load_full().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the pod has ended"))
    }

    /// Lets go of the namespace: no socket can be opened in it from now on.
    pub(crate) fn drop_netns(&self) {
        self.netns.store(None);
    }
}

/// A connection's place in its pod's budget; given back on drop.
#[derive(Debug)]
pub struct Admission {
    pod: Arc<LocalPod>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.pod.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connect(socket: socket2::Socket, to: SocketAddr) -> io::Result<TcpStream> {
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// The 4-tuple is in use; another source port will do.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// All pods this proxy serves; replaced as a whole when one comes or goes.
#[derive(Clone, Debug, Default)]
pub struct LocalPods {
    by_uid: ahash::HashMap<Text, Arc<LocalPod>>,
}

impl LocalPods {
    /// The pod with this UID, if it is served here.
    pub fn by_uid(&self, uid: &str) -> Option<&Arc<LocalPod>> {
        self.by_uid.get(uid)
    }

    /// Every pod, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<LocalPod>> {
        self.by_uid.values()
    }

    /// These pods and `pod`, which replaces one of the same UID.
    #[must_use]
    pub fn with(&self, pod: Arc<LocalPod>) -> Self {
        let mut by_uid = self.by_uid.clone();
        by_uid.insert(pod.enrolled.uid.clone(), pod);
        Self { by_uid }
    }

    /// These pods without the one of this UID.
    #[must_use]
    pub fn without(&self, uid: &str) -> Self {
        let mut by_uid = self.by_uid.clone();
        by_uid.remove(uid);
        Self { by_uid }
    }
}

#[cfg(test)]
mod tests;
