//! Runs the cases on a Kubernetes cluster: `weft-conformance-cases --help`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use weft_conformance_cases::cases::{self, Case};
use weft_conformance_cases::cluster::{Cluster, Options};
use weft_conformance_cases::measure;
use weft_conformance_cases::mesh::{Checks, Mesh};

/// Weft's own conformance cases, on the cluster that kubectl leads to. They make namespaces and remove them again.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// Only these cases.
    #[arg(long = "case", value_name = "NAME")]
    only: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// Measure Weft instead of asking the cases.
    #[arg(long, conflicts_with_all = ["only", "list"])]
    measure: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let chosen: Vec<&Case> = cases::ALL
        .iter()
        .filter(|case| cli.only.is_empty() || cli.only.iter().any(|n| n == case.name))
        .collect();
    if cli.list {
        chosen.iter().for_each(|case| println!("{:<13} {}", case.name, case.about));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = cli.only.iter().find(|name| cases::ALL.iter().all(|case| case.name != **name)) {
        eprintln!("there is no case {unknown}; --list names all");
        return ExitCode::FAILURE;
    }
    if cli.measure {
        return match measure(&cli.options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut table = Vec::new();
    for case in chosen {
        println!("== {}: {}", case.name, case.about);
        table.push((case.name, run(case, &cli.options)));
    }
    let mut failed = false;
    println!("\n{:<13} {:>6} {:>6}", "case", "checks", "failed");
    for (name, outcome) in table {
        match outcome {
            Ok((count, failures)) => {
                println!("{name:<13} {count:>6} {:>6}", failures.len());
                failures.iter().for_each(|claim| println!("   FAILS {claim}"));
                failed |= !failures.is_empty();
            }
            Err(error) => {
                println!("{name:<13} did not come about: {error:#}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(case: &Case, options: &Options) -> anyhow::Result<(usize, Vec<String>)> {
    let mesh = Mesh::new(Box::new(Cluster::new(options.clone())));
    let outcome = mesh.apply("topology", &(case.topology)()).and_then(|()| mesh.settle()).map(|()| {
        let mut checks = Checks::new(&mesh);
        (case.run)(&mut checks);
        checks.outcome()
    });
    let cleared = mesh.clear();
    let outcome = outcome?;
    cleared.map(|()| outcome)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let mesh = Mesh::new(Box::new(Cluster::new(options.clone())));
    let outcome = mesh.apply("topology", &measure::topology()).and_then(|()| mesh.settle());
    let outcome = outcome.and_then(|()| measure::run(&mesh));
    let cleared = mesh.clear();
    outcome.and(cleared)
}
