//! `cargo xtask codegen`: the Gateway API types from the vendored CRDs and the protocol code from its `.proto`.
//! The generator is a workspace of its own (`crates/codegen`), so that nobody else compiles it.

use anyhow::Result;

use crate::run;

/// Options of `cargo xtask codegen`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail if the committed code is not what would be generated.
    #[arg(long)]
    pub(crate) check: bool,
}

/// `cargo xtask codegen`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let manifest = run::root().join("crates/codegen/Cargo.toml");
    let mut command = run::cargo(&["run", "--quiet", "--release", "--manifest-path"]);
    command.arg(&manifest).arg("--target-dir").arg(run::cache_dir().join("codegen"));
    if options.check {
        command.args(["--", "--check"]);
    }
    run::step(if options.check { "comparing generated code" } else { "generating code" }, &mut command)
}
