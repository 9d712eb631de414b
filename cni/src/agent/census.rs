//! A census of network namespaces that Weft's processes hold open. Each must be a pod's that is served: a descriptor
//! that is left over keeps a namespace alive after its pod, and with it sockets whose peers hear nothing
//! (data-plane rule 26).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use weft_runtime::netns::NetNamespace;

use super::members::{Members, blocking};
use crate::kernel::nft;

/// How often it is taken. What is there twice in a row and belongs to no pod is stray: pods end while it is taken.
const INTERVAL: Duration = Duration::from_secs(30);

/// Takes the census for ever.
pub(super) async fn run(members: Arc<Members>) {
    let mut before = BTreeSet::new();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let proxy =
            members.current_link().and_then(|(_, link)| link.packets.peer().ok()).map(|peer| peer.pid());
        let processes: Vec<i32> = std::iter::once(0).chain(proxy).collect();
        let Ok(held) =
            blocking(move || processes.into_iter().flat_map(held_by).collect::<BTreeSet<_>>()).await
        else {
            continue;
        };
        let mut served = BTreeSet::new();
        for slot in members.slots().into_values() {
            served.extend(slot.lock().await.as_ref().map(|member| member.capture.namespace.id().inode()));
        }
        let unknown: BTreeSet<u64> = held.difference(&served).copied().collect();
        let stray: BTreeSet<u64> = unknown.intersection(&before).copied().collect();
        let count = u64::try_from(stray.len()).unwrap_or(u64::MAX);
        let told = members.board.read(|status| status.stray_namespaces);
        if count > told {
            tracing::error!(namespaces = ?stray, "network namespaces without a pod are held open: please report this");
        }
        if count != told {
            members.board.update(|status| status.stray_namespaces = count);
        }
        before = unknown;
    }
}

/// The network namespaces that a process has open, other than its own. 0: this process.
fn held_by(pid: i32) -> Vec<u64> {
    let process = if pid == 0 { "self".to_owned() } else { pid.to_string() };
    let own = |process: &str| fs::metadata(format!("/proc/{process}/ns/net")).ok();
    let (Some(home), Some(its)) = (own("self"), own(&process)) else { return Vec::new() };
    let mut expected = vec![home.ino(), its.ino()];
    expected.extend(nft::reference().as_ref().map(|namespace: &NetNamespace| namespace.id().inode()));
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    // All namespaces are files of one device. Weft opens only those of networks.
    let namespaces = descriptors.filter_map(|entry| fs::metadata(entry.path()).ok());
    let namespaces = namespaces.filter(|file| file.dev() == home.dev()).map(|file| file.ino());
    namespaces.filter(|inode| !expected.contains(inode)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root.
    #[test]
    fn foreign_namespace_is_counted_while_it_is_held() {
        let made = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("root, to make a network namespace");
            NetNamespace::current().unwrap()
        });
        let namespace = made.join().unwrap();
        let inode = namespace.id().inode();
        assert!(held_by(0).contains(&inode));
        drop(namespace);
        assert!(!held_by(0).contains(&inode));
    }
}
