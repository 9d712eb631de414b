//! The network namespace that the container runtime names: a path of the host, seen from the agent's container.

use std::io;
use std::path::PathBuf;

use weft_runtime::netns::NetNamespace;

/// Opens it. The path may not lead there in this process's own file system, because folders of the host are not
/// mounted here, or mounts that the runtime made later have not come through; then it is looked for in the host's.
pub(super) fn open(path: &str) -> io::Result<NetNamespace> {
    NetNamespace::open(path).or_else(|own| {
        let elsewhere = in_hosts_file_system(path);
        elsewhere.and_then(|path| NetNamespace::open(path).ok()).ok_or(own)
    })
}

/// The path in the file system of the host's first process. `/var/run` is a link to `/run` on most hosts, and an absolute link
/// would lead back into our own file system.
fn in_hosts_file_system(path: &str) -> Option<PathBuf> {
    let inner = path.strip_prefix("/var/run/").map(|rest| format!("/run/{rest}"));
    let inner = inner.unwrap_or_else(|| path.to_owned());
    inner.starts_with('/').then(|| PathBuf::from(format!("/proc/1/root{inner}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_looked_for_in_the_hosts_file_system() {
        for (path, host) in [
            ("/var/run/netns/cni-1", Some("/proc/1/root/run/netns/cni-1")),
            ("/run/netns/cni-1", Some("/proc/1/root/run/netns/cni-1")),
            ("/proc/7/ns/net", Some("/proc/1/root/proc/7/ns/net")),
            ("netns", None),
        ] {
            assert_eq!(in_hosts_file_system(path), host.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn namespace_that_is_nowhere_is_told_by_the_path_that_was_given() {
        let error = open("/var/run/netns/weft-no-such").unwrap_err().to_string();
        assert!(error.contains("/var/run/netns/weft-no-such"), "{error}");
        assert!(open("/proc/self/ns/net").is_ok());
    }
}
