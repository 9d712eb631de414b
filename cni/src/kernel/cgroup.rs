//! Socket-level load balancers: eBPF programs that run at `connect()` for the processes of a pod's cgroup (data-plane
//! rule 7).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::libc;
use weft_runtime::fd::{AttachPoint, effective_programs};
use weft_runtime::netns::NetNamespace;

use super::KernelError;
use super::find::processes;

/// Fails when a program runs at `connect()` of the pod's processes. A pod that has none yet is judged by the cgroup that
/// was made for it, or else by the nearest one above. `uid`: the pod's.
///
/// # Errors
/// [`KernelError::SocketLoadBalancer`], or when the kernel does not answer.
pub fn refuse_socket_load_balancer(namespace: &NetNamespace, uid: &str) -> Result<(), KernelError> {
    let Some(hierarchy) = Hierarchy::find() else {
        // Such programs are attached to cgroups of version 2 only.
        return Ok(());
    };
    let mut cgroups: BTreeSet<PathBuf> = processes()
        .filter(|pid| NetNamespace::of_process(*pid).is_ok_and(|its| its.id() == namespace.id()))
        .filter_map(|pid| hierarchy.of_process(pid))
        .collect();
    if cgroups.is_empty() {
        cgroups.insert(hierarchy.made_for(uid));
    }
    for cgroup in cgroups {
        if has_programs(&cgroup)? {
            let shown = cgroup.strip_prefix("/proc/1/root").unwrap_or(&cgroup);
            let cgroup = Path::new("/").join(shown).display().to_string();
            return Err(KernelError::SocketLoadBalancer { cgroup });
        }
    }
    Ok(())
}

fn has_programs(cgroup: &Path) -> Result<bool, KernelError> {
    let asking = || format!("asking for the eBPF programs of {}", cgroup.display());
    let opened = match File::open(cgroup) {
        // Gone meanwhile, with whatever it had.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(KernelError::system(asking()))?,
    };
    for point in [AttachPoint::Connect4, AttachPoint::Connect6] {
        match effective_programs(&opened, point) {
            Ok(0) => {}
            Ok(_) => return Ok(true),
            // A kernel without programs at cgroups.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {}
            // Root of a user namespace may not ask, whatever it has there. Nodes are no such place, labs are.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && in_user_namespace() => {}
            Err(error) => return Err(KernelError::system(asking())(error)),
        }
    }
    Ok(false)
}

/// Is this process in a user namespace other than the first, which alone maps every number to itself?
fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// The hierarchy of cgroups of version 2.
struct Hierarchy {
    /// Where it is mounted, as this process reaches it.
    mount: PathBuf,
    /// What of it is mounted there.
    root: String,
}

impl Hierarchy {
    /// As the node's first process sees it: in a container the own mount may begin at the container's cgroup.
    fn find() -> Option<Self> {
        let of = |process: &str| {
            let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).ok()?;
            let (root, mount) = text.lines().find_map(cgroup2_mount)?;
            let seen = if process == "self" { String::new() } else { format!("/proc/{process}/root") };
            let mount = PathBuf::from(format!("{seen}{mount}"));
            mount.join("cgroup.procs").exists().then_some(Self { mount, root })
        };
        of("1").or_else(|| of("self"))
    }

    /// The cgroup of a process, or the nearest one above that can be reached.
    fn of_process(&self, pid: u32) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let below = path.strip_prefix(self.root.trim_end_matches('/')).unwrap_or_default();
        let below = if below.starts_with("/..") { "" } else { below };
        let full = self.mount.join(below.trim_start_matches('/'));
        full.ancestors().find(|path| path.exists()).map(Path::to_path_buf)
    }

    /// The cgroup that the kubelet made for a pod, or else the nearest one above that is surely the pod's.
    fn made_for(&self, uid: &str) -> PathBuf {
        let names = [uid.to_owned(), uid.replace('-', "_")];
        let mut nearest = self.mount.clone();
        let mut open = vec![(self.mount.clone(), 0)];
        while let Some((folder, depth)) = open.pop() {
            for child in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let name = child.file_name().to_string_lossy().into_owned();
                if !child.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if names.iter().any(|uid| !uid.is_empty() && name.contains(uid.as_str())) {
                    return child.path();
                }
                let above = ["kubepods", "kubelet", "burstable", "besteffort"];
                if depth < 4 && above.iter().any(|part| name.contains(part)) {
                    if name.contains("kubepods") && depth == 0 {
                        nearest = child.path();
                    }
                    open.push((child.path(), depth + 1));
                }
            }
        }
        nearest
    }
}

/// Root and place of a line of mountinfo (proc(5)) that is a mount of cgroups of version 2.
fn cgroup2_mount(line: &str) -> Option<(String, String)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(3);
    let place = (fields.next()?.to_owned(), fields.next()?.to_owned());
    (after.split(' ').next() == Some("cgroup2")).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_of_the_second_version_is_found() {
        let line = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(line), Some(("/".to_owned(), "/sys/fs/cgroup".to_owned())));
        let line = "31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids";
        assert_eq!(cgroup2_mount(line), None);
    }

    #[test]
    fn cgroup_made_for_a_pod_is_found_by_its_uid_and_else_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { mount: folder.path().to_owned(), root: "/".to_owned() };
        assert_eq!(hierarchy.made_for("a-1"), folder.path());
        let pods = folder.path().join("kubepods.slice");
        let pod = pods.join("kubepods-burstable.slice/kubepods-burstable-poda_1.slice");
        fs::create_dir_all(&pod).unwrap();
        assert_eq!(hierarchy.made_for("a-1"), pod);
        assert_eq!(hierarchy.made_for("b-2"), pods);
    }
}
