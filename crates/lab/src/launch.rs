//! A process in its place: network namespace, mounts, host name, environment. The description is
//! a JSON file; `weft lab launch FILE` (this binary again) steps into it and becomes the program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::rootfs;

/// Where and how to start one program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// Network namespace to enter.
    pub(crate) netns: Option<PathBuf>,
    /// Enter the mount, UTS and network namespaces of this process instead (pid inside the lab).
    pub(crate) join: Option<i32>,
    /// A container's own root filesystem.
    pub(crate) rootfs: Option<rootfs::Rootfs>,
    /// Plain bind mounts in a private mount namespace, for the nodes' own daemons.
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
    pub(crate) hostname: Option<String>,
    pub(crate) workdir: Option<PathBuf>,
    /// The whole environment; nothing is inherited.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) argv: Vec<String>,
    /// Start a new session, so that signals to the starter's terminal do not arrive.
    pub(crate) session: bool,
}

/// What every program finds in `PATH`.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Launch {
    /// Runs in the lab's own network namespace, with nothing but a search path.
    pub(crate) fn program(argv: Vec<String>) -> Self {
        let env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        Self { argv, env, ..Self::default() }
    }

    /// Runs in a node's network namespace with `binds`, as the nodes' daemons and CNI plugins do.
    pub(crate) fn on_node(netns: PathBuf, binds: Vec<(PathBuf, PathBuf)>, argv: Vec<String>) -> Self {
        Self { netns: Some(netns), binds, ..Self::program(argv) }
    }

    /// The command that starts this binary again with the description on its command line.
    pub(crate) fn command(&self, exe: &Path) -> Result<Command> {
        let mut command = Command::new(exe);
        command.args(["lab", "launch"]).arg(serde_json::to_string(self)?);
        Ok(command)
    }

    /// Steps into the described place and becomes the program; returns only on failure.
    pub(crate) fn exec(self) -> Result<std::convert::Infallible> {
        // With the starter gone nobody would stop this program.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        weft_runtime::init::unblock_signals()?;
        if self.session {
            nix::unistd::setsid().context("cannot start a session")?;
        }
        match self.join {
            Some(pid) => join(pid)?,
            None => self.enter()?,
        }
        let workdir = self.workdir.as_deref().unwrap_or_else(|| Path::new("/"));
        std::env::set_current_dir(workdir)
            .with_context(|| format!("workingDir {} cannot be entered", workdir.display()))?;
        let Some((program, args)) = self.argv.split_first() else { bail!("no command given") };
        let path = self.env.get("PATH").map_or(PATH, String::as_str);
        let found = find_program(program, path).ok_or_else(|| {
            anyhow!(
                "program {program:?} is not on this machine (PATH {path}): install it or correct the command"
            )
        })?;
        let error = Command::new(found).arg0(program).args(args).env_clear().envs(&self.env).exec();
        Err(error).with_context(|| format!("cannot run {program:?}"))
    }

    fn enter(&self) -> Result<()> {
        let mut flags = CloneFlags::CLONE_NEWNS;
        if self.hostname.is_some() {
            flags |= CloneFlags::CLONE_NEWUTS;
        }
        unshare(flags).context("cannot make a mount namespace")?;
        if let Some(netns) = &self.netns {
            let file =
                File::open(netns).with_context(|| format!("no network namespace {}", netns.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET)?;
        }
        // Slave: namespaces that the lab mounts later appear here too, and vanish when it unmounts them.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
        for (source, target) in &self.binds {
            if !source.is_file() {
                std::fs::create_dir_all(source)?;
                std::fs::create_dir_all(target)?;
            }
            rootfs::bind(source, target)?;
        }
        if let Some(name) = &self.hostname {
            nix::unistd::sethostname(name)?;
        }
        if let Some(root) = &self.rootfs {
            root.enter()?;
        }
        Ok(())
    }
}

fn join(pid: i32) -> Result<()> {
    let open = |kind: &str| {
        File::open(format!("/proc/{pid}/ns/{kind}")).with_context(|| format!("process {pid} has ended"))
    };
    let (net, uts, mnt) = (open("net")?, open("uts")?, open("mnt")?);
    setns(net, CloneFlags::CLONE_NEWNET)?;
    setns(uts, CloneFlags::CLONE_NEWUTS)?;
    setns(mnt, CloneFlags::CLONE_NEWNS)?;
    Ok(())
}

/// The program's path as a shell would find it.
pub(crate) fn find_program(program: &str, path: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Path::new(program).exists().then(|| PathBuf::from(program));
    }
    std::env::split_paths(OsStr::new(path)).map(|dir| dir.join(program)).find(|p| p.is_file())
}
