//! Asking the kernel about eBPF programs (bpf(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// When a program of a cgroup runs. Its number is the kernel's (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachPoint {
    /// At `connect()` of an IPv4 socket (`BPF_CGROUP_INET4_CONNECT`).
    Connect4 = 10,
    /// At `connect()` of an IPv6 socket (`BPF_CGROUP_INET6_CONNECT`).
    Connect6 = 11,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses, as long as any kernel so far reads or writes it.
#[repr(C, align(8))]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    /// `prog_attach_flags`, `link_ids`, `link_attach_flags` and `revision` of newer kernels lie here.
    rest: [u32; 9],
}

/// How many programs run at this point for processes of a cgroup (v2), those of its ancestors included.
///
/// # Errors
/// `EPERM` without `NET_ADMIN` in the first user namespace; `EINVAL` when this kernel has no programs at cgroups;
/// `EBADF` when the descriptor is no cgroup.
pub fn effective_programs(cgroup: &impl AsFd, point: AttachPoint) -> io::Result<u32> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    const BPF_F_QUERY_EFFECTIVE: u32 = 1;
    let target_fd = u32::try_from(cgroup.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let mut query = Query {
        target_fd,
        attach_type: point as u32,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        ..Query::default()
    };
    // SAFETY: the pointer and the size describe `query`, which is writable and lives for the call. `prog_ids` is null
    // and `prog_cnt` zero, so the kernel writes the number of programs into `query` and no list anywhere else.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(query.prog_cnt) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cgroup_is_refused() {
        assert_eq!(size_of::<Query>(), 64);
        let folder = std::fs::File::open("/proc").unwrap();
        for point in [AttachPoint::Connect4, AttachPoint::Connect6] {
            assert_eq!(effective_programs(&folder, point).unwrap_err().raw_os_error(), Some(libc::EBADF));
        }
    }
}
