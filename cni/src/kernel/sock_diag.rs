//! TCP sockets as the kernel lists them (`NETLINK_SOCK_DIAG`, sock_diag(7)): one by its addresses, all of a network
//! namespace, and ending one.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::Netlink;

/// `INET_DIAG_NOCOOKIE`: the socket is told by its addresses alone.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// A TCP socket of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// Its own address; IPv4-mapped IPv6 is shown as IPv4.
    pub local: SocketAddr,
    /// The other end's; unspecified for a listening socket.
    pub remote: SocketAddr,
    /// How far it is.
    pub state: TcpState,
    /// The user that owns it.
    pub uid: u32,
    /// The number in `socket:[…]` of the descriptors that are it; 0 when no process has it any more.
    pub inode: u32,
    /// Its `SO_MARK`; 0: none, or this process lacks `NET_ADMIN` and is not told.
    pub mark: u32,
    family: u8,
    id: SocketId,
}

/// The state of a TCP socket, as in `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "RFC 9293 §3.3.2")]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    /// One that this list does not know.
    Other(u8),
}

impl TcpState {
    const fn of(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            // 12 is a handshake that has no socket of its own yet.
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Close,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            other => Self::Other(other),
        }
    }

    /// A connection whose handshake is over and that some process may still have.
    #[must_use]
    pub const fn is_established(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2 | Self::CloseWait)
    }

    /// A connection that some process may still send or receive on.
    #[must_use]
    pub const fn is_live(self) -> bool {
        self.is_established() || matches!(self, Self::SynSent | Self::SynReceived)
    }
}

/// The kernel's list of the network namespace that it was opened in.
#[derive(Debug)]
pub struct SockDiag(Netlink);

impl SockDiag {
    /// Opens the list of the namespace that this thread is in; it stays that one's wherever it is used.
    ///
    /// # Errors
    /// When the kernel has no such list (`CONFIG_INET_DIAG`).
    pub fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// The socket with exactly these addresses, seen from its own side. A listening socket is never the answer.
    ///
    /// # Errors
    /// Those of the kernel, but for "there is none".
    pub fn find(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<TcpSocket>> {
        let (local, remote) = (canonical(local), canonical(remote));
        if local.is_ipv4() != remote.is_ipv4() {
            return Ok(None);
        }
        let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
        let id = SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: 0,
            cookie: NO_COOKIE,
        };
        let request = SockDiagMessage::InetRequest(request(family, id));
        self.0.send(request, NLM_F_REQUEST)?;
        let mut found = None;
        match self.receive(&mut |socket| found = Some(socket)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome?,
        }
        // Where no connection has these addresses, the kernel answers with the socket that listens on the port.
        let same = |socket: &TcpSocket| socket.local == local && socket.remote == remote;
        Ok(found.filter(|socket: &TcpSocket| same(socket) && socket.state != TcpState::Listen))
    }

    /// Every TCP socket of the namespace.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn dump(&mut self) -> io::Result<Vec<TcpSocket>> {
        let mut all = Vec::new();
        for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = SockDiagMessage::InetRequest(request(family, id));
            self.0.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
            match self.receive(&mut |socket| all.push(socket)) {
                // A kernel without IPv6 knows no such sockets.
                Err(error) if family == AF_INET6 && error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        }
        Ok(all)
    }

    /// Ends a connection as by a reset: its program reads `ECONNABORTED`, the other end is told (`SOCK_DESTROY`).
    ///
    /// # Errors
    /// `NotFound` when it has ended already, `Unsupported` on a kernel without `CONFIG_INET_DIAG_DESTROY`,
    /// `PermissionDenied` without `NET_ADMIN`.
    pub fn destroy(&mut self, socket: &TcpSocket) -> io::Result<()> {
        let request = SockDiagMessage::InetRequest(request(socket.family, socket.id.clone()));
        self.0.send(SockDiagDestroy::new(request), NLM_F_REQUEST | NLM_F_ACK)?;
        self.receive(&mut |_| {})
    }

    /// The sockets that answer what was sent last.
    fn receive(&self, take: &mut dyn FnMut(TcpSocket)) -> io::Result<()> {
        self.0.receive(&mut |answer| {
            if let SockDiagMessage::InetResponse(response) = answer {
                take(TcpSocket::of(*response));
            }
        })
    }
}

impl TcpSocket {
    /// What tells it from every other socket since the machine started, also from a later one with its addresses.
    #[must_use]
    pub const fn cookie(&self) -> [u8; 8] {
        self.id.cookie
    }

    fn of(response: InetResponse) -> Self {
        let header = response.header;
        let mark =
            response.nlas.iter().find_map(|one| if let Nla::Mark(mark) = one { Some(*mark) } else { None });
        let id = &header.socket_id;
        Self {
            local: canonical(SocketAddr::new(id.source_address, id.source_port)),
            remote: canonical(SocketAddr::new(id.destination_address, id.destination_port)),
            state: TcpState::of(header.state),
            uid: header.uid,
            inode: header.inode,
            mark: mark.unwrap_or(0),
            family: header.family,
            id: header.socket_id,
        }
    }
}

fn request(family: u8, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
