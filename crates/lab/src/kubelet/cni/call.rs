//! One call of one plugin: environment, standard input, deadline, and the error that it tells.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::super::{Kubelet, PodSpec};
use crate::config::{LabConfig, Node};
use crate::launch::{Launch, PATH};

/// A plugin that answers nothing within this time has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pod's interface.
pub(super) const INTERFACE: &str = "eth0";

/// Runs the plugin that the configuration names, in its node's network namespace; what it printed.
pub(super) async fn run(
    kubelet: &Kubelet,
    node: Node,
    verb: &str,
    config: &Value,
    spec: Option<&PodSpec>,
) -> Result<Vec<u8>> {
    let name = name_of(config);
    let launch = launch(&kubelet.config, node, spec, verb, name)?;
    let mut child = kubelet
        .command(&launch)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(config.to_string().as_bytes()).await?;
    }
    let out = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_| anyhow!("CNI {verb} by {name} took longer than {} s", PATIENCE.as_secs()))??;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let part = |field: &str| told.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (message, details) = (part("msg"), part("details"));
    let stderr = String::from_utf8_lossy(&out.stderr);
    let reason = [message.as_str(), details.as_str(), stderr.trim()]
        .into_iter()
        .filter(|s| !s.is_empty())
        .collect::<Vec<_>>()
        .join(": ");
    bail!("CNI {verb} by {name} failed: {reason}")
}

pub(super) fn name_of(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Where a plugin is: in the folder of plugins, or among Weft's own programs.
pub(crate) fn find_plugin(config: &LabConfig, plugin: &str) -> Result<PathBuf> {
    let folders = [&config.cni.plugins, &config.bin_dir];
    folders.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file()).ok_or_else(|| {
        anyhow!(
            "the CNI plugin {plugin} is neither in {} nor in {}: install the Debian package \
             containernetworking-plugins, or name another folder with --cni-plugins",
            config.cni.plugins.display(),
            config.bin_dir.display()
        )
    })
}

fn launch(
    config: &LabConfig,
    node: Node,
    spec: Option<&PodSpec>,
    verb: &str,
    plugin: &str,
) -> Result<Launch> {
    let path = find_plugin(config, plugin)?;
    let mut launch =
        Launch::on_node(node.netns(), node_binds(config, node), vec![path.display().to_string()]);
    let folders = format!("{}:{}", config.cni.plugins.display(), config.bin_dir.display());
    launch.env = [("PATH", PATH), ("CNI_COMMAND", verb), ("CNI_PATH", folders.as_str())]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    if let Some(spec) = spec {
        launch.env.extend(sandbox(spec));
    }
    Ok(launch)
}

/// The variables that name a pod's sandbox, as container runtimes give them.
fn sandbox(spec: &PodSpec) -> BTreeMap<String, String> {
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        spec.namespace, spec.name, spec.uid, spec.uid
    );
    BTreeMap::from([
        ("CNI_CONTAINERID".to_owned(), spec.uid.clone()),
        ("CNI_NETNS".to_owned(), spec.netns().display().to_string()),
        ("CNI_IFNAME".to_owned(), INTERFACE.to_owned()),
        ("CNI_ARGS".to_owned(), arguments),
    ])
}

/// Every process of a node has the node's own `/run/weft`.
pub(crate) fn node_binds(config: &LabConfig, node: Node) -> Vec<(PathBuf, PathBuf)> {
    vec![(config.state.node(node).join("run-weft"), PathBuf::from("/run/weft"))]
}

/// The versions that a plugin says it knows (VERSION; needs no namespace).
pub(crate) fn supported_versions(config: &LabConfig, plugin: &str) -> Result<Vec<String>> {
    let path = find_plugin(config, plugin)?;
    let mut command = std::process::Command::new(&path);
    command.env_clear().env("CNI_COMMAND", "VERSION").env("CNI_PATH", &config.cni.plugins);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin may answer without reading.
        let _ = std::io::Write::write_all(
            &mut stdin,
            json!({"cniVersion": config.cni.version}).to_string().as_bytes(),
        );
    }
    let out = child.wait_with_output()?;
    let told: Value = serde_json::from_slice(&out.stdout)
        .with_context(|| format!("{} does not answer VERSION", path.display()))?;
    let versions = told.get("supportedVersions").and_then(Value::as_array).into_iter().flatten();
    Ok(versions.filter_map(|v| v.as_str().map(str::to_owned)).collect())
}
