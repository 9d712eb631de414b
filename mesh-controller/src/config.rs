//! The command line of `weft-controller`. Every flag can also be given as an environment variable.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use ipnet::IpNet;
use weft_model::{MeshConfig, TrustDomain};
use weft_runtime::duration::duration;

/// The control plane: reads Kubernetes objects, translates them for the proxies, writes route status, signs certificates.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-controller", version, about)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["folder", "kubernetes"])))]
pub struct Config {
    /// Folder of Kubernetes objects (JSON or YAML, searched with its subfolders) that is read and watched.
    #[arg(long, env = "WEFT_FOLDER", value_name = "DIR", requires_all = ["status_dir", "ca_dir", "node_secrets"])]
    pub folder: Option<PathBuf>,

    /// Reads objects from the API server that the pod or the kubeconfig file belongs to, and writes statuses there.
    #[arg(long, env = "WEFT_KUBERNETES", requires_all = ["pod_name", "pod_namespace", "pod_ip"])]
    pub kubernetes: bool,

    /// With `--folder`: folder that statuses are written to, as `<Kind>/<namespace>/<name>.json`. Made if missing.
    #[arg(long, env = "WEFT_STATUS_DIR", value_name = "DIR")]
    pub status_dir: Option<PathBuf>,

    /// With `--kubernetes`: name of the pod that this runs in; with its address it is the name in the Lease.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,

    /// With `--kubernetes`: the pod's namespace, where the Lease, the root's Secret and ConfigMap and the proxies are.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub pod_namespace: Option<String>,

    /// With `--kubernetes`: the pod's address, which the other replicas send proxies to while this one leads.
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub pod_ip: Option<IpAddr>,

    /// Address that proxies connect to for configuration and certificates.
    #[arg(long, env = "WEFT_LISTEN", value_name = "ADDRESS", default_value = "[::]:15012")]
    pub listen: SocketAddr,

    /// Address of the admin endpoint (`/metrics`, `/config`, `/enrolment`, `/nodes`, `/healthz`, `/readyz`).
    #[arg(long, env = "WEFT_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,

    /// With `--folder`: folder with the certificate authority's root key and certificate. Made, with a new root, if
    /// missing. With `--kubernetes` they are in the Secret `weft-ca`.
    #[arg(long, env = "WEFT_CA_DIR", value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,

    /// With `--folder`: file with one `<node>=<secret>` a line: the secrets that nodes' proxies prove themselves with.
    /// Read again when a call comes and the file has changed. With `--kubernetes` the API server reviews their tokens.
    #[arg(long, env = "WEFT_NODE_SECRETS", value_name = "FILE")]
    pub node_secrets: Option<PathBuf>,

    /// With `--folder`: folder that what Gateways need is written to, as `<Kind>/<namespace>/<name>.json`, for whoever plays
    /// the API server. Made if missing; without it nothing is made for Gateways.
    #[arg(long, env = "WEFT_INFRASTRUCTURE_DIR", value_name = "DIR", requires = "folder")]
    pub infrastructure_dir: Option<PathBuf>,

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

    /// How long a namespace that is being enrolled while its pods run lets plaintext callers in at most. Then it is
    /// closed, and its status names the pods that are not in the mesh.
    #[arg(
        long,
        env = "WEFT_ENROL_DEADLINE",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10m"
    )]
    pub enrol_deadline: Duration,

    /// Namespaces that are never in the mesh, whatever labels say, beside kube-system and weft-system; separated by commas.
    #[arg(
        long = "exempt-namespace",
        env = "WEFT_EXEMPT_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub exempt_namespaces: Vec<String>,

    /// What Gateways' proxies are made with.
    #[command(flatten)]
    pub gateways: GatewayArgs,

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

/// Where objects come from, with what belongs to it.
#[derive(Clone, Debug)]
pub enum SourceArgs<'a> {
    /// A folder.
    Folder(FolderArgs<'a>),
    /// An API server, as this pod.
    Kubernetes {
        /// The pod's name.
        pod: &'a str,
        /// Its namespace.
        namespace: &'a str,
        /// Its address.
        address: IpAddr,
    },
}

/// A folder of objects, and the folders and files beside it.
#[derive(Clone, Copy, Debug)]
pub struct FolderArgs<'a> {
    /// Of objects.
    pub folder: &'a Path,
    /// For statuses.
    pub status_dir: &'a Path,
    /// Of the root.
    pub ca_dir: &'a Path,
    /// The nodes' secrets.
    pub node_secrets: &'a Path,
    /// For what Gateways need.
    pub infrastructure_dir: Option<&'a Path>,
}

impl Config {
    /// Where objects come from.
    ///
    /// # Errors
    /// A flag that belongs to it is missing, which the command line does not let through.
    pub fn source(&self) -> anyhow::Result<SourceArgs<'_>> {
        if let (Some(folder), Some(status_dir), Some(ca_dir), Some(node_secrets)) =
            (&self.folder, &self.status_dir, &self.ca_dir, &self.node_secrets)
        {
            let infrastructure_dir = self.infrastructure_dir.as_deref();
            let folder = FolderArgs { folder, status_dir, ca_dir, node_secrets, infrastructure_dir };
            return Ok(SourceArgs::Folder(folder));
        }
        match (&self.pod_name, &self.pod_namespace, self.pod_ip) {
            (Some(pod), Some(namespace), Some(address)) if self.kubernetes => {
                Ok(SourceArgs::Kubernetes { pod, namespace, address })
            }
            _ => anyhow::bail!("give --folder or --kubernetes, with what belongs to it"),
        }
    }
}

/// What Gateways' proxies are made with.
#[derive(Clone, Debug, clap::Args)]
pub struct GatewayArgs {
    /// Image of Gateways' proxies.
    #[arg(
        long,
        env = "WEFT_GATEWAY_IMAGE",
        value_name = "IMAGE",
        default_value = concat!("weft/weft-proxy:", env!("CARGO_PKG_VERSION"))
    )]
    pub gateway_image: String,

    /// When that image is pulled.
    #[arg(
        long,
        env = "WEFT_GATEWAY_IMAGE_PULL_POLICY",
        value_name = "POLICY",
        default_value = "IfNotPresent"
    )]
    pub gateway_image_pull_policy: String,

    /// Names of Secrets with the registry's credentials, separated by commas; they have to be in each Gateway's
    /// namespace.
    #[arg(long, env = "WEFT_GATEWAY_IMAGE_PULL_SECRETS", value_name = "NAMES", value_delimiter = ',')]
    pub gateway_image_pull_secrets: Vec<String>,

    /// Where Gateways' proxies reach the controller, as host:port.
    #[arg(
        long,
        env = "WEFT_GATEWAY_CONTROLLER",
        value_name = "ADDRESS",
        default_value = "weft-controller.weft-system.svc:15012"
    )]
    pub gateway_controller: String,

    /// How long a Gateway waits for an address that it asks for, before its status says that the address cannot be used.
    /// It is taken whenever it comes.
    #[arg(
        long,
        env = "WEFT_GATEWAY_ADDRESS_TIMEOUT",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10s"
    )]
    pub gateway_address_timeout: Duration,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("weft-controller").chain(args.iter().copied());
        Config::try_parse_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn objects_come_from_a_folder_or_from_an_api_server() {
        let folder = ["--folder=f", "--status-dir=s", "--ca-dir=c", "--node-secrets=n"];
        assert!(matches!(parse(&folder).unwrap().source(), Ok(SourceArgs::Folder(_))));
        let pod = ["--kubernetes", "--pod-name=p", "--pod-namespace=weft-system", "--pod-ip=10.0.0.1"];
        assert!(matches!(parse(&pod).unwrap().source(), Ok(SourceArgs::Kubernetes { .. })));

        assert!(parse(&[]).unwrap_err().contains("<--folder <DIR>|--kubernetes>"));
        assert!(parse(&["--folder=f"]).unwrap_err().contains("--ca-dir"));
        assert!(parse(&["--kubernetes"]).unwrap_err().contains("--pod-name"));
        assert!(parse(&[&folder[..], &pod[..]].concat()).unwrap_err().contains("cannot be used with"));
    }
}
