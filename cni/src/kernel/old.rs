//! Connections of a pod that are older than its capture: they were never redirected and pass beside the mesh
//! (data-plane rule 4).

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use super::capture::Capture;
use super::listen::PORTS;
use super::sock_diag::{SockDiag, TcpSocket, TcpState};
use crate::ruleset::Ruleset;

impl Capture {
    /// The connections that are open now and are not captured, although they would be if they were made now.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn old_connections(&self) -> io::Result<Vec<TcpSocket>> {
        let mut kernel = self.sockets()?;
        // A captured connection has Weft's end of it in the same namespace, and had it before its own end was open: what
        // the first list shows open has its other end in the second, although neither is of one moment.
        let first = kernel.dump()?;
        Ok(uncaptured(first, &kernel.dump()?, &self.ruleset))
    }

    /// Those of the connections that still are.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn still_open(&self, old: &[TcpSocket]) -> io::Result<Vec<TcpSocket>> {
        let open = cookies(&self.sockets()?.dump()?);
        Ok(old.iter().filter(|socket| open.contains(&socket.cookie())).cloned().collect())
    }

    /// Resets these connections, and no later ones that have their addresses. Those that cannot be reset come back with
    /// the reason.
    ///
    /// # Errors
    /// When nothing can be asked for in the namespace.
    pub fn reset(&self, old: &[TcpSocket]) -> io::Result<(u64, Vec<(TcpSocket, io::Error)>)> {
        let mut kernel = self.sockets()?;
        let (mut ended, mut left) = (0, Vec::new());
        for socket in old {
            match kernel.destroy(socket) {
                Ok(()) => ended += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => left.push((socket.clone(), error)),
            }
        }
        Ok((ended, left))
    }

    fn sockets(&self) -> io::Result<SockDiag> {
        self.namespace.run_in(SockDiag::open)?
    }
}

fn cookies(all: &[TcpSocket]) -> HashSet<[u8; 8]> {
    all.iter().filter(|socket| socket.state.is_established()).map(TcpSocket::cookie).collect()
}

/// Of the sockets listed first, those that pass beside Weft; `all`: every socket, listed afterwards.
fn uncaptured(first: Vec<TcpSocket>, all: &[TcpSocket], rules: &Ruleset) -> Vec<TcpSocket> {
    let (listening, open): (Vec<_>, Vec<_>) =
        all.iter().partition::<Vec<&TcpSocket>, _>(|socket| socket.state == TcpState::Listen);
    let served: HashSet<u16> = listening.iter().map(|socket| socket.local.port()).collect();
    let ends: HashSet<(SocketAddr, SocketAddr)> =
        open.iter().map(|socket| (socket.local, socket.remote)).collect();
    // The application sees the address that it called; only the caller's is the same at both ends.
    let redirected: HashSet<SocketAddr> =
        open.iter().filter(|s| PORTS.contains(&s.local.port())).map(|s| s.remote).collect();
    let alive = cookies(all);
    let passes = |socket: &TcpSocket| {
        let (local, remote) = (socket.local, socket.remote);
        let wefts = PORTS.contains(&local.port())
            || [rules.bypass_mark, rules.inbound_mark].contains(&socket.mark)
            || redirected.contains(&local);
        let within_the_pod = remote.ip().is_loopback() || ends.contains(&(remote, local));
        // Inbound is captured wherever it comes from, outbound only to the cluster's ranges.
        let would_be_captured = served.contains(&local.port())
            || rules.cluster.is_empty()
            || rules.cluster.iter().any(|range| range.contains(&remote.ip()));
        socket.state.is_established() && !wefts && !within_the_pod && would_be_captured
    };
    first.into_iter().filter(|socket| alive.contains(&socket.cookie()) && passes(socket)).collect()
}
