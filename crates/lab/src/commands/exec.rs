//! `weft lab exec` and `weft lab capture`: this process steps into the lab's namespaces and
//! starts the program there, so that input, output and exit code are simply its own.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sched::{CloneFlags, setns};

use super::Which;
use crate::config::State;
use crate::launch::{Launch, PATH};
use crate::report::{LabReport, PodReport};

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    #[command(flatten)]
    which: Which,
    /// `NAMESPACE/POD`, `NAMESPACE/PREFIX`, `NAMESPACE/deploy/NAME` or `node/NAME`.
    target: String,
    /// The container [default: the first].
    #[arg(short = 'c', long)]
    container: Option<String>,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Arguments of `capture`.
#[derive(Debug, Args)]
pub struct Capture {
    #[command(flatten)]
    which: Which,
    /// Arguments of tcpdump.
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
}

impl Exec {
    pub(super) fn run(self) -> Result<u8> {
        let (state, init, report) = self.which.running()?;
        let launch = match self.target.strip_prefix("node/") {
            Some(node) => on_node(&state, node, self.command)?,
            None => in_container(&state, &report, &self.target, self.container.as_deref(), self.command)?,
        };
        step_in(init, &launch)
    }
}

impl Capture {
    pub(super) fn run(self) -> Result<u8> {
        let (_, init, _) = self.which.running()?;
        // Staying root: a change of user would undo that the kernel ends it together with this process.
        let mut argv = ["tcpdump", "-Z", "root"].map(str::to_owned).to_vec();
        argv.extend(self.arguments);
        let env = [("PATH".to_owned(), PATH.to_owned())].into();
        step_in(init, &Launch { argv, env, ..Launch::default() })
    }
}

/// A program on a node, with the node's own `/run/weft`.
fn on_node(state: &State, name: &str, argv: Vec<String>) -> Result<Launch> {
    let config: crate::config::LabConfig = serde_json::from_slice(&std::fs::read(state.config())?)?;
    let node = config
        .node(name)
        .with_context(|| format!("there is no node {name:?}: the lab has node1 to node{}", config.nodes))?;
    Ok(Launch::on_node(node.netns(), crate::kubelet::cni::node_binds(&config, node), argv))
}

fn in_container(
    state: &State,
    report: &LabReport,
    target: &str,
    container: Option<&str>,
    argv: Vec<String>,
) -> Result<Launch> {
    let pod = find_pod(report, target)?;
    let found = match container {
        Some(name) => pod.containers.iter().find(|c| c.name == name),
        None => pod.containers.first(),
    };
    let names = || pod.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(found) = found else {
        bail!(
            "{}/{} ({}) has no container {}: it has [{}] {}",
            pod.namespace,
            pod.name,
            pod.status,
            container.unwrap_or("yet"),
            names(),
            pod.message
        );
    };
    let Some(pid) = found.pid else {
        bail!(
            "container {} of {}/{} does not run: {} {}",
            found.name,
            pod.namespace,
            pod.name,
            pod.status,
            found.message
        );
    };
    let file = state.launches().join(&pod.uid).join(format!("{}.json", found.name));
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let started: Launch = serde_json::from_slice(&text)?;
    Ok(Launch { join: Some(pid), env: started.env, workdir: started.workdir, argv, ..Launch::default() })
}

/// The pod that a user means.
pub(super) fn find_pod<'a>(report: &'a LabReport, target: &str) -> Result<&'a PodReport> {
    let Some((namespace, name)) = target.split_once('/') else {
        bail!("{target:?}: write NAMESPACE/POD");
    };
    let mut alive = report.pods.iter().filter(|p| p.namespace == namespace);
    if let Some(pod) = alive.clone().find(|p| p.name == name) {
        return Ok(pod);
    }
    if let Some(deployment) = name.strip_prefix("deploy/") {
        let mut of = alive.filter(|p| p.deployment.as_deref() == Some(deployment)).collect::<Vec<_>>();
        of.sort_by_key(|p| (!p.ready, p.name.clone()));
        return of
            .into_iter()
            .next()
            .with_context(|| format!("no pod of Deployment {namespace}/{deployment}"));
    }
    let matching: Vec<&PodReport> =
        alive.by_ref().filter(|p| p.name.starts_with(name) && p.status != "Terminating").collect();
    let listed = |pods: &[&PodReport]| {
        pods.iter().map(|p| format!("{}/{}", p.namespace, p.name)).collect::<Vec<_>>().join(", ")
    };
    match matching.as_slice() {
        [pod] => Ok(pod),
        [] => {
            let all: Vec<&PodReport> = report.pods.iter().collect();
            bail!("no pod {target}; there are: {}", listed(&all))
        }
        several => bail!("{target} could be any of {}", listed(several)),
    }
}

/// Steps into the lab of process `init` and runs the program there; its exit code.
fn step_in(init: u32, launch: &Launch) -> Result<u8> {
    let exe: PathBuf = std::env::current_exe()?;
    let open = |kind: &str| {
        File::open(format!("/proc/{init}/ns/{kind}"))
            .context("the lab has just ended, or belongs to another user")
    };
    let (pid, net, mnt) = (open("pid")?, open("net")?, open("mnt")?);
    if !nix::unistd::getuid().is_root() {
        setns(open("user")?, CloneFlags::CLONE_NEWUSER)
            .context("cannot enter the lab: it belongs to another user")?;
    }
    setns(net, CloneFlags::CLONE_NEWNET).context("cannot enter the lab: are you its owner?")?;
    setns(pid, CloneFlags::CLONE_NEWPID)?;
    setns(mnt, CloneFlags::CLONE_NEWNS)?;
    std::env::set_current_dir("/")?;
    let status = launch.command(&exe)?.status().context("cannot start in the lab")?;
    let code = status.code().or_else(|| status.signal().map(|s| s.saturating_add(128))).unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> LabReport {
        let pod = |name: &str, deployment: Option<&str>, ready| PodReport {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            deployment: deployment.map(str::to_owned),
            ready,
            ..PodReport::default()
        };
        LabReport {
            pods: vec![
                pod("web", None, true),
                pod("api-1-a", Some("api"), false),
                pod("api-1-b", Some("api"), true),
            ],
            ..LabReport::default()
        }
    }

    #[test]
    fn pods_are_found_by_name_prefix_and_deployment() {
        let report = report();
        let name =
            |target: &str| find_pod(&report, target).map(|p| p.name.clone()).map_err(|e| e.to_string());
        assert_eq!(name("shop/web"), Ok("web".to_owned()));
        assert_eq!(name("shop/we"), Ok("web".to_owned()));
        assert_eq!(name("shop/deploy/api"), Ok("api-1-b".to_owned()));
        assert!(name("shop/api").unwrap_err().contains("could be any of shop/api-1-a, shop/api-1-b"));
        assert!(name("shop/x").unwrap_err().contains("there are: shop/web"));
        assert!(name("web").unwrap_err().contains("NAMESPACE/POD"));
    }
}
