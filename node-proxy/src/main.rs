//! `weft-proxy`: see the library.
#![forbid(unsafe_code)]

use clap::Parser as _;

/// Gives memory back and keeps many small allocations of several threads apart.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    weft_proxy::app::run(weft_proxy::config::Config::parse())
}
