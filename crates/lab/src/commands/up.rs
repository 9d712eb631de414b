//! `weft lab up`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::unistd::{getgid, getuid};

use super::Which;
use super::down::{remove, stop};
use crate::apiserver::source;
use crate::config::{CniConfig, CniNetwork, LabConfig, State};
use crate::files;
use crate::kubelet::cni::{conflist, find_plugin, supported_versions};
use crate::launch::{PATH, find_program};
use crate::report::{LabReport, Phase};
use crate::uplink::Uplink;

/// There where the module br_netfilter is. As on every Kubernetes node: without it the answer of a Service's pod to
/// another pod of its node would not go back through the address translation.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct Up {
    #[command(flatten)]
    which: Which,
    /// Folder (or file) of Kubernetes YAML; edits take effect while the lab runs.
    #[arg(short = 'f', long = "folder", value_name = "FOLDER")]
    folder: PathBuf,
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=50))]
    nodes: u8,
    /// Where weft-agent, weft-cni, weft-controller and weft-proxy are [default: beside this program].
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Stay until Ctrl-C, then take the lab down.
    #[arg(long)]
    foreground: bool,
    /// Only the cluster: no Weft processes, no weft-cni.
    #[arg(long)]
    no_mesh: bool,
    #[command(flatten)]
    cni: Cni,
    /// How long to wait until everything is ready, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// How pods get their network.
#[derive(Debug, Args)]
struct Cni {
    /// Folder of the CNI plugins.
    #[arg(
        long = "cni-plugins",
        env = "WEFT_LAB_CNI_PLUGINS",
        value_name = "DIR",
        default_value = "/usr/lib/cni"
    )]
    plugins: PathBuf,
    /// The plugin that makes a pod's interface.
    #[arg(long = "cni-network", env = "WEFT_LAB_CNI_NETWORK", value_enum, default_value = "ptp")]
    network: CniNetwork,
    /// Version of the CNI spec; Debian's plugins know 1.0.0 at most.
    #[arg(long = "cni-version", env = "WEFT_LAB_CNI_VERSION", default_value = "1.0.0",
        value_parser = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])]
    version: String,
    /// Seconds between two rounds of CNI GC and CHECK.
    #[arg(long = "cni-upkeep", env = "WEFT_LAB_CNI_UPKEEP", value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..))]
    upkeep: u32,
}

impl Up {
    pub(super) fn run(self) -> Result<u8> {
        let config = self.config()?;
        check_programs(&config)?;
        report_broken_yaml(&config.folder)?;
        claim(&config)?;
        let outcome = self.start_and_wait(&config);
        if outcome.is_err() && files::running(&config.state).is_none() {
            remove(&config.state)?;
        }
        outcome
    }

    #[allow(clippy::disallowed_methods)]
    fn config(&self) -> Result<LabConfig> {
        let folder = fs::canonicalize(&self.folder)
            .with_context(|| format!("cannot read {}", self.folder.display()))?;
        let bin_dir = match &self.bin_dir {
            Some(dir) => fs::canonicalize(dir).with_context(|| format!("cannot read {}", dir.display()))?,
            None => std::env::current_exe()?.parent().unwrap_or_else(|| Path::new("/")).to_path_buf(),
        };
        let environment: BTreeMap<String, String> = std::env::vars()
            .filter(|(name, _)| name.starts_with("WEFT_") && !name.starts_with("WEFT_LAB_"))
            .collect();
        Ok(LabConfig {
            name: self.which.name.clone(),
            folder,
            nodes: self.nodes,
            bin_dir,
            state: self.which.state(),
            environment,
            mesh: !self.no_mesh,
            cni: CniConfig {
                plugins: fs::canonicalize(&self.cni.plugins).unwrap_or_else(|_| self.cni.plugins.clone()),
                network: self.cni.network,
                version: self.cni.version.clone(),
                upkeep: self.cni.upkeep,
            },
            ipv6: Path::new("/proc/net/if_inet6").exists(),
            uplink: Uplink::default(),
            privileged: getuid().is_root(),
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
        })
    }

    fn start_and_wait(&self, config: &LabConfig) -> Result<u8> {
        println!(
            "Starting lab {:?}: {} nodes, objects from {}",
            config.name,
            config.nodes,
            config.folder.display()
        );
        let out = Command::new(std::env::current_exe()?)
            .args(["lab", "start"])
            .arg(config.state.config())
            .output()?;
        if !out.status.success() {
            let told = String::from_utf8_lossy(&out.stderr);
            bail!("{}", told.trim().trim_start_matches("weft lab: "));
        }
        let pid: u32 = String::from_utf8_lossy(&out.stdout)
            .trim()
            .parse()
            .context("the lab did not say its process id")?;
        files::write_pid(&config.state, pid)?;
        let started = super::read_config(&config.state.config())?;
        if started.uplink.exists() {
            started.uplink.set_up_machine(config.ipv6).context("cannot set up the link to the lab")?;
        }
        let ready = self.wait(config)?;
        let (state, _, report) = self.which.running()?;
        for line in refusals(&report) {
            println!("{line}");
        }
        if !ready {
            println!(
                "\nNot everything is ready; the lab stays up. Look with `weft lab status{0}` and `weft lab logs POD{0}`.",
                self.which.flag()
            );
            if self.foreground {
                self.stay(&state)?;
            }
            return Ok(1);
        }
        println!("\nThe lab is up. Try:\n  weft lab status{0}", self.which.flag());
        if let Some(pod) = report.pods.first() {
            println!("  weft lab exec{} {}/{} -- hostname", self.which.flag(), pod.namespace, pod.name);
        }
        println!("  weft lab down{}", self.which.flag());
        if self.foreground {
            self.stay(&state)?;
        }
        Ok(0)
    }

    /// Prints progress until everything is ready, or the time is over.
    fn wait(&self, config: &LabConfig) -> Result<bool> {
        #[allow(clippy::disallowed_methods)]
        let end = Instant::now() + Duration::from_secs(self.timeout);
        let mut shown = BTreeSet::new();
        loop {
            let alive = files::running(&config.state).is_some();
            let report = LabReport::read(&config.state.report()).unwrap_or_default();
            if let Phase::Failed(reason) = &report.phase {
                bail!("{reason}");
            }
            if !alive {
                let log = fs::read_to_string(config.state.logs().join("lab.log")).unwrap_or_default();
                bail!("the lab ended while starting: {}", log.trim());
            }
            for pod in report.pods.iter().filter(|p| p.ready) {
                if shown.insert(pod.uid.clone()) {
                    println!(
                        "  {}/{} is ready on {} ({})",
                        pod.namespace,
                        pod.name,
                        pod.node,
                        pod.addresses.join(", ")
                    );
                }
            }
            if report.is_ready() {
                return Ok(true);
            }
            #[allow(clippy::disallowed_methods)]
            if Instant::now() >= end {
                println!("After {} s this is missing:", self.timeout);
                for line in report.missing() {
                    println!("  {line}");
                }
                return Ok(false);
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn stay(&self, state: &State) -> Result<()> {
        use nix::sys::signal::{SigSet, Signal};
        println!("Press Ctrl-C to take it down.");
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        signals.wait()?;
        stop(state)
    }
}

/// What an API server would have said.
pub(super) fn refusals(report: &LabReport) -> Vec<String> {
    report
        .rejected
        .iter()
        .map(|r| {
            let parts = [r.place.as_str(), r.object.as_str(), r.message.as_str()];
            format!("refused: {}", parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(": "))
        })
        .collect()
}

/// The state folder is ours, or the lab that has it is named. Leftovers of a dead one go first.
fn claim(config: &LabConfig) -> Result<()> {
    let state = &config.state;
    if state.0.exists() {
        if let Some(pid) = files::running(state) {
            bail!(
                "a lab named {:?} is already running (process {pid}): take it down with `weft lab down --name {}`, or choose another --name",
                config.name,
                config.name
            );
        }
        println!("Removing what an earlier lab named {:?} left behind.", config.name);
        remove(state)?;
    }
    let parent = state.0.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Fails if somebody else claims the same name at this moment.
    fs::create_dir(&state.0).with_context(|| format!("cannot make {}", state.0.display()))?;
    for folder in [state.cluster(), state.infrastructure(), state.status(), state.logs(), state.launches()] {
        fs::create_dir_all(folder)?;
    }
    files::write_atomic(&state.config(), &serde_json::to_vec_pretty(config)?)?;
    Ok(())
}

fn check_programs(config: &LabConfig) -> Result<()> {
    for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
        if find_program(program, PATH).is_none() {
            bail!("{program} is missing: install the Debian package {package}");
        }
    }
    if config.mesh {
        for binary in ["weft-cni", "weft-agent", "weft-proxy", "weft-controller"] {
            if !config.bin_dir.join(binary).exists() {
                bail!(
                    "{binary} is not in {}: build it (cargo build), name its folder with --bin-dir, or start with --no-mesh",
                    config.bin_dir.display()
                );
            }
        }
    }
    check_plugins(config)
}

/// The plugins are there and speak the version that they will be called in (libcni's ValidateNetworkList).
fn check_plugins(config: &LabConfig) -> Result<()> {
    let version = &config.cni.version;
    for plugin in conflist::programs(config) {
        let known = supported_versions(config, &plugin)?;
        if !known.contains(version) {
            bail!(
                "the CNI plugin {} knows {}, but not {version}: choose another --cni-version, or newer plugins with --cni-plugins",
                find_plugin(config, &plugin)?.display(),
                known.join(", ")
            );
        }
    }
    if config.cni.network == CniNetwork::Bridge && !Path::new(BRIDGE_FILTER).exists() {
        bail!("packets between pods on a bridge pass no rules: load br_netfilter (modprobe br_netfilter)");
    }
    Ok(())
}

/// A folder that cannot be read from the start is an error, not a lab without pods.
fn report_broken_yaml(folder: &Path) -> Result<()> {
    let (documents, broken) =
        source::read(folder).with_context(|| format!("cannot read {}", folder.display()))?.parse();
    if let Some(first) = broken.first() {
        for problem in broken.iter().skip(1) {
            eprintln!("{}: {}", problem.place, problem.message);
        }
        bail!("{}: {}", first.place, first.message);
    }
    if documents.is_empty() {
        bail!("{} holds no Kubernetes object (*.yaml, *.yml, *.json)", folder.display());
    }
    Ok(())
}
