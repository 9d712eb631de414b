//! What is applied to a new cluster: the proxy's rights, DNS, the Gateway API.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::{Config, DOMAIN};
use crate::enter::environment;
use crate::handle::feed;
use crate::image::{self, Image, PAUSE};
use crate::node;

const COREDNS: &str = include_str!("../manifests/coredns.yaml");

/// `kubectl` with the administrator's rights; the caller is in the cluster's host network namespace.
pub(crate) fn kubectl(config: &Config, arguments: &[&str], input: &str) -> Result<String> {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(&config.artefacts.kube);
    command.arg0("kubectl").args(arguments).envs(environment(&config.state));
    feed(&mut command, input)?.ok().with_context(|| format!("kubectl {}", arguments.join(" ")))
}

/// Waits until the API server says that it is ready.
pub(crate) fn wait_for_api(config: &Config) -> Result<()> {
    let mut said = String::new();
    for _ in 0..240 {
        match kubectl(config, &["get", "--raw", "/readyz", "--request-timeout=5s"], "") {
            Ok(_) => return Ok(()),
            Err(error) => said = format!("{error:#}"),
        }
        sleep(Duration::from_millis(500));
    }
    bail!("the API server does not become ready: {said}; see kube-apiserver.log and etcd.log")
}

/// Writes the archive of images that every node begins with.
pub(crate) fn write_base_images(config: &Config) -> Result<()> {
    let mut pause = Image::new(PAUSE, "65532");
    pause.program_at(&config.artefacts.pause, "pause")?;
    pause.entrypoint = vec!["/pause".to_owned()];
    let mut coredns = Image::new("weft-cluster/coredns:1", "0");
    coredns.program(&config.artefacts.coredns, "coredns")?;
    coredns.entrypoint = vec!["/usr/local/bin/coredns".to_owned()];
    image::write(&[pause, coredns], &node::base_images(config))
}

/// Applies what other things need: DNS.
pub(crate) fn apply_dns(config: &Config) -> Result<()> {
    let manifest = COREDNS.replace("cluster.local", DOMAIN);
    kubectl(config, &["apply", "--server-side", "-f", "-"], &manifest).map(|_| ())
}

/// Applies the Gateway API's CRDs, with their admission policy, and waits until they are served.
pub(crate) fn apply_crds(config: &Config) -> Result<()> {
    if let Some(folder) = &config.artefacts.crds {
        let folder = folder.to_string_lossy();
        kubectl(config, &["apply", "--server-side", "-f", &folder], "")?;
        kubectl(config, &["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"], "")?;
    }
    Ok(())
}

/// Waits until every node is ready and DNS answers.
pub(crate) fn wait_until_ready(config: &Config, mut step: impl FnMut(String) -> Result<()>) -> Result<()> {
    for node in config.all_nodes() {
        let node = format!("node/{}", node.name());
        kubectl(config, &["wait", "--for=create", &node, "--timeout=180s"], "")?;
        kubectl(config, &["wait", "--for=condition=Ready", &node, "--timeout=180s"], "")?;
        step(format!("{node} is Ready"))?;
    }
    kubectl(
        config,
        &["rollout", "status", "deployment/coredns", "--namespace=kube-system", "--timeout=180s"],
        "",
    )?;
    step("DNS answers".to_owned())
}
