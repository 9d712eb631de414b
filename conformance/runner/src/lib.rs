//! Runs the official Gateway API conformance suite, and our own cases, against Weft on a real cluster, and judges what came
//! out.
#![forbid(unsafe_code)]

pub mod committed;
pub mod expectations;
pub mod features;
pub mod gateway;
pub mod install;
pub mod listing;
pub mod mesh;
pub mod outcome;
pub mod own;
pub mod place;
pub mod placement;
pub mod programs;
pub mod report;
pub mod suite;
pub mod ways;

use std::path::PathBuf;

use anyhow::Result;
use weft_cluster::Cluster;

/// What every task needs.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// The workspace's root.
    #[arg(long)]
    pub workspace: PathBuf,
    /// The program `weft-cluster`.
    #[arg(long)]
    pub cluster_program: PathBuf,
    /// The cluster's name; it is brought up unless it is up.
    #[arg(long, default_value = "dev")]
    pub name: String,
    /// The archive with Weft's images.
    #[arg(long)]
    pub images: PathBuf,
    /// The cluster has IPv6 beside IPv4.
    #[arg(long)]
    pub dual_stack: bool,
    /// Where logs and reports go.
    #[arg(long)]
    pub out: PathBuf,
}

impl Common {
    /// The cluster's handle.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        Cluster::new(&self.name, &self.cluster_program)
    }

    /// The cluster, brought up with these options unless it is up.
    ///
    /// # Errors
    /// If it does not come up, or is up with other options.
    pub fn cluster_up(&self, options: &[&str]) -> Result<Cluster> {
        let cluster = self.cluster();
        let families: &[&str] = if self.dual_stack { &["--dual-stack"] } else { &[] };
        cluster.up(&[families, options].concat())?;
        Ok(cluster)
    }
}
