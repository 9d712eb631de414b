//! `cargo xtask test`: everything, from tables to the lab, in the order in which a failure is cheapest to find.

use anyhow::Result;

use crate::{codegen, run, setup, tidy};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these packages, without tidy and code generation.
    #[arg(long, short)]
    package: Vec<String>,
    /// Passed to the test programs, for example a part of a test's name.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// `cargo xtask test`.
pub(crate) fn run(options: &Options) -> Result<()> {
    println!("== this runs tests in network namespaces and needs root (or user namespaces for part of them)");
    setup::for_tests()?;
    let everything = options.package.is_empty();
    if everything {
        tidy::run(&tidy::Options::default())?;
        codegen::run(&codegen::Options { check: true })?;
    }
    let binaries = run::build_binaries("dev")?;
    if everything || options.package.iter().any(|package| package == "weft-cluster") {
        // Here, where people see how far it is, rather than inside a test.
        let mut artefacts = std::process::Command::new(binaries.join("weft-cluster"));
        run::step("building what the test cluster runs", artefacts.arg("artefacts"))?;
    }
    let mut command = run::cargo(&["test", "--no-fail-fast"]);
    for package in &options.package {
        command.args(["--package", package]);
    }
    if everything {
        command.arg("--workspace");
    }
    command.env("WEFT_BIN_DIR", binaries).arg("--").args(&options.arguments);
    run::step("running the tests", &mut command)
}

/// `cargo xtask golden`.
pub(crate) fn golden() -> Result<()> {
    // Whole test programs of that name, and tests that have it in theirs.
    for which in [&["--test", "golden"][..], &["golden"]] {
        let mut command = run::cargo(&[&["test", "--workspace"][..], which].concat());
        command.env("UPDATE_GOLDEN", "1").env("UPDATE_EXPECT", "1");
        run::step("writing the golden files anew", &mut command)?;
    }
    Ok(())
}
