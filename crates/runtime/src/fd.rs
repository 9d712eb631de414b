//! Descriptors and socket options that the safe libraries leave out: the one module of the workspace with `unsafe`.
//! Messages with descriptors (`SCM_RIGHTS`) over sequenced-packet Unix sockets are in [`SeqPacket`];
//! the free functions are socket options under names that say what they are for.
//! [`effective_programs`] asks which eBPF programs a cgroup has.

mod bpf;
mod datagram;
mod seqpacket;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::io::unix::AsyncFd;

pub use bpf::{AttachPoint, effective_programs};
pub use datagram::{Datagram, receive_datagram, take_foreign_datagrams};
pub use seqpacket::{SeqPacket, SeqPacketListener, bind_seqpacket};

/// The longest message that is sent or accepted, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors beside one message. The kernel's own bound is 253.
pub const MAX_DESCRIPTORS: usize = 16;

/// Room for the control data of 253 descriptors (`SCM_MAX_FD`): whatever a peer sends arrives whole and can be closed.
const CONTROL_BYTES: usize = 1056;

/// A control buffer aligned as `cmsghdr` demands.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Where a redirected connection was going before nft's `redirect` (`SO_ORIGINAL_DST`, for IPv6 `IP6T_SO_ORIGINAL_DST`).
/// IPv4 callers of a dual-stack socket are answered as IPv4.
///
/// # Errors
/// `ENOENT` (as `NotFound`) when the connection is not in the namespace's connection tracking.
pub fn original_destination(socket: &impl AsFd, local: SocketAddr) -> io::Result<SocketAddr> {
    match local.ip().to_canonical() {
        IpAddr::V4(_) => {
            let raw = getsockopt(socket, sockopt::OriginalDst)?;
            let address = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
            Ok(SocketAddr::new(address.into(), u16::from_be(raw.sin_port)))
        }
        IpAddr::V6(_) => {
            let raw = getsockopt(socket, sockopt::Ip6tOriginalDst)?;
            let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Ok(SocketAddr::new(address.into(), u16::from_be(raw.sin6_port)))
        }
    }
}

/// Lets a socket bind to an address that is not the host's (`IP_TRANSPARENT`, `IPV6_TRANSPARENT`).
/// `address`: any address of the family that the socket was made for.
///
/// # Errors
/// `EPERM` without `NET_ADMIN` or `NET_RAW` in the namespace's owner.
pub fn set_transparent(socket: &impl AsFd, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(_) => Ok(setsockopt(socket, sockopt::IpTransparent, &true)?),
        IpAddr::V6(_) => set_int(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    }
}

/// Marks everything the socket sends (`SO_MARK`).
///
/// # Errors
/// `EPERM` without `NET_ADMIN` or `NET_RAW`.
pub fn set_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Mark, &mark)?)
}

/// The socket's mark; on a socket accepted under `tcp_fwmark_accept` the mark of the SYN.
///
/// # Errors
/// When this is no socket.
pub fn mark(socket: &impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(socket, sockopt::Mark)?)
}

/// Is the socket listening (`SO_ACCEPTCONN`)? A `shutdown()` by any holder of a duplicate ends that for all of them.
///
/// # Errors
/// When this is no socket.
pub fn is_listening(socket: &impl AsFd) -> io::Result<bool> {
    Ok(getsockopt(socket, sockopt::AcceptConn)?)
}

/// How long sent bytes may stay unacknowledged before the connection fails (`TCP_USER_TIMEOUT`).
///
/// # Errors
/// When this is no TCP socket.
pub fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(socket, sockopt::TcpUserTimeout, &milliseconds)?)
}

/// The `CLONE_NEW*` number of the namespace that a descriptor stands for (`NS_GET_NSTYPE`, ioctl_nsfs(2)).
pub(crate) fn namespace_kind(descriptor: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: this request takes no argument and returns its answer as the result.
    let kind = unsafe { libc::ioctl(descriptor.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind) }
}

/// Sets a socket option whose value is a C `int`.
fn set_int(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives for the call; the descriptor is open.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends one message with descriptors beside it, without waiting.
fn send_message(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    check_bounds(bytes.len(), descriptors.len())?;
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[io::IoSlice::new(bytes)], control, flags, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("a packet was cut while sending")) }
}

fn check_bounds(bytes: usize, descriptors: usize) -> io::Result<()> {
    let problem = if bytes == 0 {
        "a message without bytes would read as the end of the connection".to_owned()
    } else if bytes > MAX_MESSAGE {
        format!("a message of {bytes} bytes is longer than {MAX_MESSAGE}")
    } else if descriptors > MAX_DESCRIPTORS {
        format!("{descriptors} descriptors beside one message are more than {MAX_DESCRIPTORS}")
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// Takes one message with its descriptors, without waiting; `None`: the peer closed.
///
/// The control data is walked by hand because nix gives no access to it once it was cut, and the descriptors that did
/// arrive would stay open. Here each becomes an `OwnedFd` before anything is judged.
fn receive_message(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0_u8; MAX_MESSAGE];
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: `msghdr` is a C struct for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: every pointer in `header` points to a live, writable buffer of the length given beside it.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let Ok(received) = usize::try_from(received) else { return Err(io::Error::last_os_error()) };
    let descriptors = take_descriptors(&header);
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 || descriptors.len() > MAX_DESCRIPTORS {
        // `descriptors` closes here.
        let problem =
            "a message was longer, or had more descriptors, than allowed or than this process may open";
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    if received == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    bytes.truncate(received);
    Ok(Some((bytes, descriptors)))
}

/// Has tokio tell when a socket is ready; it must be non-blocking.
///
/// # Errors
/// When this is not called on a tokio runtime, or the socket cannot be watched.
pub fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always names the same open descriptor and closes it only when the `AsyncFd` is gone.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Owns a descriptor that the kernel has just opened for the caller.
fn own(fresh: RawFd) -> OwnedFd {
    // SAFETY: only called with the result of `accept4`, which nobody else has seen yet.
    unsafe { OwnedFd::from_raw_fd(fresh) }
}

/// Owns every descriptor in the control data of a message just received.
fn take_descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: `header` was filled by recvmsg and its control buffer is alive; the CMSG macros stay inside it.
    let mut item = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !item.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside the aligned buffer.
        let (level, kind, length) =
            unsafe { ((*item).cmsg_level, (*item).cmsg_type, (*item).cmsg_len as usize) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
            // SAFETY: pure arithmetic on a valid header.
            let (data, head) = unsafe { (libc::CMSG_DATA(item), libc::CMSG_LEN(0) as usize) };
            let count = length.saturating_sub(head) / size_of::<RawFd>();
            for place in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there and opened each for this process alone:
                // nobody else owns them. CMSG_DATA may be unaligned for c_int, hence read_unaligned.
                let owned = unsafe {
                    OwnedFd::from_raw_fd(
                        data.add(place * size_of::<RawFd>()).cast::<RawFd>().read_unaligned(),
                    )
                };
                descriptors.push(owned);
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        item = unsafe { libc::CMSG_NXTHDR(header, item) };
    }
    descriptors
}

#[cfg(test)]
mod tests;
