//! `cargo xtask demo`.

use anyhow::Result;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {}

/// `cargo xtask demo`.
pub(crate) fn run(_: &Options) -> Result<()> {
    anyhow::bail!("not written yet")
}
