//! The pods this proxy serves, and the only places where it opens sockets in their namespaces.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use tokio::net::{TcpSocket, TcpStream};
use weft_api::node::{EnrolledPod, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};
use weft_model::{Identity, Text};
use weft_runtime::fd;
use weft_runtime::netns::NetNamespace;

use crate::outbound::affinity::Kept;
use crate::scope::{Ends, Scope};

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
    /// When its connections end, and how many there are.
    pub scope: Arc<Scope>,
    /// Where its sockets are opened; `None` once the pod has ended.
    place: ArcSwapOption<Place>,
    /// What `sessionAffinity` makes it keep.
    pub(crate) kept_endpoints: Kept,
}

/// Where a pod's sockets are opened.
#[derive(Debug)]
enum Place {
    /// In this namespace, with marks by which they are not captured.
    Namespace(NetNamespace),
    /// Where the process itself is, without any privilege.
    Own,
}

impl LocalPod {
    /// A pod in `netns`. The pod gets children of the process's own tokens.
    pub fn new(enrolled: EnrolledPod, identity: Identity, netns: NetNamespace, process: &Ends) -> Self {
        Self::at(enrolled, identity, Place::Namespace(netns), process)
    }

    /// The pod that this very process runs in.
    pub fn own(enrolled: EnrolledPod, identity: Identity, process: &Ends) -> Self {
        Self::at(enrolled, identity, Place::Own, process)
    }

    fn at(enrolled: EnrolledPod, identity: Identity, place: Place, process: &Ends) -> Self {
        let scope = Arc::new(Scope::new(process));
        let place = ArcSwapOption::from_pointee(place);
        Self { enrolled, identity, scope, place, kept_endpoints: Kept::default() }
    }

    /// Connects from the pod's namespace to anywhere, uncaptured (`bypass_mark`). The kernel's connect, no deadline:
    /// callers set one.
    ///
    /// # Errors
    /// Those of socket(2) and connect(2); `NotConnected` if the pod has ended.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = match &*self.place()? {
            Place::Namespace(netns) => {
                let socket = netns.run_in(|| new_socket(to))??;
                socket.set_mark(self.enrolled.bypass_mark)?;
                socket
            }
            Place::Own if self.enrolled.addresses.contains(&to.ip()) => {
                let message = format!("{to} is the proxy itself: a route of it leads in a circle");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
            }
            Place::Own => new_socket(to)?,
        };
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
        let place = self.place()?;
        let Place::Namespace(netns) = &*place else {
            let message = "this proxy serves no application of its own pod";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        };
        let socket = netns.run_in(|| new_socket(to))??;
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

    /// A socket of the namespace for the pod's captured datagrams of one address family; `any`: its unspecified address.
    /// Its port is never shared: another socket there could take what is the pod's.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2); `NotConnected` if the pod has ended.
    pub fn captured_datagrams(&self, any: IpAddr) -> io::Result<UdpSocket> {
        let socket = self.datagrams(any)?;
        fd::take_foreign_datagrams(&socket, any)?;
        socket.bind(&SocketAddr::new(any, OUTBOUND_PORT).into())?;
        Ok(socket.into())
    }

    /// A socket of the namespace that sends datagrams from an address that is not the pod's.
    ///
    /// # Errors
    /// As [`Self::captured_datagrams`].
    pub fn datagrams_from(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.datagrams(address.ip())?;
        fd::set_transparent(&socket, address.ip())?;
        // Nothing is delivered to it, so whoever has the address besides takes nothing away.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    }

    /// A socket of the namespace that talks with `to` alone, uncaptured.
    ///
    /// # Errors
    /// As [`Self::captured_datagrams`], and those of connect(2).
    pub fn datagrams_to(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.datagrams(to.ip())?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    }

    fn datagrams(&self, family: IpAddr) -> io::Result<socket2::Socket> {
        let domain = socket2::Domain::for_address(SocketAddr::new(family, 0));
        let kind = socket2::Type::DGRAM.nonblocking().cloexec();
        let new = || socket2::Socket::new(domain, kind, Some(socket2::Protocol::UDP));
        let socket = match &*self.place()? {
            Place::Namespace(netns) => {
                let socket = netns.run_in(new)??;
                socket.set_mark(self.enrolled.bypass_mark)?;
                socket
            }
            Place::Own => new()?,
        };
        if family.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    }

    fn place(&self) -> io::Result<Arc<Place>> {
        self.place.load_full().ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the pod has ended"))
    }

    /// Lets go of the namespace: no socket can be opened in it from now on.
    pub(crate) fn drop_netns(&self) {
        self.place.store(None);
    }
}

/// A socket of the namespace that the thread is in. Only its creation needs that: bind and connect act in the socket's.
fn new_socket(to: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(to);
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(domain, kind, Some(socket2::Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
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
        self.retired()
            .filter(|pod| pod.scope.connections() > 0 && !self.by_uid.contains_key(&pod.enrolled.uid))
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
