//! What `cargo xtask conformance` runs.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use weft_conformance_runner::{Common, gateway, mesh, own, programs};

/// Conformance of Weft on a real cluster.
#[derive(Parser)]
#[command(name = "cargo xtask conformance", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The official suite's mesh profiles.
    Mesh {
        #[command(flatten)]
        common: Common,
        /// Only these runs.
        #[arg(long = "run", value_enum)]
        runs: Vec<mesh::Run>,
    },
    /// The official suite's gateway profiles.
    Gateway {
        #[command(flatten)]
        common: Common,
        /// Only these profiles.
        #[arg(long = "profile")]
        profiles: Vec<String>,
        /// Only this test.
        #[arg(long)]
        test: Option<String>,
        /// The channel whose definitions are installed.
        #[arg(long, value_enum, default_value_t = gateway::Channel::Experimental)]
        crds: gateway::Channel,
        /// The mesh profiles as well, in the same run.
        #[arg(long)]
        all: bool,
        /// Write the report that is committed.
        #[arg(long, requires = "all")]
        update: bool,
    },
    /// Our own cases.
    Weft {
        #[command(flatten)]
        common: Common,
        /// The folder with the programs built from this tree.
        #[arg(long)]
        bin_dir: PathBuf,
        /// Another mesh is on the cluster, or none: do not install Weft.
        #[arg(long)]
        no_install: bool,
        /// Arguments of the cases' program.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Write down the words that only the official suite may use, and which tests need which feature.
    List {
        /// The workspace's root.
        #[arg(long)]
        workspace: PathBuf,
    },
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Mesh { common, runs } => {
            let all = [mesh::Run::Together, mesh::Run::Apart, mesh::Run::Tunnel];
            mesh::run(&common, if runs.is_empty() { &all } else { &runs })
        }
        Task::Gateway { common, profiles, test, crds, all, update } => {
            gateway::run(&common, &gateway::Options { channel: crds, profiles, test, all, update })
        }
        Task::Weft { common, bin_dir, no_install, arguments } => {
            own::run(&common, &bin_dir, !no_install, &arguments)
        }
        Task::List { workspace } => {
            let (_, listing) = programs::suite()?;
            for test in &listing.tests {
                println!("{:<60} {}", test.name, test.features.join(" "));
            }
            std::fs::write(workspace.join("conformance/features"), listing.features())?;
            Ok(std::fs::write(workspace.join("conformance/words"), listing.words())?)
        }
    }
}
