//! Who connects to the agent's socket: only a pod of the DaemonSet `weft-proxy` may hold pods' sockets. The kernel says
//! which process connected, and the process's cgroup says which pod's it is (data-plane rule 11).

use std::fs;
use std::io;
use std::time::Duration;

use weft_model::ObjectName;
use weft_runtime::fd::SeqPacket;

use super::config::Config;
use super::members::Members;
use super::pods::{Pod, Table};

/// How long a proxy's pod may be unknown here: its container runs before its status says so.
const LIMIT: Duration = Duration::from_secs(10);
/// The DaemonSet of the node's proxies, and their service account.
const PROXY: &str = "weft-proxy";

/// Why somebody is not the proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Stranger {
    /// A pod, but another one.
    #[error("it belongs to pod {0}, and only pods of DaemonSet weft-proxy may hold pods' sockets")]
    Pod(ObjectName),
    /// No pod that is known here, which may yet become known.
    #[error("it belongs to no pod that is known on this node; its cgroup is {0}")]
    Unknown(String),
}

/// Lets the node's proxy in and nobody else. In the lab, where there are no pods to tell by: root and the agent's own
/// user.
pub(super) async fn authenticate(packets: &SeqPacket, members: &Members) -> io::Result<()> {
    let peer = packets.peer()?;
    let refused = |why: String| {
        let problem = format!("process {} of user {} is not the proxy: {why}", peer.pid(), peer.uid());
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    };
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return refused("only root and the agent's own user may connect".into());
    }
    if !members.config.kubernetes {
        return Ok(());
    }
    if peer.pid() <= 0 {
        return refused("its process is not visible here: the agent needs hostPID".into());
    }
    let mut pods = members.pods.clone();
    let known = async {
        loop {
            let table = pods.borrow_and_update().clone();
            // Read anew each time: a runtime moves a process into its cgroup before it starts the program.
            let paths = cgroups(peer.pid())?;
            let judged = match &table {
                Some(table) => judge(&paths, table, &members.config),
                None => Err(Stranger::Unknown(paths.join(" "))),
            };
            match judged {
                Ok(name) => return Ok(Ok(name)),
                Err(stranger @ Stranger::Pod(_)) => return Ok(Err(stranger)),
                Err(stranger) if pods.changed().await.is_err() => return Ok(Err(stranger)),
                Err(_) => {}
            }
        }
    };
    match tokio::time::timeout(LIMIT, known).await {
        Ok(Ok(Ok(pod))) => {
            tracing::info!(%pod, pid = peer.pid(), "the proxy is known by its pod");
            Ok(())
        }
        Ok(Ok(Err(stranger))) => refused(stranger.to_string()),
        Ok(Err(error)) => Err::<(), io::Error>(error),
        Err(_) => refused(Stranger::Unknown(cgroups(peer.pid()).unwrap_or_default().join(" ")).to_string()),
    }
}

/// A process's place in every cgroup hierarchy (cgroups(7)).
fn cgroups(pid: i32) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(text.lines().filter_map(|line| Some(line.splitn(3, ':').nth(2)?.to_owned())).collect())
}

/// The proxy's pod that these cgroups are of. Every hierarchy that names a pod must name this one.
fn judge(paths: &[String], table: &Table, config: &Config) -> Result<ObjectName, Stranger> {
    let mut found = None;
    for pod in paths.iter().filter_map(|path| pod_of(path, table)) {
        if !is_proxy(pod, table, config) {
            return Err(Stranger::Pod(pod.name.clone()));
        }
        found = Some(pod.name.clone());
    }
    found.ok_or_else(|| Stranger::Unknown(paths.join(" ")))
}

/// The pod that a cgroup belongs to: the outermost part of its path that names one. What is below is the pod's own
/// doing, where it may make cgroups.
fn pod_of<'a>(path: &str, table: &'a Table) -> Option<&'a Pod> {
    path.split('/').find_map(|part| {
        let named = |pod: &&Pod| names_pod(part, &pod.uid) || names_container(part, pod, table);
        table.pods.values().find(named)
    })
}

/// `pod<uid>`, or with systemd `kubepods-burstable-pod<uid, with underscores>.slice`.
fn names_pod(part: &str, uid: &str) -> bool {
    let Some((_, found)) = part.trim_end_matches(".slice").rsplit_once("pod") else { return false };
    found == uid || found == uid.replace('-', "_")
}

/// `<id>`, or with systemd `cri-containerd-<id>.scope`: where the kubelet makes no cgroups for pods there is nothing else.
fn names_container(part: &str, pod: &Pod, table: &Table) -> bool {
    let part = part.trim_end_matches(".scope");
    let id = part.rsplit_once('-').map_or(part, |(_, id)| id);
    let containers = table.facts.get(&pod.uid).map(|facts| facts.containers.as_slice());
    containers.unwrap_or_default().iter().any(|known| **known == *id)
}

fn is_proxy(pod: &Pod, table: &Table, config: &Config) -> bool {
    let owner = table.facts.get(&pod.uid).and_then(|facts| facts.owner.as_ref());
    *pod.name.namespace == *config.namespace
        && &*pod.service_account == PROXY
        && owner.is_some_and(|owner| &*owner.kind == "DaemonSet" && &*owner.name == PROXY)
}

#[cfg(test)]
mod tests;
