//! The agent's command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use weft_runtime::duration::duration;
use weft_runtime::logging::Format;

/// Enrols this node's pods into the mesh.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-agent", version)]
pub struct Config {
    /// This node's name, as in pods' `spec.nodeName`.
    #[arg(long)]
    pub node: String,
    /// Folder with the cluster's objects: `Pod/<namespace>/<name>.json`, `Namespace/_/<name>.json`.
    #[arg(long)]
    pub folder: PathBuf,
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
    /// How often every enrolled pod's rules are read back and compared.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub verify_every: Duration,
    /// What is logged, such as `info` or `weft_cni=debug`.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// How log lines are written.
    #[arg(long, default_value = "text")]
    pub log_format: Format,
}
