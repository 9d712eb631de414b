//! Datagrams that nft's `tproxy` gives to a socket which has not the address they were sent to.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};

use super::set_transparent;

/// A datagram that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its length; never more than the buffer's.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: SocketAddr,
}

/// Makes a UDP socket take datagrams to any address, and say of each where it was sent to.
/// `address`: any address of the family that the socket was made for.
///
/// # Errors
/// `EPERM` without `NET_ADMIN` or `NET_RAW` in the namespace's owner.
pub fn take_foreign_datagrams(socket: &impl AsFd, address: IpAddr) -> io::Result<()> {
    set_transparent(socket, address)?;
    match address {
        IpAddr::V4(_) => setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true)?,
        IpAddr::V6(_) => setsockopt(socket, sockopt::Ipv6OrigDstAddr, &true)?,
    }
    Ok(())
}

/// Takes one datagram, without waiting. `None`: it was longer than the buffer, or did not say where it was sent to, and
/// was dropped.
///
/// # Errors
/// `WouldBlock` when there is none.
pub fn receive_datagram(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    let mut control = nix::cmsg_space!(nix::libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(buffer)];
    let socket = socket.as_fd().as_raw_fd();
    let received =
        recvmsg::<SockaddrStorage>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    if received.flags.contains(MsgFlags::MSG_TRUNC) {
        return Ok(None);
    }
    let to = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => Some(SocketAddr::new(
            IpAddr::V4(u32::from_be(to.sin_addr.s_addr).into()),
            u16::from_be(to.sin_port),
        )),
        ControlMessageOwned::Ipv6OrigDstAddr(to) => {
            Some(SocketAddr::new(IpAddr::V6(to.sin6_addr.s6_addr.into()), u16::from_be(to.sin6_port)))
        }
        _ => None,
    });
    let from = received.address.as_ref().and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::V4((*from).into()));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::V6((*from).into())))
    });
    let length = received.bytes;
    Ok(from.zip(to).map(|(from, to)| Datagram { length, from, to }))
}
