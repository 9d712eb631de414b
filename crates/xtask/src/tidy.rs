//! `cargo xtask tidy`: the rules that no compiler checks.

mod dependencies;
mod files;
mod suite;

use anyhow::{Result, bail};

use crate::run;

/// Options of `cargo xtask tidy`.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only the quick checks: no clippy.
    #[arg(long)]
    quick: bool,
}

/// `cargo xtask tidy`.
pub(crate) fn run(options: &Options) -> Result<()> {
    println!("== checking files and dependencies");
    let mut findings = files::check(&run::root())?;
    findings.extend(dependencies::check()?);
    findings.extend(suite::check(&run::root())?);
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} thing(s) to mend, listed above", findings.len());
    }
    run::step("checking the formatting", &mut run::cargo(&["fmt", "--all", "--check"]))?;
    if !options.quick {
        let mut clippy =
            run::cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]);
        run::step("linting", &mut clippy)?;
    }
    Ok(())
}
