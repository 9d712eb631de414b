//! Whose a socket is: the processes that have it open, and their cgroups (data-plane rule 14).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::sched::{CloneFlags, setns};

use super::find::processes;

/// Enters the cgroup namespace of the node's first process if this process has one of its own, as containers may:
/// paths of cgroups outside of it would be cut. Enters with the calling thread, so call it before there are others.
///
/// # Errors
/// When the namespace cannot be entered (missing `SYS_ADMIN`).
pub fn enter_cgroup_namespace_of_node() -> io::Result<()> {
    let namespace =
        |process: &str| fs::metadata(format!("/proc/{process}/ns/cgroup")).map(|found| found.ino());
    // A kernel without such namespaces, or no access: then there is nothing to enter.
    let (Ok(own), Ok(first)) = (namespace("self"), namespace("1")) else { return Ok(()) };
    if own != first {
        setns(File::open("/proc/1/ns/cgroup")?, CloneFlags::CLONE_NEWCGROUP)?;
    }
    Ok(())
}

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its number, as this process sees it.
    pub pid: u32,
    /// Its place in every cgroup hierarchy, relative to this process's cgroup namespace.
    pub cgroups: Vec<String>,
}

/// The processes of this process's PID namespace that have the socket with this inode open. `likely`: one that is asked
/// first and, if it has the socket, alone; asking all takes milliseconds.
#[must_use]
pub fn owners(inode: u32, likely: Option<u32>) -> Vec<Owner> {
    let socket = format!("socket:[{inode}]");
    let owner = |pid: u32| has_open(pid, &socket).then(|| Owner { pid, cgroups: cgroups(pid) });
    if let Some(owner) = likely.and_then(owner) {
        return vec![owner];
    }
    processes().filter_map(owner).collect()
}

fn has_open(pid: u32, socket: &str) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.any(|target| target.as_os_str() == socket)
}

/// `hierarchy:controllers:path` in each line (cgroups(7)).
fn cgroups(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().filter_map(|line| Some(line.splitn(3, ':').nth(2)?.to_owned())).collect()
}

impl Owner {
    /// Does it belong to a pod? `parts`: any of them in a cgroup's path marks a pod's. What cannot be told counts as a
    /// pod's: a process without a known cgroup, or one that this process's cgroup namespace has no name for.
    #[must_use]
    pub fn is_in_pod(&self, parts: &[String]) -> bool {
        let in_pod =
            |path: &String| path.starts_with("/..") || parts.iter().any(|part| path.contains(part.as_str()));
        self.cgroups.is_empty() || self.cgroups.iter().any(in_pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    fn owner(cgroups: &[&str]) -> Owner {
        Owner { pid: 1, cgroups: cgroups.iter().map(|path| (*path).to_owned()).collect() }
    }

    #[test]
    fn pod_is_told_by_its_cgroup() {
        let parts = crate::agent::config::POD_CGROUPS.map(str::to_owned);
        for pod in [
            &["/kubepods/burstable/pod8f1c/3a5b"][..],
            &["/", "/", "/kubepods.slice/kubepods-pod8f1c.slice/cri-containerd-3a5b.scope"],
            &["/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod8f1c.slice/crio-3a5b.scope"],
            &["/k8s.io/3a5b"],
            &["/system.slice/cri-containerd-3a5b.scope"],
            &["/../../pod8f1c/3a5b"],
            &[],
        ] {
            assert!(owner(pod).is_in_pod(&parts), "{pod:?}");
        }
        for host in [
            &["/"][..],
            &["/system.slice/kubelet.service"],
            &["/kubelet.slice/kubelet.service"],
            &["/podruntime/kubelet"],
            &["/", "/user.slice/user-0.slice/session-1.scope"],
            &["/system.slice/k3s.service"],
        ] {
            assert!(!owner(host).is_in_pod(&parts), "{host:?}");
        }
    }

    #[test]
    fn owner_is_found_with_and_without_a_guess() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode =
            link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
        let own = std::process::id();
        for likely in [None, Some(own), Some(1), Some(u32::MAX)] {
            let found = owners(inode, likely);
            assert_eq!(found.iter().map(|owner| owner.pid).collect::<Vec<_>>(), [own], "{likely:?}");
            assert!(!found[0].cgroups.is_empty());
        }
        drop(socket);
        assert_eq!(owners(inode, Some(own)), []);
    }
}
