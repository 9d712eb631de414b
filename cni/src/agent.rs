//! The agent of one node: decides which pods are enrolled, captures their traffic, and shares their sockets with the
//! proxy. This file builds the parts; `agent/members.rs` has what happens to one pod.

pub mod config;
mod link;
mod members;
mod plugin_socket;
pub mod pods;
mod proxy_socket;
mod reconcile;
mod status;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use tokio::sync::watch;

use config::Config;
use members::Members;
use pods::PodSource;

/// Runs the agent until one of its parts fails.
///
/// # Errors
/// When a socket cannot be made in the runtime directory.
pub async fn run(config: Config) -> io::Result<()> {
    let directory = config.runtime_dir.clone();
    let described =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(described)?;
    let (table, pods) = watch::channel(None);
    let source = pods::Folder::new(config.folder.clone(), config.node.as_str().into());
    let proxies = weft_runtime::fd::bind_seqpacket(&directory.join("agent.sock")).map_err(described)?;
    let plugins = plugin_socket::bind(&directory.join("cni.sock")).map_err(described)?;
    let members = Arc::new(Members::new(config, pods));
    tracing::info!(node = %members.config.node, directory = %directory.display(), "agent started");
    tokio::select! {
        () = source.run(table) => Err(io::Error::other("the pod source ended")),
        result = proxy_socket::serve(proxies, members.clone()) => result,
        result = plugin_socket::serve(plugins, members.clone()) => result,
        () = reconcile::run(members.clone()) => Err(io::Error::other("the reconciliation ended")),
        () = reconcile::reset_when_unserved(members.clone()) => Err(io::Error::other("the reset loop ended")),
        () = status::write_changes(members) => Err(io::Error::other("the status writer ended")),
    }
}
