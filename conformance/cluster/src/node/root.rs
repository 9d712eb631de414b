//! A node's root filesystem: the machine's own, copy on write in memory, with folders of the node's own where real nodes
//! differ from each other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::config::{Config, HOST_V4, Node};
use crate::stage::fresh_sys;

/// Where the node finds the archive of images that the cluster itself needs.
pub(crate) const BASE_IMAGES: &str = "/etc/kubernetes/base-images.tar";

/// Settings of the whole machine that the kubelet would change, with the values that it wants to see. It finds them in files
/// of the node's own, and leaves the machine alone.
const KUBELET_SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What of the machine may be mounted apart from its root, and is needed.
const PROGRAMS: [&str; 6] = ["/usr", "/etc", "/opt", "/lib", "/bin", "/sbin"];

/// Builds the root and makes it this process's `/`. The caller has its own mount and PID namespace.
pub(crate) fn enter(config: &Config, node: Node) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let folder = config.state.node(node);
    let root = overlay(&folder.join("layer"))?;
    for place in mounted_apart()? {
        bind(&place, &root.join(place.strip_prefix("/").unwrap_or(&place)))?;
    }
    kernel_filesystems(&root)?;
    let binds = [
        ("var-lib", "var/lib"),
        ("var-log", "var/log"),
        ("etc-cni", "etc/cni"),
        ("opt-cni-bin", "opt/cni/bin"),
        ("etc-kubernetes", "etc/kubernetes"),
    ];
    for (from, to) in binds {
        let target = root.join(to);
        fs::create_dir_all(&target)?;
        bind(&folder.join(from), &target)?;
    }
    bind_file(&config.artefacts.kube, &root.join("usr/local/bin/kube"))?;
    for name in ["kubelet", "kube-proxy", "kubectl"] {
        let link = root.join("usr/local/bin").join(name);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("kube", link)?;
    }
    bind_file(&base_images(config), &root.join(BASE_IMAGES.trim_start_matches('/')))?;
    own_etc(&root, config, node)?;
    std::env::set_current_dir(&root)?;
    nix::unistd::pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")?;
    // What a privileged pod mounts below a hostPath with bidirectional propagation has to reach the node.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    Ok(())
}

/// The archive of images that every node begins with.
pub(crate) fn base_images(config: &Config) -> PathBuf {
    config.state.work().join("base-images.tar")
}

/// The machine's root, with a writable layer in memory.
fn overlay(layer: &Path) -> Result<PathBuf> {
    let none = None::<&str>;
    mount(Some("tmpfs"), layer, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    let [root, upper, work] = ["root", "upper", "work"].map(|name| layer.join(name));
    for folder in [&root, &upper, &work] {
        fs::create_dir(folder)?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("cannot mount an overlay over the machine's root")?;
    mount(none, &root, none, MsFlags::MS_PRIVATE, none)?;
    Ok(root)
}

/// Mount points of the machine that hold programs: an overlay does not look into other mounts.
fn mounted_apart() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    Ok(places.filter(|place| PROGRAMS.iter().any(|p| place.starts_with(p)) && place.is_dir()).collect())
}

fn kernel_filesystems(root: &Path) -> Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &root.join("proc"), Some("proc"), flags, none)?;
    fresh_sys(&root.join("sys"))?;
    bind(Path::new("/dev"), &root.join("dev"))?;
    for (place, mode) in [("run", "mode=755"), ("tmp", "mode=1777")] {
        mount(Some("tmpfs"), &root.join(place), Some("tmpfs"), MsFlags::empty(), Some(mode))?;
    }
    let own = root.join("run/weft-cluster-sysctl");
    fs::create_dir(&own)?;
    for (name, value) in KUBELET_SYSCTLS {
        let target = root.join("proc/sys").join(name);
        if target.exists() {
            let file = own.join(name.replace('/', "."));
            fs::write(&file, format!("{value}\n"))?;
            bind(&file, &target)?;
        }
    }
    Ok(())
}

/// The few files of `/etc` that name the machine. Nothing outside the cluster can be reached, so no DNS server either.
fn own_etc(root: &Path, config: &Config, node: Node) -> Result<()> {
    let mut hosts = format!("127.0.0.1 localhost\n::1 localhost\n{HOST_V4} host\n");
    for other in config.all_nodes() {
        for address in other.addresses(config.dual_stack) {
            hosts += &format!("{address} {}\n", other.name());
        }
    }
    let files =
        [("hosts", hosts), ("hostname", format!("{}\n", node.name())), ("resolv.conf", String::new())];
    for (name, content) in files {
        let file = root.join("etc").join(name);
        // May be a link to somewhere in the machine's /run.
        let _ = fs::remove_file(&file);
        fs::write(&file, content).with_context(|| format!("cannot write /etc/{name}"))?;
    }
    Ok(())
}

fn bind_file(source: &Path, target: &Path) -> Result<()> {
    if !target.exists() {
        fs::write(target, "")?;
    }
    bind(source, target)
}

/// Bind-mounts `source` and what is mounted below it.
fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot mount {} at {}", source.display(), target.display()))
}
