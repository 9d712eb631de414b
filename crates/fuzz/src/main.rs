//! Runs fuzz targets for as long as asked.
#![forbid(unsafe_code)]

use std::time::Duration;

use clap::Parser;
use weft_fuzz::{driver, targets};

/// Runs Weft's fuzz targets on mutated seeds.
#[derive(Parser)]
struct Cli {
    /// How long each target runs, seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The random seed; the same one gives the same inputs. Default: a random one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Targets; none: all.
    targets: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(rand::random);
    let unknown = cli.targets.iter().find(|name| targets::ALL.iter().all(|t| t.name != name.as_str()));
    if let Some(name) = unknown {
        let names: Vec<_> = targets::ALL.iter().map(|t| t.name).collect();
        anyhow::bail!("no target {name:?}; there are: {}", names.join(" "));
    }
    for target in
        targets::ALL.iter().filter(|t| cli.targets.is_empty() || cli.targets.iter().any(|n| n == t.name))
    {
        let report = driver::run(target, seed, Duration::from_secs(cli.seconds));
        println!("{}: {} inputs, seed {seed}", target.name, report.inputs);
        if let Some(input) = report.panicked_on {
            anyhow::bail!("{} panicked on {:?}", target.name, String::from_utf8_lossy(&input));
        }
    }
    Ok(())
}
