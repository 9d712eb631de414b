//! `cargo xtask cluster …` and `cargo xtask images`: a real Kubernetes on this machine, and images of this tree in it.
//! The cluster's program is `weft-cluster` (`conformance/cluster`); this builds it, then steps aside.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{run, setup};

/// Options of `cargo xtask cluster`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// up, down, status, load-images, kubectl, exec; `help` shows more.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    arguments: Vec<String>,
}

/// Options of `cargo xtask images`.
#[derive(clap::Args)]
pub(crate) struct ImageOptions {
    /// Optimised programs, as users run them.
    #[arg(long)]
    release: bool,
}

/// `cargo xtask cluster`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut arguments = options.arguments.clone();
    let verb = arguments.first().map_or("help", String::as_str);
    if verb == "up" {
        setup::for_clusters()?;
    }
    let none_named = !arguments.iter().skip(1).any(|a| a.ends_with(".tar"));
    if verb == "load-images" && none_named {
        arguments.push(images("dev")?.display().to_string());
    }
    let error = Command::new(program()?).args(arguments).exec();
    Err(error).context("cannot run weft-cluster")
}

/// `cargo xtask images`.
pub(crate) fn make_images(options: &ImageOptions) -> Result<()> {
    images(if options.release { "release" } else { "dev" }).map(|_| ())
}

/// Builds the programs and makes their images; the archive.
pub(crate) fn images(profile: &str) -> Result<PathBuf> {
    let binaries = run::build_binaries(profile)?;
    let archive = run::target_dir().join("images").join(format!("weft-{profile}.tar"));
    let mut command = Command::new(program()?);
    command.arg("images").arg("--bin-dir").arg(binaries).arg("--out").arg(&archive);
    run::step("making images", &mut command)?;
    Ok(archive)
}

/// Builds the cluster's own program.
pub(crate) fn program() -> Result<PathBuf> {
    // The whole workspace's choice of features, so that nothing is compiled twice.
    let bins = ["--bin", "weft-cluster", "--bin", "weft-cluster-pause"];
    let mut build = run::cargo(&[&["build", "--quiet", "--workspace"][..], &bins].concat());
    let status = build.status().context("cannot start cargo")?;
    anyhow::ensure!(status.success(), "weft-cluster does not build");
    Ok(run::target_dir().join("debug/weft-cluster"))
}
