//! The command line of `weft-controller`. Every flag can also be given as an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use weft_model::{MeshConfig, TrustDomain};
use weft_runtime::duration::duration;

/// The control plane: reads Kubernetes objects, translates them for the proxies, writes route status, signs certificates.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-controller", version, about)]
pub struct Config {
    /// Folder of Kubernetes objects (JSON or YAML, searched with its subfolders) that is read and watched.
    #[arg(long, env = "WEFT_FOLDER", value_name = "DIR")]
    pub folder: PathBuf,

    /// Folder that statuses are written to, as `<Kind>/<namespace>/<name>.json`. Made if missing.
    #[arg(long, env = "WEFT_STATUS_DIR", value_name = "DIR")]
    pub status_dir: PathBuf,

    /// Address that proxies connect to for configuration and certificates.
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDRESS", default_value = "[::]:15012")]
    pub listen: SocketAddr,

    /// Address of the admin endpoint (`/metrics`, `/config`, `/healthz`, `/readyz`).
    #[arg(long, env = "WEFT_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,

    /// Folder with the certificate authority's root key and certificate. Made, with a new root, if missing.
    #[arg(long, env = "WEFT_CA_DIR", value_name = "DIR")]
    pub ca_dir: PathBuf,

    /// File with one `<node>=<secret>` a line: the secrets that nodes' proxies prove themselves with. Read again
    /// when a call comes and the file has changed.
    #[arg(long, env = "WEFT_NODE_SECRETS", value_name = "FILE")]
    pub node_secrets: PathBuf,

    /// DNS name in the controller's serving certificate; the proxies' `--controller-name`.
    #[arg(
        long,
        env = "WEFT_SERVING_NAME",
        value_name = "NAME",
        default_value = "weft-controller.weft-system.svc"
    )]
    pub serving_name: String,

    /// How long a workload's certificate is valid. Proxies renew it after 50 to 70 % of that. A byte stream that is
    /// still open when the certificate it began with ends is cut, so shorter is safer but harder on long connections.
    #[arg(
        long,
        env = "WEFT_LEAF_LIFETIME",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "24h"
    )]
    pub leaf_lifetime: Duration,

    /// What is logged: a level, or directives such as `info,weft_controller::server=debug`.
    #[arg(long, env = "WEFT_LOG", value_name = "DIRECTIVES", default_value = "info")]
    pub log: String,

    /// How log lines are written.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value = "text")]
    pub log_format: weft_runtime::logging::Format,

    /// Facts about the cluster.
    #[command(flatten)]
    pub mesh: MeshArgs,
}

/// Facts about the cluster that no object says.
#[derive(Clone, Debug, clap::Args)]
pub struct MeshArgs {
    /// Trust domain of every identity in the mesh.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,

    /// The cluster's DNS domain.
    #[arg(long, env = "WEFT_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,

    /// Ranges that Service addresses are taken from, separated by commas.
    #[arg(long, env = "WEFT_SERVICE_RANGES", value_name = "CIDR", value_delimiter = ',')]
    pub service_ranges: Vec<IpNet>,

    /// Ranges that pod addresses are taken from, separated by commas.
    #[arg(long, env = "WEFT_POD_RANGES", value_name = "CIDR", value_delimiter = ',')]
    pub pod_ranges: Vec<IpNet>,
}

impl MeshArgs {
    /// As it is published.
    pub fn to_model(&self) -> MeshConfig {
        MeshConfig {
            trust_domain: TrustDomain(self.trust_domain.as_str().into()),
            cluster_domain: self.cluster_domain.as_str().into(),
            service_ranges: self.service_ranges.clone(),
            pod_ranges: self.pod_ranges.clone(),
        }
    }
}
