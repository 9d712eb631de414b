//! `weft-agent`: enrols this node's pods; see the library.
#![forbid(unsafe_code)]

use clap::Parser;
use weft_cni::agent::{self, config::Config};
use weft_cni::kernel::owner;

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let level = weft_runtime::logging::init(&config.log, config.log_format)?;
    if let Err(error) = owner::enter_cgroup_namespace_of_node() {
        tracing::warn!(%error, "cannot see the cgroups of the node's processes: probes of the kubelet may be refused");
    }
    // Only now: threads begin in the namespaces of the one that starts them.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(agent::run(config, level))?)
}
