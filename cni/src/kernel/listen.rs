//! The three listening sockets in a pod's network namespace. They are opened by the agent and shared with the proxy,
//! so that connections wait in the backlog while a proxy is replaced.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use weft_api::node::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};

use super::{KernelError, find};

/// Ports, in the order in which the sockets travel.
pub const PORTS: [u16; 3] = [OUTBOUND_PORT, INBOUND_PLAINTEXT_PORT, TUNNEL_PORT];

/// As many connections as may wait; the namespace's `somaxconn` bounds it.
const BACKLOG: i32 = 4096;

/// The pod's listening sockets, in the order of [`PORTS`].
#[derive(Debug)]
pub struct Listeners(pub [OwnedFd; 3]);

/// Opens all three. Run inside the pod's namespace.
///
/// # Errors
/// [`KernelError::PortTaken`], or when the system refuses.
pub fn open() -> Result<Listeners, KernelError> {
    let [outbound, inbound, tunnel] = PORTS;
    Ok(Listeners([open_one(outbound)?, open_one(inbound)?, open_one(tunnel)?]))
}

impl Listeners {
    /// Are all still listening? A holder's `shutdown()` ends that for every duplicate.
    #[must_use]
    pub fn listening(&self) -> bool {
        self.0.iter().all(|socket| weft_runtime::fd::is_listening(socket).unwrap_or(false))
    }

    /// Opens those that no longer listen anew; returns whether there were any. Run inside the pod's namespace.
    ///
    /// # Errors
    /// As [`open`].
    pub fn reopen(&mut self) -> Result<bool, KernelError> {
        let mut replaced = false;
        for (socket, port) in self.0.iter_mut().zip(PORTS) {
            if !weft_runtime::fd::is_listening(socket).unwrap_or(false) {
                *socket = open_one(port)?;
                replaced = true;
            }
        }
        Ok(replaced)
    }

    /// Accepts what waits, and says on which port it was accepted and who calls.
    #[must_use]
    pub fn take_waiting(&self) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for (listener, port) in self.0.iter().zip(PORTS) {
            let Ok(listener) = listener.try_clone().map(Socket::from) else { continue };
            while let Ok((connection, from)) = listener.accept() {
                let Some(from) = from.as_socket() else { continue };
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                taken.push(Waiting { port, from, connection });
            }
        }
        taken
    }
}

/// A connection that waited for a proxy.
#[derive(Debug)]
pub struct Waiting {
    /// Which of [`PORTS`] accepted it.
    pub port: u16,
    /// Who calls, in canonical form.
    pub from: SocketAddr,
    /// The connection; blocking.
    pub connection: Socket,
}

impl Waiting {
    /// Ends it by a reset.
    pub fn reset(self) {
        reset(&self.connection);
    }
}

/// Makes the coming close of a connection a reset: unsent linger time zero.
pub fn reset(connection: &impl AsFd) {
    // Fails only for what is no socket any more.
    let _ = socket2::SockRef::from(connection).set_linger(Some(Duration::ZERO));
}

fn open_one(port: u16) -> Result<OwnedFd, KernelError> {
    let opened = match listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
        // IPv6 is not in this kernel, or is off in this namespace.
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => None,
        Err(error) if error.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32) => None,
        other => Some(other),
    };
    let opened = opened.unwrap_or_else(|| listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)));
    opened.map(OwnedFd::from).map_err(|error| {
        if error.kind() == io::ErrorKind::AddrInUse {
            let by = find::listening_process(port)
                .unwrap_or_else(|| "a program that could not be found".to_owned());
            KernelError::PortTaken { port, by }
        } else {
            KernelError::system(format!("listening on port {port} in the pod"))(error)
        }
    })
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Lets a port be opened again while old connections of it live. Never SO_REUSEPORT: with it a program in the pod
    // could take connections over by a more specific bind.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    if !weft_runtime::fd::is_listening(&socket.as_fd())? {
        return Err(io::Error::other("the socket does not listen"));
    }
    Ok(socket)
}
