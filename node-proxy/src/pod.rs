//! The pods this proxy serves, and the only places where it opens sockets in their namespaces.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Response, StatusCode, header};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use weft_api::node::{EnrolledPod, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use weft_model::{Identity, Text};
use weft_runtime::netns::NetNamespace;

use crate::body::Body;
use crate::http_server::HttpVersion;

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
    /// Cancelled when the pod has left the mesh; `closing` is too. Callers were told before, so that idle tunnels can go.
    pub(crate) released: CancellationToken,
    /// Cancelled when that shall be now, for the pod ends or the process is about to: idle HTTP/1 connections, which
    /// wait for a last request otherwise, are closed.
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
    /// A pod in `netns`. The pod gets children of the process's own tokens.
    pub fn new(enrolled: EnrolledPod, identity: Identity, netns: NetNamespace, process: &Ends) -> Self {
        let closing = process.draining.child_token();
        Self {
            enrolled,
            identity,
            accepting: closing.child_token(),
            closing,
            released: CancellationToken::new(),
            hurry: process.hurry.child_token(),
            ended: process.ended.child_token(),
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

    /// Completes when an HTTP connection is to be shut down, whose peer is to go elsewhere since `closing`. Over HTTP/1
    /// nothing but a response can announce that ([`say_goodbye`]), and a request that meets the closing of an idle
    /// connection is lost: unless there is no time, it is kept for a last request, as long as any idle connection is.
    pub(crate) async fn parted(&self, version: HttpVersion, closing: &CancellationToken) {
        closing.cancelled().await;
        if version == HttpVersion::Http1 {
            self.hurry.cancelled().await;
        }
    }

    /// The pod has left the mesh: its connections end as they can.
    pub(crate) fn release(&self) {
        self.released.cancel();
        self.closing.cancel();
    }

    /// The pod's connections end now, in order.
    pub(crate) fn hurry(&self) {
        self.closing.cancel();
        self.hurry.cancel();
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

/// Makes a response the last one of its HTTP/1 connection, if `closing` is cancelled.
pub(crate) fn say_goodbye(closing: &CancellationToken, version: HttpVersion, response: &mut Response<Body>) {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if version == HttpVersion::Http1 && !switches && closing.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// How the process ends; each pod has children of these.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Cancelled when the process begins to drain: nothing is accepted any more, every pod's `closing` follows.
    pub draining: CancellationToken,
    /// Cancelled when another proxy serves the node's pods, so that there is time to drain.
    pub succeeded: CancellationToken,
    /// Cancelled when idle connections are not to be waited for any longer: every pod's `hurry` follows.
    pub hurry: CancellationToken,
    /// Cancelled when the drain has run out: every pod's `ended` follows.
    pub ended: CancellationToken,
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
    /// No longer served, but perhaps not without sockets. The last of those lets go of the namespace.
    retired: Vec<Weak<LocalPod>>,
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

    /// What is left of pods that are no longer served, in no order.
    pub fn retired(&self) -> impl Iterator<Item = Arc<LocalPod>> {
        self.retired.iter().filter_map(Weak::upgrade)
    }

    /// Pods that are no longer served while connections of theirs go on.
    pub fn parting(&self) -> impl Iterator<Item = Arc<LocalPod>> {
        self.retired().filter(|pod| pod.connections() > 0 && !self.by_uid.contains_key(&pod.enrolled.uid))
    }

    /// These pods and `pod`, which replaces one of the same UID.
    #[must_use]
    pub fn with(&self, pod: Arc<LocalPod>) -> Self {
        let mut next = self.clone();
        let before = next.by_uid.insert(pod.enrolled.uid.clone(), pod);
        next.retire(before)
    }

    /// These pods without the one of this UID.
    #[must_use]
    pub fn without(&self, uid: &str) -> Self {
        let mut next = self.clone();
        let gone = next.by_uid.remove(uid);
        next.retire(gone)
    }

    fn retire(mut self, pod: Option<Arc<LocalPod>>) -> Self {
        self.retired.retain(|pod| pod.strong_count() > 0);
        self.retired.extend(pod.iter().map(Arc::downgrade));
        self
    }
}

#[cfg(test)]
mod tests;
