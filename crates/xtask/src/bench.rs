//! `cargo xtask bench`: CPU per request beside HAProxy and Envoy, in one interleaved run.

use anyhow::Result;

use crate::setup;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds, in each of which every program is measured once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

/// `cargo xtask bench`.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_benches()?;
    anyhow::bail!("not written yet ({} rounds asked)", options.rounds)
}
