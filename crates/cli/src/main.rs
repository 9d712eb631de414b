//! The `weft` command.
#![forbid(unsafe_code)]

mod check;
mod cluster;
mod facts;
mod install;
mod mesh;
mod output;
mod status;
#[cfg(test)]
mod testing;
mod uninstall;

use std::process::ExitCode;

use anyhow::Result;
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
    /// Print what installs Weft, for `kubectl apply -f -`.
    Install(install::InstallArgs),
    /// Look for what is wrong with Weft in a cluster, or in its way.
    Check(check::CheckArgs),
    /// Show the nodes and pods of the mesh, and what it does not cover.
    Status(status::StatusArgs),
    /// Take every pod out of the mesh and remove what Weft made, before what was installed is deleted.
    Uninstall(uninstall::UninstallArgs),
    /// A cluster of network namespaces on this machine, without Kubernetes.
    #[command(subcommand)]
    Lab(LabCommand),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        // The lab changes namespaces: no thread may exist before.
        Command::Lab(command) => weft_lab::run(command),
        Command::Install(arguments) => end("install", install::run(&arguments)),
        Command::Check(arguments) => end("check", block_on(check::run(arguments))),
        Command::Status(arguments) => end("status", block_on(status::run(arguments))),
        Command::Uninstall(arguments) => end("uninstall", block_on(uninstall::run(arguments))),
    }
}

fn block_on(work: impl Future<Output = Result<u8>>) -> Result<u8> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn end(command: &str, outcome: Result<u8>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft {command}: {error:#}");
            // For `check`: nothing could be looked at.
            ExitCode::from(if command == "check" { check::NOT_CHECKED } else { 1 })
        }
    }
}
