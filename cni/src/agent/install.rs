//! Puts the CNI plugin in place on this node and keeps it there: the binary in the folder of plugins, and an entry at
//! the end of the configuration that the container runtime takes. Looks again whenever the folders change and at
//! intervals, since the cluster's own CNI rewrites its file as it likes.
//!
//! When the agent ends everything stays: pods that are to be in the mesh do not start without it.

mod binary;
mod conflist;
mod json;
mod plan;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use tokio::sync::{Notify, watch};

use super::config::Config;
use super::members::blocking;
use super::pods::{Pods, Table};
use crate::files;
use binary::Binary;
use conflist::Entry;
use plan::{Files, Plan};

/// How often the folders are looked at when nothing is heard of them.
const INTERVAL: Duration = Duration::from_secs(5);
/// Whoever writes a file has this long to finish before it is read.
const SETTLE: Duration = Duration::from_millis(100);
/// The largest configuration that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Whether the plugin is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Installed {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// By this file; or, with an empty name, not by this agent.
    Yes(String),
    /// For this reason.
    No(String),
    /// Taken away, because Weft is being uninstalled.
    Removed,
}

impl Installed {
    /// Somebody else installs it.
    pub(super) const fn elsewhere() -> Self {
        Self::Yes(String::new())
    }
}

/// What is installed where.
#[derive(Debug)]
pub(super) struct Installer {
    binary: Binary,
    conf_dir: PathBuf,
    entry: Entry,
}

impl Installer {
    /// As configured; `None`: somebody else installs the plugin.
    pub(super) fn new(config: &Config) -> Option<Self> {
        let install = &config.install;
        let (bin_dir, conf_dir) = (install.cni_bin_dir.as_ref()?, install.cni_conf_dir.clone()?);
        let exempt = config.exempt();
        let exempt: Vec<&str> = exempt.names().collect();
        let socket = config.runtime_dir.join("cni.sock").display().to_string();
        let entry = Entry::new(&socket, install.cni_timeout, &exempt, &install.cni_log_file);
        Some(Self { binary: Binary::new(&install.cni_plugin, bin_dir), conf_dir, entry })
    }

    /// Puts in place what is not. The name of the file that has the entry.
    fn pass(&mut self) -> io::Result<String> {
        // First, so that the runtime is never told of a plugin that is not there.
        self.binary.install()?;
        let files = read(&self.conf_dir)?;
        let (plan, outcome) = plan::chain(&files, &self.entry);
        carry_out(&self.conf_dir, &files, &plan)?;
        let name = outcome.map_err(io::Error::other)?;
        if plan.write.contains_key(&name) {
            tracing::info!(file = %self.conf_dir.join(&name).display(), "chained weft-cni");
        }
        Ok(name)
    }

    /// Takes everything away again.
    ///
    /// # Errors
    /// When a file cannot be changed; what comes after it is then still there.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        let files = read(&self.conf_dir)?;
        let plan = plan::unchain(&files);
        carry_out(&self.conf_dir, &files, &plan)?;
        // Last: the runtime may still be reading the list from before.
        self.binary.remove()
    }
}

/// Keeps the plugin in place, and tells how it stands, until the agent ends; while Weft is being uninstalled keeps it
/// away.
pub(super) async fn run(mut installer: Installer, state: &watch::Sender<Installed>, mut pods: Pods) {
    let bell = Arc::new(Notify::new());
    let mut watcher = Watched::default();
    // An agent that starts during an uninstallation must not begin by installing.
    if pods.wait_for(Option::is_some).await.is_err() {
        return;
    }
    loop {
        let leaving = is_leaving(&pods);
        watcher.follow([&installer.conf_dir, installer.binary.folder()], &bell);
        let done = blocking(move || {
            let outcome = if leaving {
                installer.remove().map(|()| Installed::Removed)
            } else {
                installer.pass().map(Installed::Yes)
            };
            (installer, outcome)
        });
        let Ok((back, outcome)) = done.await else { return };
        installer = back;
        tell(state, outcome);
        tokio::select! {
            () = bell.notified() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(INTERVAL) => {}
            // The table changes often, and mostly this does not.
            () = until(&mut pods, !leaving) => {}
        }
    }
}

fn is_leaving(pods: &Pods) -> bool {
    pods.borrow().as_ref().is_some_and(|table| table.leaving)
}

async fn until(pods: &mut Pods, leaving: bool) {
    let wanted = |table: &Option<Arc<Table>>| table.as_ref().is_some_and(|table| table.leaving) == leaving;
    let ended = pods.wait_for(wanted).await.is_err();
    if ended {
        // The agent is ending.
        std::future::pending().await
    }
}

fn tell(state: &watch::Sender<Installed>, outcome: io::Result<Installed>) {
    let now = outcome.unwrap_or_else(|error| Installed::No(error.to_string()));
    state.send_if_modified(|known| {
        let news = *known != now;
        match &now {
            Installed::No(problem) if news => tracing::error!(problem, "weft-cni is not installed"),
            _ => {}
        }
        *known = now;
        news
    });
}

/// The folders that are watched, as they were when the watch began.
#[derive(Default)]
struct Watched {
    watcher: Option<notify::RecommendedWatcher>,
    folders: Vec<(PathBuf, Option<u64>)>,
}

impl Watched {
    /// Watches these folders, anew if one of them is another one now. Without a watch the interval has to do.
    fn follow(&mut self, folders: [&Path; 2], bell: &Arc<Notify>) {
        let inode = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.ino());
        let now: Vec<_> = folders.iter().map(|path| (path.to_path_buf(), inode(path))).collect();
        if self.watcher.is_some() && now == self.folders {
            return;
        }
        let bell = Arc::clone(bell);
        let watching = notify::recommended_watcher(move |_| bell.notify_one()).and_then(|mut watcher| {
            for folder in folders {
                watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => *self = Self { watcher: Some(watcher), folders: now },
            Err(error) => {
                tracing::debug!(%error, "a CNI folder cannot be watched; looking at intervals");
                *self = Self::default();
            }
        }
    }
}

/// The files that a container runtime looks at.
fn read(folder: &Path) -> io::Result<Files> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    let mut found = Files::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        let entry = entry.map_err(told)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !plan::is_configuration(&name) {
            continue;
        }
        let small = fs::metadata(entry.path()).is_ok_and(|file| file.is_file() && file.len() <= LARGEST);
        let text = if small { fs::read_to_string(entry.path()).ok() } else { None };
        found.insert(name, text);
    }
    Ok(found)
}

/// Changes the files, unless somebody else has changed them since they were read.
fn carry_out(folder: &Path, files: &Files, plan: &Plan) -> io::Result<()> {
    for (name, text) in &plan.write {
        let path = folder.join(name);
        let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let before = files.get(name).cloned().flatten();
        let mode = fs::metadata(&path).map_or(0o644, |metadata| metadata.mode() & 0o777);
        let still = || Ok(fs::read_to_string(&path).ok() == before);
        if !files::replace_if(&path, text.as_bytes(), mode, still).map_err(told)? {
            return Err(told(io::Error::other("it is being changed by somebody else; trying again")));
        }
    }
    for name in &plan.remove {
        fs::remove_file(folder.join(name))?;
        tracing::info!(file = %folder.join(name).display(), "removed a list of our own");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
