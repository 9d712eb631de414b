//! The proxy's command line and environment: one struct, no other place reads either.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use weft_model::{ObjectName, Text};
use weft_runtime::duration::duration;
use weft_runtime::logging;

use crate::gateway::Trust;
use crate::telemetry::AccessLogTarget;

/// The process's configuration.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "weft-proxy",
    version,
    about = "Carries the traffic of one node's enrolled pods, or of one Gateway."
)]
#[command(group = clap::ArgGroup::new("node-proof").required(true).args(["node_secret_file", "node_token_file"]))]
pub struct Config {
    /// What is carried: the traffic of a node's enrolled pods, or that of one Gateway.
    #[arg(long, env = "WEFT_ROLE", value_enum, default_value_t = Role::Node)]
    pub role: Role,

    /// Name of the node this proxy runs on. Needed in role `node`.
    #[arg(long, env = "WEFT_NODE", default_value = "", required_unless_present = "gateway")]
    pub node: String,

    /// Which Gateway, and the pod that this process runs in.
    #[command(flatten)]
    pub own: GatewayFlags,

    /// The trust domain of this mesh's identities, as the controller has it.
    #[arg(long, env = "WEFT_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,

    /// The agent's Unix socket (SOCK_SEQPACKET).
    #[arg(long, env = "WEFT_AGENT_SOCKET", default_value = "/run/weft/agent.sock")]
    pub agent_socket: PathBuf,

    /// Where the controller listens, as host:port or address:port.
    #[arg(long, env = "WEFT_CONTROLLER", default_value = "weft-controller.weft-system.svc:15012")]
    pub controller: String,

    /// File with the PEM roots that the controller's certificate is verified against. It may come later and change:
    /// it is read anew for each connection.
    #[arg(long, env = "WEFT_CONTROLLER_CA")]
    pub controller_ca: PathBuf,

    /// DNS name that the controller's certificate must bear.
    #[arg(long, env = "WEFT_CONTROLLER_NAME", default_value = "weft-controller.weft-system.svc")]
    pub controller_name: String,

    /// File with this node's or Gateway's secret, sent as `authorization: Bearer <node>:<secret>`, for a Gateway
    /// `Bearer gateway/<namespace>/<name>:<secret>`. Read anew for each call.
    #[arg(long, env = "WEFT_NODE_SECRET_FILE")]
    pub node_secret_file: Option<PathBuf>,

    /// File with this pod's service-account token of audience `weft-ca`, sent as `authorization: Bearer <token>`.
    /// Read anew for each call.
    #[arg(long, env = "WEFT_NODE_TOKEN_FILE")]
    pub node_token_file: Option<PathBuf>,

    /// Where the admin server listens: /metrics /config /certificates /logging /healthz /readyz.
    #[arg(long, env = "WEFT_ADMIN", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,

    /// Where /healthz, /readyz and /metrics are answered as well, and nothing else: for the kubelet and for scrapers, who
    /// come from outside the pod.
    #[arg(long, env = "WEFT_PUBLIC_ADMIN")]
    pub public_admin: Option<SocketAddr>,

    /// Threads that carry traffic; one per CPU if not given.
    #[arg(long, env = "WEFT_WORKERS")]
    pub workers: Option<usize>,

    /// Connections that one pod, or one port of a Gateway, may have open at a time; further ones are refused as
    /// `overloaded`.
    #[arg(long, env = "WEFT_MAX_CONNECTIONS_PER_POD", default_value_t = 16_384)]
    pub max_connections_per_pod: usize,

    /// How much memory the process may have, in bytes: near it new connections and requests are refused as `overloaded`.
    /// Give it what the container's limit is.
    #[arg(long, env = "WEFT_MEMORY_LIMIT", value_name = "BYTES")]
    pub memory_limit: Option<u64>,

    /// In role `gateway`: address ranges of proxies before this one, comma-separated. What they say in
    /// `X-Forwarded-*` and `Forwarded` is kept and added to; what others say there is replaced.
    #[arg(long, env = "WEFT_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,

    /// In role `gateway`: how many proxies are before this one, wherever they call from. All callers are trusted as by
    /// `--trusted-proxies`; the client is the entry of `X-Forwarded-For` that so many of them say, counted from the end.
    #[arg(long, env = "WEFT_TRUSTED_HOPS", default_value_t = 0, conflicts_with = "trusted_proxies")]
    pub trusted_hops: usize,

    /// In role `gateway`: every TCP connection has to begin with a header of the PROXY protocol, version 1 or 2, and comes
    /// from whom that says.
    #[arg(long, env = "WEFT_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,

    /// How calls between pods of this node travel.
    #[arg(long, env = "WEFT_SAME_NODE", value_enum, default_value_t = SameNode::Direct)]
    pub same_node: SameNode,

    /// How long a connection to a cluster address nobody has told the proxy about waits for news of it.
    #[arg(long, env = "WEFT_HOLD_UNKNOWN", value_parser = duration, default_value = "2s")]
    pub hold_unknown: Duration,

    /// How long a connection waits for its pod's first certificate.
    #[arg(long, env = "WEFT_HOLD_CERTIFICATE", value_parser = duration, default_value = "5s")]
    pub hold_certificate: Duration,

    /// How long a port that declares nothing is given to show that it speaks HTTP before the upstream is dialled.
    #[arg(long, env = "WEFT_PEEK", value_parser = duration, default_value = "100ms")]
    pub peek: Duration,

    /// Deadline of one connect to an endpoint.
    #[arg(long, env = "WEFT_CONNECT_TIMEOUT", value_parser = duration, default_value = "5s")]
    pub connect_timeout: Duration,

    /// How long open connections may last after SIGTERM.
    #[arg(long, env = "WEFT_DRAIN", value_parser = duration, default_value = "30s")]
    pub drain: Duration,

    /// Where a line per request and connection goes: `off`, `-` for standard output, or a file to append to.
    #[arg(long, env = "WEFT_ACCESS_LOG", default_value = "-")]
    pub access_log: AccessLogTarget,

    /// What to log: error, warn, info, debug, trace, or directives such as `info,weft_proxy::agent=debug`.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    pub log: String,

    /// How log lines are written.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_enum, default_value_t = logging::Format::Text)]
    pub log_format: logging::Format,
}

/// What a proxy carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The traffic of one node's enrolled pods.
    Node,
    /// The traffic of one Gateway.
    Gateway,
}

/// Flags of role `gateway` alone; all of them are needed there.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Role gateway")]
pub struct GatewayFlags {
    /// The Gateway, as namespace/name.
    #[arg(long, env = "WEFT_GATEWAY", required_if_eq("role", "gateway"))]
    pub gateway: Option<ObjectName>,

    /// Name of this process's pod.
    #[arg(long, env = "WEFT_POD_NAME", requires = "gateway")]
    pub pod_name: Option<String>,

    /// Namespace of this process's pod.
    #[arg(long, env = "WEFT_POD_NAMESPACE", requires = "gateway")]
    pub pod_namespace: Option<String>,

    /// UID of this process's pod.
    #[arg(long, env = "WEFT_POD_UID", requires = "gateway")]
    pub pod_uid: Option<String>,

    /// Name of the pod's service account: backends in the mesh see it as the caller.
    #[arg(long, env = "WEFT_SERVICE_ACCOUNT", requires = "gateway")]
    pub service_account: Option<String>,

    /// Addresses of this process's pod, comma-separated; the family of the first is preferred for endpoints.
    #[arg(long, env = "WEFT_POD_ADDRESSES", value_delimiter = ',', requires = "gateway")]
    pub pod_addresses: Vec<IpAddr>,
}

/// The Gateway that is served, and the pod that this process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPod {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The pod.
    pub pod: ObjectName,
    /// Its UID.
    pub uid: Text,
    /// Its service account's name.
    pub service_account: Text,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl GatewayFlags {
    fn complete(&self) -> Result<GatewayPod, &'static str> {
        let addresses = Some(self.pod_addresses.clone()).filter(|addresses| !addresses.is_empty());
        Ok(GatewayPod {
            gateway: self.gateway.clone().ok_or("--gateway (WEFT_GATEWAY)")?,
            pod: ObjectName::new(
                needed(&self.pod_namespace, "--pod-namespace (WEFT_POD_NAMESPACE)")?,
                needed(&self.pod_name, "--pod-name (WEFT_POD_NAME)")?,
            ),
            uid: needed(&self.pod_uid, "--pod-uid (WEFT_POD_UID)")?.into(),
            service_account: needed(&self.service_account, "--service-account (WEFT_SERVICE_ACCOUNT)")?
                .into(),
            addresses: addresses.ok_or("--pod-addresses (WEFT_POD_ADDRESSES)")?,
        })
    }
}

fn needed<'v>(value: &'v Option<String>, flag: &'static str) -> Result<&'v str, &'static str> {
    value.as_deref().filter(|value| !value.is_empty()).ok_or(flag)
}

/// How calls between pods of this node travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SameNode {
    /// Inside this process.
    Direct,
    /// Over mutual TLS, as between nodes.
    Tunnel,
}

impl Config {
    /// The Gateway that is served; `None` in role `node`.
    ///
    /// # Errors
    /// A flag of role `gateway` is missing.
    pub fn gateway(&self) -> anyhow::Result<Option<GatewayPod>> {
        match (self.role, self.own.complete()) {
            (Role::Node, _) if self.node.is_empty() => {
                anyhow::bail!("--node (WEFT_NODE) is needed in role node")
            }
            (Role::Node, _) => Ok(None),
            (Role::Gateway, Ok(gateway)) => Ok(Some(gateway)),
            (Role::Gateway, Err(flag)) => anyhow::bail!("{flag} is needed in role gateway"),
        }
    }

    /// Whom a Gateway believes.
    pub fn trust(&self) -> Trust<'_> {
        Trust { proxies: &self.trusted_proxies, hops: self.trusted_hops }
    }

    /// How many threads carry traffic: as told, else one per CPU.
    pub fn worker_count(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.workers.unwrap_or_else(cpus).max(1)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const REQUIRED: [&str; 7] =
        ["weft-proxy", "--node", "node-a", "--controller-ca", "ca.pem", "--node-secret-file", "secret"];

    #[test]
    fn the_required_flags_suffice() {
        let config = Config::try_parse_from(REQUIRED).unwrap();
        assert!(config.worker_count() >= 1);
        assert_eq!(config.same_node, SameNode::Direct);
    }

    #[test]
    fn exactly_one_proof_of_the_node_is_needed() {
        let start = ["weft-proxy", "--node", "node-a", "--controller-ca", "ca.pem"];
        let secret = ["--node-secret-file", "secret"];
        let token = ["--node-token-file", "token"];
        let with = |more: &[&str]| Config::try_parse_from(start.iter().chain(more));
        assert!(with(&[]).is_err());
        assert!(with(&[secret, token].concat()).is_err());
        assert_eq!(with(&token).unwrap().node_token_file.unwrap(), PathBuf::from("token"));
    }

    #[test]
    fn a_gateway_needs_to_know_its_own_pod_and_no_node() {
        let start =
            ["weft-proxy", "--role", "gateway", "--controller-ca", "ca.pem", "--node-token-file", "token"];
        let own = [
            "--gateway=infra/front",
            "--pod-name=front-1",
            "--pod-namespace=infra",
            "--pod-uid=u",
            "--service-account=front",
            "--pod-addresses=10.0.0.1,fd00::1",
        ];
        let with = |more: &[&str]| Config::try_parse_from(start.iter().chain(more));
        assert!(with(&[]).unwrap_err().to_string().contains("--gateway"));
        let gateway = with(&own).unwrap().gateway().unwrap().unwrap();
        assert_eq!(gateway.gateway, ObjectName::new("infra", "front"));
        assert_eq!(gateway.addresses.len(), 2);
        for missing in 1..own.len() {
            let mut others = own.to_vec();
            let flag = others.remove(missing).split_once('=').unwrap().0;
            let error = with(&others).unwrap().gateway().unwrap_err().to_string();
            assert!(error.starts_with(flag), "{error}");
        }
    }

    #[test]
    fn nobody_is_trusted_unless_told() {
        let trusting = |flags: &[&str]| {
            let config = Config::try_parse_from(REQUIRED.iter().chain(flags)).unwrap();
            config.trust().has("192.0.2.7".parse().unwrap())
        };
        assert!(!trusting(&[]));
        assert!(trusting(&["--trusted-proxies", "10.0.0.0/8,192.0.2.0/24"]));
        assert!(!trusting(&["--trusted-proxies", "10.0.0.0/8"]));
        assert!(trusting(&["--trusted-hops", "1"]));
        let both = ["--trusted-hops", "1", "--trusted-proxies", "10.0.0.0/8"];
        assert!(Config::try_parse_from(REQUIRED.iter().chain(&both)).is_err());
    }

    #[test]
    fn zero_workers_still_carry_traffic() {
        let config = Config::try_parse_from(REQUIRED.into_iter().chain(["--workers", "0"])).unwrap();
        assert_eq!(config.worker_count(), 1);
    }
}
