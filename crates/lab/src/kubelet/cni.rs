//! CNI as a container runtime drives it (CNI spec 1.1, sections 2 to 4): a list of plugins for ADD, DEL, CHECK, STATUS
//! and GC, with the previous result, the capabilities' arguments and a memory of what is attached.

mod call;
pub(crate) mod conflist;
mod network;

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

pub(crate) use call::{find_plugin, node_binds, supported_versions};
pub(crate) use network::Networks;

use super::{Kubelet, PodSpec};
use crate::config::{LabConfig, Node};

/// A version of the CNI spec, newest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Since {
    /// CHECK, and the previous result for DEL.
    V0_4_0,
    /// STATUS and GC.
    V1_1_0,
}

/// A node's network configuration list.
pub(crate) struct Chain {
    node: Node,
    version: String,
    name: String,
    plugins: Vec<Value>,
}

impl Chain {
    pub(crate) fn of(config: &LabConfig, node: Node) -> Self {
        let list = conflist::of(config, node);
        let text = |name: &str| list.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let plugins = list.get("plugins").and_then(Value::as_array).cloned().unwrap_or_default();
        Self { node, version: text("cniVersion"), name: text("name"), plugins }
    }

    fn knows(&self, since: Since) -> bool {
        match since {
            Since::V0_4_0 => self.version != "0.3.1",
            Since::V1_1_0 => self.version == "1.1.0",
        }
    }

    /// ADD through the whole list; the last plugin's result.
    async fn add(&self, kubelet: &Kubelet, spec: &PodSpec) -> Result<Value> {
        let mut previous = None;
        for plugin in &self.plugins {
            let config = self.config(plugin, previous.as_ref(), Some(spec), Map::new());
            let out = call::run(kubelet, self.node, "ADD", &config, Some(spec)).await?;
            let result: Value = serde_json::from_slice(&out)
                .with_context(|| format!("CNI plugin {} answered no JSON", call::name_of(plugin)))?;
            self.has_version(plugin, &result)?;
            previous = Some(result);
        }
        previous.ok_or_else(|| anyhow!("the CNI list is empty"))
    }

    /// A result is in the version of the configuration (spec 1.1, "Version considerations").
    fn has_version(&self, plugin: &Value, result: &Value) -> Result<()> {
        let version = result.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
        if version != self.version {
            let name = call::name_of(plugin);
            bail!("CNI plugin {name} answered in version {version:?}, the list is of {}", self.version);
        }
        Ok(())
    }

    /// DEL in reverse order; ends at the first failure, to be tried again.
    async fn del(&self, kubelet: &Kubelet, spec: &PodSpec, result: Option<&Value>) -> Result<()> {
        let previous = result.filter(|_| self.knows(Since::V0_4_0));
        for plugin in self.plugins.iter().rev() {
            let config = self.config(plugin, previous, Some(spec), Map::new());
            call::run(kubelet, self.node, "DEL", &config, Some(spec)).await?;
        }
        Ok(())
    }

    /// CHECK against what the whole list gave.
    async fn check(&self, kubelet: &Kubelet, spec: &PodSpec, result: &Value) -> Result<()> {
        for plugin in &self.plugins {
            let config = self.config(plugin, Some(result), Some(spec), Map::new());
            call::run(kubelet, self.node, "CHECK", &config, Some(spec)).await?;
        }
        Ok(())
    }

    /// Fails with the first plugin that cannot serve ADD now. Before 1.1.0 nobody can tell.
    async fn status(&self, kubelet: &Kubelet) -> Result<()> {
        if !self.knows(Since::V1_1_0) {
            return Ok(());
        }
        for plugin in &self.plugins {
            let config = self.config(plugin, None, None, Map::new());
            call::run(kubelet, self.node, "STATUS", &config, None).await?;
        }
        Ok(())
    }

    /// Tells every plugin which attachments are valid; all are told, whatever one answers.
    async fn gc(&self, kubelet: &Kubelet, valid: &[String]) -> Result<()> {
        if !self.knows(Since::V1_1_0) {
            return Ok(());
        }
        let valid: Vec<Value> =
            valid.iter().map(|id| json!({"containerID": id, "ifname": call::INTERFACE})).collect();
        // The second name is what the spec's text says by mistake; runtimes send both.
        let more = ["cni.dev/valid-attachments", "cni.dev/attachments"]
            .map(|name| (name.to_owned(), Value::Array(valid.clone())));
        let mut failed = Vec::new();
        for plugin in &self.plugins {
            let config = self.config(plugin, None, None, more.iter().cloned().collect());
            if let Err(error) = call::run(kubelet, self.node, "GC", &config, None).await {
                failed.push(format!("{error:#}"));
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
    }

    /// What a plugin gets on its standard input.
    fn config(
        &self,
        plugin: &Value,
        previous: Option<&Value>,
        spec: Option<&PodSpec>,
        more: Map<String, Value>,
    ) -> Value {
        let mut config = plugin.clone();
        let Some(map) = config.as_object_mut() else { return config };
        map.insert("cniVersion".to_owned(), json!(self.version));
        map.insert("name".to_owned(), json!(self.name));
        if let Some(previous) = previous {
            map.insert("prevResult".to_owned(), previous.clone());
        }
        let arguments = spec.map(|spec| runtime_config(plugin, spec)).unwrap_or_default();
        if !arguments.is_empty() {
            map.insert("runtimeConfig".to_owned(), Value::Object(arguments));
        }
        map.extend(more);
        config
    }
}

/// The arguments of those capabilities that the plugin declares (CNI conventions, "Dynamic plugin specific fields").
fn runtime_config(plugin: &Value, spec: &PodSpec) -> Map<String, Value> {
    let declared = plugin.get("capabilities").and_then(Value::as_object);
    let wanted = |name: &str| declared.and_then(|all| all.get(name)).and_then(Value::as_bool) == Some(true);
    let mut arguments = Map::new();
    if wanted("portMappings") {
        let mappings = port_mappings(spec);
        if !mappings.is_empty() {
            arguments.insert("portMappings".to_owned(), Value::Array(mappings));
        }
    }
    if wanted("io.kubernetes.cri.pod-annotations") {
        let annotations = spec.pod.metadata.annotations.clone().unwrap_or_default();
        arguments.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(annotations));
    }
    arguments
}

fn port_mappings(spec: &PodSpec) -> Vec<Value> {
    let containers = spec.pod.spec.iter().flat_map(|s| &s.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host = port.host_port?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
            let mut mapping =
                json!({"hostPort": host, "containerPort": port.container_port, "protocol": protocol});
            if let (Some(ip), Some(map)) = (&port.host_ip, mapping.as_object_mut()) {
                map.insert("hostIP".to_owned(), json!(ip));
            }
            Some(mapping)
        })
        .collect()
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
