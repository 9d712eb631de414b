//! What a cluster is made of as the machine sees it: processes, namespaces, control groups, mounts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weft_cluster::Cluster;
use weft_runtime::process::started;

/// Taken while the cluster runs, to look for afterwards.
pub(crate) struct Footprint {
    folder: PathBuf,
    cgroup: PathBuf,
    /// Every process in it by number and start. Not by its namespaces: the kernel gives their numbers again at once.
    processes: BTreeSet<(u32, u64)>,
    supervisor: u32,
}

impl Footprint {
    /// Of a running cluster.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let folder = cluster.state().folder().to_owned();
        let text = fs::read_to_string(folder.join("init.pid")).unwrap();
        let init: u32 = text.split(' ').next().unwrap().parse().unwrap();
        let own = namespaces(std::process::id());
        let strange = |pid: u32| namespaces(pid).into_iter().filter(|n| !own.contains(n)).collect::<Vec<_>>();
        let tree: Vec<u32> = pids().into_iter().filter(|pid| descends(*pid, init)).collect();
        let inside: BTreeSet<String> = tree.iter().flat_map(|pid| strange(*pid)).collect();
        // Also who was let in from outside.
        let all = pids().into_iter().filter(|pid| strange(*pid).iter().any(|n| inside.contains(n)));
        let processes = all.filter_map(|pid| Some((pid, started(pid)?))).collect();
        let supervisor = tree.iter().find(|pid| command_line(**pid).contains("stage supervise"));
        let supervisor = *supervisor.expect("the cluster has a supervisor");
        let cgroup = Path::new("weft-cluster").join(folder.file_name().unwrap());
        Self { folder, cgroup, processes, supervisor }
    }

    /// `kill -9`.
    pub(crate) fn kill_supervisor(&self) {
        let killed = Command::new("kill").args(["-KILL", &self.supervisor.to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Those of its processes that still run.
    pub(crate) fn processes(&self) -> Vec<String> {
        let alive = self.processes.iter().filter(|(pid, then)| started(*pid) == Some(*then));
        alive.map(|(pid, _)| format!("{pid} {}", command_line(*pid))).collect()
    }

    /// The cluster's group in every hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|e| e.path());
        let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|h| h.join(&self.cgroup));
        all.filter(|group| group.exists()).collect()
    }

    /// Mounts of the cluster's files, in whichever mount namespace.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let tables =
            pids().into_iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok());
        let lines: BTreeSet<String> =
            tables.flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.into_iter().filter(|line| line.contains(&folder)).collect()
    }
}

fn pids() -> Vec<u32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn namespaces(pid: u32) -> Vec<String> {
    let link = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let links = ["net", "mnt", "pid", "ipc", "uts"].into_iter().filter_map(link);
    links.map(|l| l.display().to_string()).collect()
}

fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .replace('\0', " ")
        .trim()
        .to_owned()
}

fn descends(mut pid: u32, from: u32) -> bool {
    while pid > 1 {
        if pid == from {
            return true;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        pid = after.split(' ').nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    }
    false
}
