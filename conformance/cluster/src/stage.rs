//! From the caller's namespaces into the cluster's own, in three steps of this same program: `start` unshares and leaves,
//! `init` is process 1 inside, `supervise` does the work. When process 1 ends, for whatever reason, the kernel ends
//! everything below it, the nodes' own namespaces included.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use weft_runtime::process::start_apart;

use crate::config::Config;

const KERNEL: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Unshares, starts process 1 of the cluster and prints its pid as the caller sees it.
pub(crate) fn start(config: &Config) -> Result<()> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .context("cannot make namespaces: run as root")?;
    // As many open files as this user may have, since nodes and pods inherit it: a login often begins with 1024.
    let mut init = Command::new("sh");
    init.args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#])
        .arg(std::env::current_exe()?)
        .args(["stage", "init"])
        .arg(config.state.config());
    let pid = start_apart(&mut init, &config.state.logs().join("cluster.log"))
        .context("cannot start the cluster's first process")?;
    // The new /proc does not know this number; the starter's does.
    println!("{pid}");
    Ok(())
}

/// Process 1.
pub(crate) fn init(config: &Config, config_file: &Path) -> Result<u8> {
    nix::unistd::setsid().context("cannot start a session")?;
    prepare_mounts(config).context("cannot prepare the cluster's mounts")?;
    nix::unistd::sethostname(format!("weft-cluster-{}", config.name))?;
    Ok(weft_runtime::init::run(Command::new("/proc/self/exe").args(["stage", "supervise"]).arg(config_file))?)
}

/// A private view of the machine: own `/proc`, own `/sys`, an empty `/run`.
fn prepare_mounts(config: &Config) -> Result<()> {
    if config.state.0.starts_with("/run") {
        bail!("{} is in /run, which the cluster hides: set XDG_CACHE_HOME", config.state.0.display());
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), KERNEL, none).context("cannot mount /proc")?;
    fresh_sys(Path::new("/sys"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    fs::create_dir_all("/run/netns")?;
    Ok(())
}

/// Mounts a sysfs that shows this network namespace's devices, with the cgroup mounts of the old `/sys` in it: without them
/// the kubelet does not start.
pub(crate) fn fresh_sys(target: &Path) -> Result<()> {
    let none = None::<&str>;
    let cgroups = fs::File::open("/sys/fs/cgroup").context("the machine has no /sys/fs/cgroup")?;
    mount(Some("sysfs"), target, Some("sysfs"), KERNEL, none).context("cannot mount /sys")?;
    let hidden = format!("/proc/self/fd/{}", cgroups.as_raw_fd());
    let place = target.join("fs/cgroup");
    mount(Some(hidden.as_str()), &place, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .context("cannot mount /sys/fs/cgroup")
}
