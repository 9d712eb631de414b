//! Calls CNI plugins the way a container runtime does (CNI spec 1.1, sections 2 to 4): a list of
//! plugins, each given the result of the one before; DEL in reverse order.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Kubelet, PodSpec};
use crate::config::{CNI_DIR, LabConfig, Node};
use crate::launch::{Launch, PATH};

/// A plugin that answers nothing within this time has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node's network configuration list.
pub(crate) struct Chain {
    version: String,
    name: String,
    plugins: Vec<Value>,
}

/// The configuration list (`.conflist`) of a node: Debian's `ptp` and `host-local`, then weft-cni.
pub(crate) fn conflist(config: &LabConfig, node: Node) -> Value {
    let mut ranges = vec![json!([{"subnet": node.pod_range_v4()}])];
    let mut routes = vec![json!({"dst": "0.0.0.0/0"})];
    if config.ipv6 {
        ranges.push(json!([{"subnet": node.pod_range_v6()}]));
        routes.push(json!({"dst": "::/0"}));
    }
    let data = config.state.node(node).join("ipam");
    let mut plugins = vec![json!({
        "type": "ptp",
        "ipMasq": false,
        "mtu": 1500,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": data},
    })];
    if config.mesh {
        plugins.push(json!({"type": "weft-cni"}));
    }
    json!({"cniVersion": "1.0.0", "name": "weft-lab", "plugins": plugins})
}

impl Chain {
    pub(crate) fn of(config: &LabConfig, node: Node) -> Self {
        let list = conflist(config, node);
        let text = |name: &str| list.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let plugins = list.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default();
        Self { version: text("cniVersion"), name: text("name"), plugins }
    }

    /// ADD through the whole chain; the pod's addresses.
    pub(crate) async fn add(&self, kubelet: &Kubelet, spec: &PodSpec) -> Result<Vec<IpAddr>> {
        let mut previous = None;
        for plugin in &self.plugins {
            let out = self.call(kubelet, spec, "ADD", plugin, previous.as_ref()).await?;
            let result: Value = serde_json::from_slice(&out)
                .with_context(|| format!("CNI plugin {} answered no JSON", name_of(plugin)))?;
            previous = Some(result);
        }
        let result = previous.ok_or_else(|| anyhow!("the CNI chain is empty"))?;
        tokio::fs::create_dir_all(spec.folder()).await?;
        tokio::fs::write(spec.folder().join("cni-result.json"), result.to_string()).await?;
        addresses(&result)
    }

    /// DEL in reverse order; failures are logged, the pod ends anyway.
    pub(crate) async fn del(&self, kubelet: &Kubelet, spec: &PodSpec) {
        let cached = tokio::fs::read(spec.folder().join("cni-result.json")).await.ok();
        let previous: Option<Value> = cached.and_then(|c| serde_json::from_slice(&c).ok());
        for plugin in self.plugins.iter().rev() {
            if let Err(error) = self.call(kubelet, spec, "DEL", plugin, previous.as_ref()).await {
                tracing::warn!(pod = %spec.name, error = format!("{error:#}"), "CNI DEL failed");
            }
        }
    }

    async fn call(
        &self,
        kubelet: &Kubelet,
        spec: &PodSpec,
        verb: &str,
        plugin: &Value,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>> {
        let name = name_of(plugin);
        let mut input = plugin.clone();
        if let Some(map) = input.as_object_mut() {
            map.insert("cniVersion".to_owned(), json!(self.version));
            map.insert("name".to_owned(), json!(self.name));
            if let Some(previous) = previous {
                map.insert("prevResult".to_owned(), previous.clone());
            }
        }
        let launch = launch(kubelet, spec, verb, name)?;
        let mut child = kubelet
            .command(&launch)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.to_string().as_bytes()).await?;
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
}

fn name_of(plugin: &Value) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn launch(kubelet: &Kubelet, spec: &PodSpec, verb: &str, plugin: &str) -> Result<Launch> {
    let config = &kubelet.config;
    let folders = [PathBuf::from(CNI_DIR), config.bin_dir.clone()];
    let path = folders.iter().map(|f| f.join(plugin)).find(|p| p.is_file()).ok_or_else(|| {
        anyhow!("CNI plugin {plugin} is neither in {CNI_DIR} nor in {}", config.bin_dir.display())
    })?;
    let mut launch =
        Launch::on_node(spec.node.netns(), node_binds(config, spec.node), vec![path.display().to_string()]);
    let cni_args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        spec.namespace, spec.name, spec.uid, spec.uid
    );
    launch.env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("CNI_COMMAND".to_owned(), verb.to_owned()),
        ("CNI_CONTAINERID".to_owned(), spec.uid.clone()),
        ("CNI_NETNS".to_owned(), spec.netns().display().to_string()),
        ("CNI_IFNAME".to_owned(), "eth0".to_owned()),
        ("CNI_ARGS".to_owned(), cni_args),
        ("CNI_PATH".to_owned(), format!("{CNI_DIR}:{}", config.bin_dir.display())),
    ]);
    Ok(launch)
}

/// Every process of a node has the node's own `/run/weft`.
pub(crate) fn node_binds(config: &LabConfig, node: Node) -> Vec<(PathBuf, PathBuf)> {
    vec![(config.state.node(node).join("run-weft"), PathBuf::from("/run/weft"))]
}

fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips =
        result.get("ips").and_then(Value::as_array).ok_or_else(|| anyhow!("CNI result without `ips`"))?;
    let mut all: Vec<IpAddr> =
        ips.iter().filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok()).collect();
    all.sort_by_key(IpAddr::is_ipv6);
    if all.is_empty() {
        bail!("CNI result without an address");
    }
    Ok(all)
}
