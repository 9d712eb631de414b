//! `weft-agent`: enrols this node's pods; see the library.
#![forbid(unsafe_code)]

use clap::Parser;
use weft_cni::agent::{self, config::Config};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let level = weft_runtime::logging::init(&config.log, config.log_format)?;
    Ok(agent::run(config, level).await?)
}
