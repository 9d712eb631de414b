//! The agent's command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use weft_model::workload::Exempt;
use weft_runtime::duration::duration;
use weft_runtime::logging::Format;

/// How kubelets and container runtimes name the cgroups of pods: under the kubelet's root for pods, or, where the kubelet
/// was told to make none (`cgroupsPerQOS: false`), where the runtime puts containers of its Kubernetes namespace.
pub const POD_CGROUPS: [&str; 4] = ["kubepods", "k8s.io", "cri-containerd-", "crio-"];

/// Enrols this node's pods into the mesh.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-agent", version)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["folder", "kubernetes"]))]
pub struct Config {
    /// This node's name, as in pods' `spec.nodeName`.
    #[arg(long, env = "NODE_NAME")]
    pub node: String,
    /// Folder with the cluster's objects: `Pod/<namespace>/<name>.json`, `Namespace/_/<name>.json`.
    #[arg(long)]
    pub folder: Option<PathBuf>,
    /// Objects come from the API server, by the pod's service account or the kubeconfig that KUBECONFIG names.
    #[arg(long)]
    pub kubernetes: bool,
    /// The namespace that Weft is installed in.
    #[arg(long, env = "POD_NAMESPACE", default_value = "weft-system")]
    pub namespace: String,
    /// The agent's own pod there; it says on it when the node has been brought out of the mesh.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// A namespace that is never in the mesh, whatever labels say, and whose pods start while the agent is away, beside
    /// kube-system, weft-system and the one that Weft is installed in; repeat it or separate by commas.
    #[arg(long = "exempt-namespace", value_delimiter = ',')]
    pub exempt_namespaces: Vec<String>,
    /// The plugin's installation.
    #[command(flatten)]
    pub install: InstallConfig,
    /// Where the admin server listens: /healthz /readyz /metrics /status. With --kubernetes 127.0.0.1:15020 unless
    /// given; with --folder none unless given.
    #[arg(long)]
    pub admin: Option<SocketAddr>,
    /// Pods that run unmeshed when the agent starts are evicted rather than enrolled while they run.
    #[arg(long, requires = "kubernetes")]
    pub evict_unmeshed: bool,
    /// Where the sockets `cni.sock` and `agent.sock` and the file `agent-status.json` are made.
    #[arg(long, default_value = "/run/weft")]
    pub runtime_dir: PathBuf,
    /// A Service or pod range of the cluster, such as 10.96.0.0/16; repeat it or separate by commas. TCP to other
    /// destinations is not captured. Without any range all outbound TCP is captured.
    #[arg(long = "cluster-range", value_delimiter = ',')]
    pub cluster_ranges: Vec<IpNet>,
    /// How long connections and new pods wait for a proxy.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub hold: Duration,
    /// How long the plugin waits for a pod's object to be known here.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub pod_wait: Duration,
    /// How long the proxy may take to confirm a pod.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub ack_timeout: Duration,
    /// How long a pod that is no longer to be in the mesh is kept in it, for the proxies of other nodes to be told.
    #[arg(long, env = "WEFT_RELEASE_WAIT", default_value = "2m", value_parser = duration)]
    pub release_wait: Duration,
    /// How long connections that a running pod had before it was enrolled may live on; then they are reset.
    #[arg(long, env = "WEFT_ENROL_GRACE", default_value = "5m", value_parser = duration)]
    pub enrol_grace: Duration,
    /// How often every enrolled pod's rules are read back and compared.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub verify_every: Duration,
    /// Part of a cgroup's path that marks the processes of pods; repeat it or separate by commas.
    #[arg(long = "pod-cgroup", value_delimiter = ',', default_values_t = POD_CGROUPS.map(str::to_owned))]
    pub pod_cgroups: Vec<String>,
    /// Enrol pods although eBPF programs at connect() are attached to their cgroups. Only where those leave the sockets
    /// of pods alone, as Cilium's do with `socketLB.hostNamespaceOnly=true`: otherwise no route applies to what pods call.
    #[arg(long, env = "WEFT_ALLOW_SOCKET_LOAD_BALANCER")]
    pub allow_socket_load_balancer: bool,
    /// What is logged, such as `info` or `weft_cni=debug`.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// How log lines are written.
    #[arg(long, default_value = "text")]
    pub log_format: Format,
}

/// How the CNI plugin is put in place. Without folders it is not: somebody else does it.
#[derive(Clone, Debug, clap::Args)]
pub struct InstallConfig {
    /// The node's folder of CNI plugins, as this process sees it; `weft-cni` is copied there.
    #[arg(long, requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// The node's folder of CNI configuration, as this process sees it; `weft-cni` is chained into the list in force.
    #[arg(long, requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The plugin that is installed.
    #[arg(long, default_value = "/usr/local/bin/weft-cni")]
    pub cni_plugin: PathBuf,
    /// Where the plugin writes what it did, as a path of the node; empty: nowhere.
    #[arg(long, default_value = "/var/log/weft-cni.log")]
    pub cni_log_file: String,
    /// How long the plugin waits for the agent, in seconds.
    #[arg(long, default_value_t = 30)]
    pub cni_timeout: u64,
}

impl Config {
    /// The namespaces that are never in the mesh.
    #[must_use]
    pub fn exempt(&self) -> Exempt {
        Exempt::with(self.exempt_namespaces.iter().chain([&self.namespace]))
    }

    /// Where the admin server listens, if it does.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        let usual = || self.kubernetes.then(|| (Ipv4Addr::LOCALHOST, 15020).into());
        self.admin.or_else(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_of_objects_is_needed_and_the_plugins_folders_come_together() {
        let with = |more: &[&str]| {
            let start = ["weft-agent", "--node", "one"];
            Config::try_parse_from(start.iter().chain(more))
        };
        assert!(with(&[]).is_err());
        assert!(with(&["--folder", "f", "--kubernetes"]).is_err());
        assert_eq!(with(&["--folder", "f"]).unwrap().admin_address(), None);
        let config = with(&["--kubernetes"]).unwrap();
        assert_eq!(config.admin_address(), Some(([127, 0, 0, 1], 15020).into()));
        assert!(!config.allow_socket_load_balancer);
        assert!(with(&["--kubernetes", "--allow-socket-load-balancer"]).unwrap().allow_socket_load_balancer);
        assert!(with(&["--kubernetes", "--cni-bin-dir", "b"]).is_err());
        assert!(with(&["--kubernetes", "--cni-bin-dir", "b", "--cni-conf-dir", "c"]).is_ok());
    }
}
