//! The `weft` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_lab::LabCommand;

/// Weft, a sidecarless service mesh.
#[derive(Debug, Parser)]
#[command(name = "weft", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A cluster of network namespaces on this machine, without Kubernetes.
    #[command(subcommand)]
    Lab(LabCommand),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Lab(command) => weft_lab::run(command),
    }
}
