//! From the caller's namespaces into the lab's own, in three steps of this same binary:
//! `start` unshares and leaves, `init` is process 1 inside and reaps, `supervise` does the work.
//! When process 1 ends, for whatever reason, the kernel ends everything below it.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::getppid;
use weft_runtime::process::start_apart;

use crate::config::LabConfig;
use crate::files;
use crate::uplink::Uplink;

/// Unshares, makes the link to the machine, starts process 1 of the lab and prints its pid as the caller sees it.
pub(crate) fn start(config: &LabConfig) -> Result<()> {
    let mut config = config.clone();
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if config.privileged {
        // First: what is started after the new PID namespace is made is its process 1.
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        config.uplink = Uplink::make(getppid().as_raw()).context("cannot link the lab to the machine")?;
        files::write_atomic(&config.state.config(), &serde_json::to_vec_pretty(&config)?)?;
    } else {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).context(
        "cannot make namespaces: run as root, or allow user namespaces \
         (sysctl user.max_user_namespaces > 0; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0)",
    )?;
    if !config.privileged {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", config.uid))?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", config.gid))?;
    }
    let mut init = Command::new(std::env::current_exe()?);
    init.args(["lab", "init"]).arg(config.state.config());
    let pid = start_apart(&mut init, &config.state.logs().join("lab.log"))
        .context("cannot start the lab's first process")?;
    // The new /proc does not know this number; the starter's does.
    println!("{pid}");
    Ok(())
}

/// Process 1: prepares the mounts, starts the supervisor and reaps until it ends.
pub(crate) fn init(config: &LabConfig, config_file: &Path) -> Result<u8> {
    nix::unistd::setsid().context("cannot start a session")?;
    prepare_mounts(config).context("cannot prepare the lab's mounts")?;
    nix::unistd::sethostname(format!("weft-lab-{}", config.name))?;
    Ok(weft_runtime::init::run(
        Command::new(std::env::current_exe()?).args(["lab", "supervise"]).arg(config_file),
    )?)
}

/// A private view of the machine: own `/proc`, an empty `/run` that holds only the lab's state.
fn prepare_mounts(config: &LabConfig) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )
    .context("cannot mount /proc (is this a container that hides parts of /proc?)")?;
    // ip and nft look at /sys of the namespace they are in; not fatal where forbidden.
    let _ = mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    );
    let state = fs::File::open(&config.state.0)?;
    let aside = fs::File::open(&config.bin_dir)?;
    let plugins = fs::File::open(&config.cni.plugins)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    for (path, handle) in
        [(&config.state.0, &state), (&config.bin_dir, &aside), (&config.cni.plugins, &plugins)]
    {
        if path.starts_with("/run") {
            fs::create_dir_all(path)?;
            let hidden = format!("/proc/self/fd/{}", handle.as_raw_fd());
            mount(Some(hidden.as_str()), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        }
    }
    fs::create_dir_all("/run/netns")?;
    fs::create_dir_all("/run/lab")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    Ok(())
}
