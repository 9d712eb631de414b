//! A container's root filesystem: the machine's own, copy on write. What a container writes goes
//! to memory of the lab and is gone with it; `/run` is its own; volumes are mounted on top.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

/// The description of one container's root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rootfs {
    /// Empty folder on the lab's own tmpfs, for the writable layers.
    pub(crate) layer: PathBuf,
    /// What is mounted over the machine's filesystem.
    pub(crate) volumes: Vec<Volume>,
    /// Overlays in a user namespace keep their marks in user xattrs.
    pub(crate) userxattr: bool,
}

/// One mounted volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// File or folder.
    pub(crate) source: PathBuf,
    /// Absolute path in the container.
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// Not part of what a program may see of the machine, or made anew.
const LEFT_OUT: [&str; 5] = ["proc", "sys", "dev", "run", "lost+found"];

impl Rootfs {
    /// Builds the root and makes it this process's `/`. The caller has its own mount namespace.
    pub(crate) fn enter(&self) -> Result<()> {
        let root = self.layer.join("root");
        fs::create_dir_all(&root)?;
        mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
            .context("cannot mount the container's root")?;
        let mounted = mount_points()?;
        for entry in fs::read_dir("/")? {
            let entry = entry?;
            let name = entry.file_name();
            if LEFT_OUT.iter().any(|n| name == *n) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(entry.path())?, root.join(&name))?;
            } else if kind.is_dir() {
                self.top_level(&root, &entry.path(), name, &mounted)?;
            }
        }
        kernel_filesystems(&root)?;
        for volume in &self.volumes {
            volume
                .mount(&root)
                .with_context(|| format!("cannot mount a volume at {}", volume.target.display()))?;
        }
        std::env::set_current_dir(&root)?;
        nix::unistd::pivot_root(".", ".").context("cannot change the root")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        std::env::set_current_dir("/")?;
        Ok(())
    }

    fn top_level(&self, root: &Path, source: &Path, name: OsString, mounted: &[PathBuf]) -> Result<()> {
        let target = root.join(&name);
        fs::create_dir(&target)?;
        // The kernel refuses an overlay over a tree with mounts in it in a user namespace.
        if !mounted.iter().any(|m| m != source && m.starts_with(source)) {
            let (upper, work) = (self.layer.join("upper").join(&name), self.layer.join("work").join(&name));
            fs::create_dir_all(&upper)?;
            fs::create_dir_all(&work)?;
            copy_mode(source, &upper);
            self.prepare_mount_points(source, &upper)?;
            let options = format!(
                "lowerdir={},upperdir={},workdir={}{}",
                source.display(),
                upper.display(),
                work.display(),
                if self.userxattr { ",userxattr" } else { "" },
            );
            let flags = MsFlags::empty();
            if mount(Some("overlay"), &target, Some("overlay"), flags, Some(options.as_str())).is_ok() {
                return Ok(());
            }
        }
        bind(source, &target)
    }
}

impl Rootfs {
    /// Makes volumes' missing folders in the writable layer while it is ours alone: without root,
    /// nobody may make one in a folder of the machine that belongs to another user.
    fn prepare_mount_points(&self, source: &Path, upper: &Path) -> Result<()> {
        for volume in self.volumes.iter().filter(|v| v.source.is_dir() && v.target.starts_with(source)) {
            let Some(existing) = volume.target.ancestors().find(|a| a.exists()) else { continue };
            // Links on the way would be hidden by folders of the same name.
            if existing == volume.target || fs::canonicalize(existing).ok().as_deref() != Some(existing) {
                continue;
            }
            let mut path = PathBuf::from("/");
            for part in volume.target.components().skip(1) {
                path.push(part);
                let Ok(relative) = path.strip_prefix(source) else { continue };
                let made = upper.join(relative);
                if !made.exists() {
                    fs::create_dir(&made)?;
                    copy_mode(&path, &made);
                }
            }
        }
        Ok(())
    }
}

/// The upper folder's mode shows at the mount point.
fn copy_mode(from: &Path, to: &Path) {
    if let Ok(meta) = fs::metadata(from) {
        let _ = fs::set_permissions(to, meta.permissions());
    }
}

impl Volume {
    fn mount(&self, root: &Path) -> Result<()> {
        // A link such as /etc/resolv.conf → /run/… or /var/run → /run is followed inside the new root.
        let target = root.join(inside(root, &self.target));
        if self.source.is_dir() {
            fs::create_dir_all(&target)?;
        } else if !target.exists() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&target, "")?;
        }
        bind(&self.source, &target)?;
        if self.read_only {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, &target, None::<&str>, flags, None::<&str>)?;
        }
        Ok(())
    }
}

/// Where a path is below a root, without the leading slash: links on the way are followed as if the root were `/`.
fn inside(root: &Path, path: &Path) -> PathBuf {
    // As many as the kernel follows.
    let mut links = 40_u8;
    let parts = |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let mut rest: Vec<OsString> = parts(path);
    let mut done = PathBuf::new();
    while let Some(part) = rest.pop() {
        match part.to_str() {
            Some("/") => done.clear(),
            Some(".") => {}
            Some("..") => drop(done.pop()),
            _ => {
                done.push(part);
                if let (Ok(link), Some(left)) = (fs::read_link(root.join(&done)), links.checked_sub(1)) {
                    links = left;
                    done.pop();
                    rest.extend(parts(&link));
                }
            }
        }
    }
    done
}

fn kernel_filesystems(root: &Path) -> Result<()> {
    for name in ["proc", "dev", "sys", "run"] {
        fs::create_dir_all(root.join(name))?;
    }
    bind(Path::new("/proc"), &root.join("proc"))?;
    devices(&root.join("dev"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    // A fresh sysfs shows the pod's own network devices; some sandboxes forbid it.
    if mount(Some("sysfs"), &root.join("sys"), Some("sysfs"), flags, None::<&str>).is_err() {
        bind(Path::new("/sys"), &root.join("sys"))?;
    }
    let run = root.join("run");
    mount(Some("tmpfs"), &run, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    fs::create_dir_all(run.join("lock"))?;
    Ok(())
}

/// The devices that every container has. In a folder of its own: a program that removes `/dev/null`, as nginx does with
/// `pid /dev/null`, must not remove the machine's.
fn devices(dev: &Path) -> Result<()> {
    mount(Some("tmpfs"), dev, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let source = Path::new("/dev").join(name);
        if source.exists() {
            fs::File::create(dev.join(name))?;
            bind(&source, &dev.join(name))?;
        }
    }
    fs::create_dir(dev.join("shm"))?;
    mount(Some("tmpfs"), &dev.join("shm"), Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))?;
    if Path::new("/dev/pts").exists() {
        fs::create_dir(dev.join("pts"))?;
        bind(Path::new("/dev/pts"), &dev.join("pts"))?;
    }
    let links = [("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")];
    for (name, to) in links.into_iter().chain([("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")])
    {
        std::os::unix::fs::symlink(to, dev.join(name))?;
    }
    Ok(())
}

/// Bind-mounts `source` and what is mounted below it.
pub(crate) fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot mount {} at {}", source.display(), target.display()))
}

fn mount_points() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    Ok(table.lines().filter_map(|l| l.split(' ').nth(1)).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_inside_the_new_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::create_dir_all(root.path().join("var")).unwrap();
        for (link, to) in
            [("etc/resolv.conf", "../run/systemd/resolv.conf"), ("var/run", "/run"), ("loop", "loop")]
        {
            std::os::unix::fs::symlink(to, root.path().join(link)).unwrap();
        }
        let at = |path: &str| inside(root.path(), Path::new(path));
        assert_eq!(at("/etc/resolv.conf"), Path::new("run/systemd/resolv.conf"));
        assert_eq!(at("/var/run/secrets/weft"), Path::new("run/secrets/weft"));
        assert_eq!(at("/etc/../../run/./x"), Path::new("run/x"));
        assert_eq!(at("/loop/x"), Path::new("loop/x"));
    }
}
