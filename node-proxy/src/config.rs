//! The proxy's command line and environment: one struct, no other place reads either.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use weft_runtime::duration::duration;
use weft_runtime::logging;

use crate::telemetry::AccessLogTarget;

/// The process's configuration.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "weft-proxy", version, about = "Carries the traffic of one node's enrolled pods.")]
#[command(group = clap::ArgGroup::new("node-proof").required(true).args(["node_secret_file", "node_token_file"]))]
pub struct Config {
    /// Name of the node this proxy runs on.
    #[arg(long, env = "WEFT_NODE")]
    pub node: String,

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

    /// File with this node's secret, sent as `authorization: Bearer <node>:<secret>`. Read anew for each call.
    #[arg(long, env = "WEFT_NODE_SECRET_FILE")]
    pub node_secret_file: Option<PathBuf>,

    /// File with this pod's service-account token of audience `weft-ca`, sent as `authorization: Bearer <token>`.
    /// Read anew for each call.
    #[arg(long, env = "WEFT_NODE_TOKEN_FILE")]
    pub node_token_file: Option<PathBuf>,

    /// Where the admin server listens: /metrics /config /certificates /healthz /readyz.
    #[arg(long, env = "WEFT_ADMIN", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,

    /// Threads that carry traffic; one per CPU if not given.
    #[arg(long, env = "WEFT_WORKERS")]
    pub workers: Option<usize>,

    /// Connections that one pod may have open at a time; further ones are refused as `overloaded`.
    #[arg(long, env = "WEFT_MAX_CONNECTIONS_PER_POD", default_value_t = 16_384)]
    pub max_connections_per_pod: usize,

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

/// How calls between pods of this node travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SameNode {
    /// Inside this process.
    Direct,
    /// Over mutual TLS, as between nodes.
    Tunnel,
}

impl Config {
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
    fn zero_workers_still_carry_traffic() {
        let config = Config::try_parse_from(REQUIRED.into_iter().chain(["--workers", "0"])).unwrap();
        assert_eq!(config.worker_count(), 1);
    }
}
