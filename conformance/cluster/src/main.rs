//! The test cluster's program: what `cargo xtask cluster` runs, and what the cluster itself runs as its first processes.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

/// A real Kubernetes cluster on this machine, for tests.
#[derive(Parser)]
#[command(name = "cargo xtask cluster", version)]
struct Cli {
    #[command(subcommand)]
    command: weft_cluster::command::Command,
}

fn main() -> ExitCode {
    weft_cluster::command::run(Cli::parse().command)
}
