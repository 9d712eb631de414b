//! Sequenced-packet Unix sockets on tokio: one message per packet, descriptors beside it.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, UnixCredentials, accept4, bind, connect,
    getsockopt, listen, socket, socketpair, sockopt,
};
use tokio::io::unix::AsyncFd;

use super::{receive_message, send_message};

/// One end of a connection. Dropping it closes it.
#[derive(Debug)]
pub struct SeqPacket {
    socket: AsyncFd<OwnedFd>,
}

/// A listening socket at a path.
#[derive(Debug)]
pub struct SeqPacketListener {
    socket: AsyncFd<OwnedFd>,
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Listens at `path`, replacing a socket left behind there, reachable for the owner alone (mode 0600).
///
/// # Errors
/// When the path cannot be bound, or this is not called on a tokio runtime.
pub fn bind_seqpacket(path: &Path) -> io::Result<SeqPacketListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = open()?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody can connect before listen(), so the mode is in force for everybody.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(SeqPacketListener { socket: super::watch(listener)? })
}

impl SeqPacketListener {
    /// The next connection.
    ///
    /// # Errors
    /// When accepting fails for good, such as for want of descriptors.
    pub async fn accept(&self) -> io::Result<SeqPacket> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        loop {
            let mut ready = self.socket.readable().await?;
            let outcome = ready.try_io(|socket| Ok(accept4(socket.as_raw_fd(), flags)?));
            match outcome {
                Ok(Ok(raw)) => return SeqPacket::new(super::own(raw)),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

impl SeqPacket {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: super::watch(socket)? })
    }

    /// Connects to a listener. A Unix connect is done at once or not at all, so this does not wait.
    ///
    /// # Errors
    /// When nobody listens there, the listener's queue is full, or this is not called on a tokio runtime.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = open()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Self::new(socket)
    }

    /// Two connected ends, for tests.
    ///
    /// # Errors
    /// For want of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self::new(one)?, Self::new(other)?))
    }

    /// Sends one message of at most [`MAX_MESSAGE`](super::MAX_MESSAGE) bytes and
    /// [`MAX_DESCRIPTORS`](super::MAX_DESCRIPTORS) descriptors, which the peer receives as its own duplicates.
    ///
    /// # Errors
    /// When the peer is gone, or the message is empty or too big.
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            if let Ok(outcome) = ready.try_io(|socket| send_message(socket.as_fd(), bytes, descriptors)) {
                return outcome;
            }
        }
    }

    /// The next message and its descriptors (close-on-exec); `None`: the peer closed. Cancel-safe.
    ///
    /// # Errors
    /// When the message or its descriptors are more than the bounds; what arrived of them is closed.
    pub async fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.socket.readable().await?;
            if let Ok(outcome) = ready.try_io(|socket| receive_message(socket.as_fd())) {
                return outcome;
            }
        }
    }

    /// Who connected, or listens, as the kernel recorded it then (`SO_PEERCRED`).
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn peer(&self) -> io::Result<UnixCredentials> {
        Ok(getsockopt(&self.socket.get_ref(), sockopt::PeerCredentials)?)
    }
}
