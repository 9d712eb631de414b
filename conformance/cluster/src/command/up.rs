//! `up` and `down`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

use super::Which;
use crate::artefacts::Artefacts;
use crate::cgroup;
use crate::config::{CNI_PLUGINS, Channel, Config, State, cache};
use crate::enter;
use crate::report::{Phase, Report};

/// What a cluster needs of the machine: a file, and the Debian package that brings it.
const NEEDS: [(&str, &str); 8] = [
    ("/usr/bin/containerd", "containerd"),
    ("/usr/bin/ctr", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/bin/etcd", "etcd-server"),
    (CNI_PLUGINS, "containernetworking-plugins"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
];

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    which: Which,
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,
    /// Which of the Gateway API's CRDs to apply, with their admission policy.
    #[arg(long, value_enum, default_value_t = Channel::Experimental)]
    crds: Channel,
    /// IPv6 beside IPv4, for nodes, pods and Services.
    #[arg(long)]
    dual_stack: bool,
    /// A taint that every node has from its start: KEY[=VALUE]:EFFECT. May be given several times.
    #[arg(long = "taint", value_name = "TAINT")]
    taints: Vec<String>,
    /// How long to wait until everything is ready, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct Down {
    #[command(flatten)]
    which: Which,
}

impl Up {
    pub(super) fn run(self) -> Result<u8> {
        if !getuid().is_root() {
            bail!("a cluster needs root: kubelets and containerd do");
        }
        check_machine()?;
        let state = State::locate(&self.which.name);
        // Before the lock, since it may take minutes.
        let artefacts = Artefacts::obtain(self.crds)?;
        let lock = lock()?;
        if weft_runtime::process::running(&state.pid()).is_some() {
            drop(lock);
            println!("Cluster {:?} is up already.", self.which.name);
            return self.same_as(&enter::read_config(&state.config())?);
        }
        sweep()?;
        let config = Config {
            name: self.which.name.clone(),
            nodes: self.nodes,
            crds: self.crds,
            dual_stack: self.dual_stack,
            taints: self.taints.clone(),
            artefacts,
            state,
        };
        claim(&config)?;
        let start = Instant::now();
        println!("== bringing up cluster {:?} with {} nodes", config.name, config.nodes);
        let outcome = start_first(&config).and_then(|()| {
            drop(lock);
            self.wait(&config, start)
        });
        if let Err(error) = outcome {
            // Its logs stay, until the next `up` or `down`.
            end(&config.state, &config.name)?;
            return Err(error.context(format!("the cluster's logs are in {}", config.state.logs().display())));
        }
        println!("Cluster {:?} is up after {} s.", config.name, start.elapsed().as_secs());
        Ok(0)
    }

    /// A cluster that is up is as good as a new one, if it is what was asked for.
    fn same_as(&self, there: &Config) -> Result<u8> {
        let asked = (self.nodes, self.crds, self.dual_stack, &self.taints);
        if asked != (there.nodes, there.crds, there.dual_stack, &there.taints) {
            bail!(
                "it was started with other options: take it down first (cargo xtask cluster down --name {0}), or choose another --name",
                there.name
            );
        }
        self.wait(there, Instant::now()).map(|()| 0)
    }

    /// Prints progress until everything is ready, or the time is over.
    fn wait(&self, config: &Config, start: Instant) -> Result<()> {
        let mut shown = 0;
        loop {
            let alive = weft_runtime::process::running(&config.state.pid()).is_some();
            let report = Report::read(&config.state.report()).unwrap_or_default();
            for step in report.steps.iter().skip(shown) {
                println!("   {:>3} s: {step}", start.elapsed().as_secs());
            }
            shown = report.steps.len();
            match report.phase {
                Phase::Running => return Ok(()),
                Phase::Failed(reason) => bail!("{reason}"),
                Phase::Starting if !alive => {
                    let log = fs::read_to_string(config.state.logs().join("cluster.log")).unwrap_or_default();
                    bail!("the cluster ended while starting: {}", log.trim());
                }
                Phase::Starting => {}
            }
            if start.elapsed() > Duration::from_secs(self.timeout) {
                bail!("not everything was ready after {} s", self.timeout);
            }
            sleep(Duration::from_millis(100));
        }
    }
}

impl Down {
    pub(super) fn run(self) -> Result<u8> {
        let state = State::locate(&self.which.name);
        let _lock = lock()?;
        if !state.folder().exists() {
            println!("There is no cluster named {:?}.", self.which.name);
            return Ok(0);
        }
        end(&state, &self.which.name)?;
        forget(&state)?;
        println!("Cluster {:?} is down.", self.which.name);
        Ok(0)
    }
}

/// Held while a cluster is claimed or removed: two commands for one name would remove each other's files.
fn lock() -> Result<Flock<fs::File>> {
    let folder = cache().join("cluster");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Flock::lock(fs::File::create(folder.join(".lock"))?, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", folder.display()))
}

/// Removes the control groups of clusters that ended by themselves. Their files stay for who wants to know why. The caller has
/// the lock, so that none of them is just beginning.
fn sweep() -> Result<()> {
    for state in State::all() {
        let name = state.folder().file_name().unwrap_or_default().to_string_lossy().into_owned();
        if weft_runtime::process::running(&state.pid()).is_none() {
            let group = Config::cgroup_of(&name);
            cgroup::remove(&group)?;
            cgroup::remove_parent_if_empty(&group)?;
        }
    }
    Ok(())
}

fn check_machine() -> Result<()> {
    let there = |file: &str| {
        let file = Path::new(file);
        file.exists() || file.strip_prefix("/usr").is_ok_and(|rest| Path::new("/").join(rest).exists())
    };
    let missing: Vec<&str> =
        NEEDS.iter().filter(|(file, _)| !there(file)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        bail!("Debian packages are missing, `cargo xtask setup` installs them: {}", missing.join(" "));
    }
    Ok(())
}

/// The state folder is ours. What an earlier cluster of this name left goes first.
fn claim(config: &Config) -> Result<()> {
    let state = &config.state;
    if state.folder().exists() {
        println!("== removing what an earlier cluster named {:?} left", config.name);
        end(state, &config.name)?;
        forget(state)?;
    }
    fs::create_dir(state.folder()).with_context(|| format!("cannot make {}", state.folder().display()))?;
    for folder in [state.logs(), state.work()] {
        fs::create_dir(folder)?;
    }
    Ok(weft_runtime::process::write_atomic(&state.config(), &serde_json::to_vec_pretty(config)?)?)
}

fn start_first(config: &Config) -> Result<()> {
    let out = Command::new(std::env::current_exe()?)
        .args(["stage", "start"])
        .arg(config.state.config())
        .output()?;
    if !out.status.success() {
        bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let pid: u32 = String::from_utf8_lossy(&out.stdout)
        .trim()
        .parse()
        .context("the cluster did not say its process id")?;
    Ok(weft_runtime::process::remember(&config.state.pid(), pid)?)
}

/// Ends a cluster's process 1, waits until the kernel has ended everything below it, and removes what is not bound to
/// processes.
fn end(state: &State, name: &str) -> Result<()> {
    if let Some(pid) = weft_runtime::process::running(&state.pid()) {
        // Nothing in there needs a good-bye, and the API server takes more than a minute for one.
        let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
        wait_for_end(pid)?;
    }
    let group = Config::cgroup_of(name);
    cgroup::remove(&group)?;
    cgroup::remove_parent_if_empty(&group)
}

/// The entry stays until the last process of the namespace is gone.
fn wait_for_end(pid: u32) -> Result<()> {
    for _ in 0..600 {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    bail!("process {pid} of the cluster does not end")
}

fn forget(state: &State) -> Result<()> {
    fs::remove_dir_all(state.folder()).with_context(|| format!("cannot remove {}", state.folder().display()))
}
