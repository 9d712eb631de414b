//! `weft-agent`: enrols this node's pods; see the library.
#![forbid(unsafe_code)]

use clap::Parser;
use weft_cni::agent::{self, config::Config};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).init();
    Ok(agent::run(Config::parse()).await?)
}
