//! The listening sockets of a Gateway's pod: opened and closed as the configuration's listeners come and go. A port that
//! stays keeps its socket and its connections, whatever becomes of the others.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use weft_api::proto::Rejection;
use weft_model::service::PortProtocol;

use crate::call::Listener;
use crate::gateway::udp::DatagramPort;
use crate::listen::{PodListener, prepare};
use crate::pod::LocalPod;
use crate::scope::Scope;
use crate::state::Snapshot;
use crate::worker::{Crew, Shared};

/// Connections that may wait to be accepted; the kernel's own limit may be lower.
const BACKLOG: i32 = 4096;

/// How long what is still open after the drain gets to be closed in order.
const LAST: Duration = Duration::from_secs(1);

/// The sockets that are open.
#[derive(Debug)]
pub struct Ports {
    shared: Arc<Shared>,
    crew: Arc<Crew>,
    pod: Arc<LocalPod>,
    open: BTreeMap<(PortProtocol, u16), Arc<Scope>>,
    /// The home worker of the next port.
    next_home: usize,
}

impl Ports {
    /// None yet.
    pub fn new(shared: Arc<Shared>, crew: Arc<Crew>, pod: Arc<LocalPod>) -> Self {
        Self { shared, crew, pod, open: BTreeMap::new(), next_home: 0 }
    }

    /// Opens what `snapshot` wants and closes what it no longer wants. Connections to a closed port end as in a drain.
    /// Returns what could not be opened, to be told to the controller.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Vec<Rejection> {
        let wanted: Vec<_> = snapshot.gateway_ports().collect();
        let gone: Vec<_> = self.open.keys().copied().filter(|port| !wanted.contains(port)).collect();
        for port in gone {
            self.close(port);
        }
        let mut rejections = Vec::new();
        for port in wanted {
            if self.open.contains_key(&port) {
                continue;
            }
            if let Err(error) = self.open(port) {
                let (protocol, port) = (port.0.as_str(), port.1);
                tracing::error!(protocol, port, %error, "cannot listen: the listeners of this port are not served");
                rejections.extend(rejection(snapshot, (protocol, port), &error));
            }
        }
        rejections
    }

    fn open(&mut self, (protocol, port): (PortProtocol, u16)) -> io::Result<()> {
        let scope = Arc::new(Scope::new(&self.shared.ends));
        match protocol {
            PortProtocol::Tcp => {
                let (socket, kind) = (listen(port)?, Listener::Gateway(port));
                let (pod, scope) = (Arc::clone(&self.pod), Arc::clone(&scope));
                let listener = PodListener { pod, scope, kind, socket, open: Arc::default() };
                self.crew.accept(self.next_home, listener);
                self.next_home = self.next_home.wrapping_add(1);
            }
            PortProtocol::Udp => {
                let sockets = (0..self.crew.len()).map(|_| datagrams(port));
                for (index, socket) in sockets.collect::<io::Result<Vec<_>>>()?.into_iter().enumerate() {
                    let (pod, scope) = (Arc::clone(&self.pod), Arc::clone(&scope));
                    self.crew.serve_datagrams(index, DatagramPort { pod, scope, socket, number: port });
                }
            }
        }
        self.open.insert((protocol, port), scope);
        tracing::info!(protocol = protocol.as_str(), port, "listening");
        Ok(())
    }

    fn close(&mut self, port: (PortProtocol, u16)) {
        let Some(scope) = self.open.remove(&port) else { return };
        let (protocol, port) = (port.0.as_str(), port.1);
        tracing::info!(protocol, port, connections = scope.connections(), "no longer listening");
        scope.release();
        let drain = self.shared.config.drain;
        tokio::spawn(async move {
            tokio::time::sleep(drain).await;
            scope.hurry();
            tokio::time::sleep(LAST).await;
            scope.ended.cancel();
        });
    }
}

fn rejection(snapshot: &Snapshot, (protocol, port): (&str, u16), error: &io::Error) -> Option<Rejection> {
    let gateway = snapshot.gateway()?;
    let message = format!("the proxy cannot listen on {protocol} port {port}: {error}");
    Some(Rejection { name: format!("Gateway/{}", gateway.name), message })
}

/// A socket for callers of both families, or of IPv4 only where there is nothing else.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = bound(port, (Type::STREAM, Protocol::TCP))?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    prepare(&listener)?;
    Ok(listener)
}

/// One of several sockets that share a UDP port.
fn datagrams(port: u16) -> io::Result<UdpSocket> {
    bound(port, (Type::DGRAM, Protocol::UDP)).map(UdpSocket::from)
}

fn bound(port: u16, kind: (Type, Protocol)) -> io::Result<Socket> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bound_to(both, kind) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            bound_to(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), kind)
        }
        result => result,
    }
}

fn bound_to(address: SocketAddr, (kind, protocol): (Type, Protocol)) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // A port that comes back at once meets its old socket, which its worker is about to close.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
