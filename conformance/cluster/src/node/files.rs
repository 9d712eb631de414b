//! A node's configuration files, written outside by the cluster's supervisor and mounted into the node.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::config::{CNI_PLUGINS, Config, DNS_SERVICE_V4, DOMAIN, Node, PODS_V4, PODS_V6};
use crate::image::PAUSE;

/// Writes everything that a node finds in `/etc/kubernetes`, `/etc/cni/net.d` and `/opt/cni/bin`.
pub(crate) fn write(config: &Config, node: Node) -> Result<()> {
    let folder = config.state.node(node);
    let etc = folder.join("etc-kubernetes");
    let cni = folder.join("etc-cni/net.d");
    let plugins = folder.join("opt-cni-bin");
    for folder in
        [&etc, &cni, &plugins, &folder.join("var-lib"), &folder.join("var-log"), &folder.join("layer")]
    {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    for plugin in fs::read_dir(CNI_PLUGINS)
        .context("the CNI plugins are missing: install the Debian package containernetworking-plugins")?
    {
        let plugin = plugin?;
        fs::copy(plugin.path(), plugins.join(plugin.file_name()))?;
    }
    let json = |value: &Value| format!("{value:#}\n");
    fs::write(cni.join("10-pods.conflist"), json(&network(config, node)))?;
    fs::write(etc.join("containerd.toml"), containerd())?;
    fs::write(etc.join("kubelet.json"), json(&kubelet(config, node)?))?;
    fs::write(etc.join("kube-proxy.json"), json(&kube_proxy(config)))?;
    let addresses: Vec<String> = node.addresses(config.dual_stack).iter().map(ToString::to_string).collect();
    fs::write(etc.join("node-ip"), addresses.join(","))?;
    let pki = config.state.pki();
    fs::copy(pki.join("ca.crt"), etc.join("ca.crt"))?;
    fs::copy(pki.join(format!("{}.kubeconfig", node.name())), etc.join("kubelet.kubeconfig"))?;
    fs::copy(pki.join("proxy.kubeconfig"), etc.join("kube-proxy.kubeconfig"))?;
    Ok(())
}

/// The primary CNI: what any mesh has to chain itself into.
fn network(config: &Config, node: Node) -> Value {
    let mut ranges = vec![json!([{"subnet": node.pods_v4()}])];
    let mut routes = vec![json!({"dst": "0.0.0.0/0"})];
    if config.dual_stack {
        ranges.push(json!([{"subnet": node.pods_v6()}]));
        routes.push(json!({"dst": "::/0"}));
    }
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp", "mtu": 1500, "ipMasq": false,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd() -> String {
    format!(
        r#"version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"#
    )
}

fn kubelet(config: &Config, node: Node) -> Result<Value> {
    let taints = config.taints.iter().map(|t| taint(t)).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": false},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        // Whoever has a certificate of the cluster's authority.
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        // Each node has its own part of the machine's tree.
        "cgroupRoot": format!("/{}", config.cgroup().join(node.name()).display()),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        // The machine may still have version 1.
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE_V4.to_string()],
        "clusterDomain": DOMAIN,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "resolvConf": "/etc/resolv.conf",
        "maxPods": 200,
        "registerWithTaints": taints,
        // The machine's disk and memory are not the cluster's: how full they are says nothing, and images come from nowhere
        // else.
        "evictionHard": {"memory.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "8760h",
        "featureGates": {"ClusterTrustBundle": true, "ClusterTrustBundleProjection": true},
    }))
}

/// `KEY[=VALUE]:EFFECT`.
fn taint(text: &str) -> Result<Value> {
    let parsed = text.rsplit_once(':').map(|(key, effect)| {
        let (key, value) = key.split_once('=').unwrap_or((key, ""));
        (key, value, effect)
    });
    match parsed {
        Some((key, value, effect @ ("NoSchedule" | "NoExecute" | "PreferNoSchedule"))) if !key.is_empty() => {
            Ok(json!({"key": key, "value": value, "effect": effect}))
        }
        _ => bail!(
            "{text:?} is no taint: write KEY:EFFECT or KEY=VALUE:EFFECT with NoSchedule, NoExecute or PreferNoSchedule"
        ),
    }
}

fn kube_proxy(config: &Config) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": config.families(PODS_V4, PODS_V6),
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig"},
        // The table's size belongs to the machine; a namespace may not change it.
        "conntrack": {"maxPerCore": 0},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_as_kubectl_writes_them() {
        assert_eq!(
            taint("a.b/c:NoSchedule").unwrap(),
            json!({"key": "a.b/c", "value": "", "effect": "NoSchedule"})
        );
        assert_eq!(taint("a=b:NoExecute").unwrap(), json!({"key": "a", "value": "b", "effect": "NoExecute"}));
        for wrong in ["a", "a:Never", ":NoSchedule", ""] {
            assert!(taint(wrong).unwrap_err().to_string().contains("is no taint"), "{wrong}");
        }
    }
}
