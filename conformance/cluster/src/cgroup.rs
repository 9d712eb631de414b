//! The cluster's part of the machine's cgroup tree: the one thing that the kernel does not remove with the namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Makes a group in every hierarchy, with every controller in force below it.
pub(crate) fn create(group: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut folder = hierarchy.clone();
        for part in group {
            inherit(&folder);
            let parent = folder.clone();
            folder.push(part);
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
            // Version 1's cpuset begins without any processor.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if fs::read_to_string(folder.join(file)).is_ok_and(|text| text.trim().is_empty()) {
                    fs::write(folder.join(file), fs::read(parent.join(file))?)?;
                }
            }
        }
        inherit(&folder);
    }
    Ok(())
}

/// Version 2: what a group has, its children have too.
fn inherit(folder: &Path) {
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One may be forbidden to children, and is then not needed.
        let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Removes a group with all groups below it from every hierarchy. Its processes have ended already.
pub(crate) fn remove(group: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(group);
        // A process that has just ended may be counted for a moment longer.
        let mut patience = 100u32;
        while let Err(error) = remove_tree(&folder) {
            patience = patience.saturating_sub(1);
            if patience == 0 {
                bail!("cannot remove the cgroup {}: {error}", folder.display());
            }
            sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Removes the group above this one, if nothing else is in it.
pub(crate) fn remove_parent_if_empty(group: &Path) -> Result<()> {
    for hierarchy in hierarchies()? {
        if let Some(parent) = group.parent() {
            let _ = fs::remove_dir(hierarchy.join(parent));
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// Where cgroup file systems are mounted, of either version.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(place))
    });
    Ok(mounts.collect())
}
