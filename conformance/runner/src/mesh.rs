//! `cargo xtask conformance --mesh`: the suite's mesh profiles, once for each placement, judged in every respect.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use weft_cluster::Cluster;

use crate::expectations::{Expectation, Expectations};
use crate::install::{self, Chart};
use crate::listing::Listing;
use crate::outcome::{self, Outcome};
use crate::place::{NODES, Scheduler};
use crate::placement::Placement;
use crate::ways::Ways;
use crate::{Common, committed, programs, report, suite};

/// One way of running the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Run {
    /// All pods on one node.
    Together,
    /// Versions v1 and v2 on different nodes.
    Apart,
    /// All pods on one node, and calls between them through the tunnel nevertheless.
    Tunnel,
}

impl Run {
    const fn placement(self) -> Placement {
        match self {
            Self::Apart => Placement::Apart,
            Self::Together | Self::Tunnel => Placement::Together,
        }
    }

    const fn same_node(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Together | Self::Apart => "direct",
        }
    }

    /// Whether calls travel by mutual TLS, and whether some stay inside the proxy.
    const fn ways(self) -> (bool, bool) {
        match self {
            Self::Together => (false, true),
            Self::Apart => (true, true),
            Self::Tunnel => (true, false),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::Apart => "apart",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What came of one run.
struct Judged {
    run: Run,
    outcomes: BTreeMap<String, Outcome>,
    seconds: u64,
    failures: Vec<String>,
}

/// Runs the suite with each placement; fails if anything is not as expected.
///
/// # Errors
/// If a run cannot be made, or something is not as expected; that has then been printed.
pub fn run(common: &Common, runs: &[Run]) -> Result<()> {
    let (program, listing) = programs::suite()?;
    let expectations = expectations(common, &listing)?.only(is_of_mesh);
    let cluster = common.cluster_up(&[])?;
    cluster.load_images(&[&programs::echo_images(&common.workspace, &listing)?, &common.images])?;
    // A run that was killed has left them cordoned.
    cluster.kubectl(&[&["uncordon"], &NODES[..]].concat())?;
    let chart = Chart::new(&common.workspace, &common.images)?;
    let mut results = Vec::new();
    for run in runs {
        let folder = common.out.join(run.name());
        println!("== {}: {}; calls inside a node: {}", run.name(), run.placement(), run.same_node());
        chart.install(&cluster, run.same_node())?;
        let mesh = install::mesh(&cluster)?;
        results.push(once(&cluster, &program, &mesh, *run, &folder, &expectations)?);
    }
    for result in &mut results {
        let report = common.out.join(result.run.name()).join("report.yaml");
        result.failures.extend(judge_report(&common.workspace, &report));
    }
    print_table(&expectations, &results);
    let failures: Vec<String> = results
        .iter()
        .flat_map(|result| result.failures.iter().map(|f| format!("{}: {f}", result.run.name())))
        .collect();
    if !failures.is_empty() {
        bail!("not as expected:\n  {}", failures.join("\n  "));
    }
    Ok(())
}

/// Whether a test is one of meshes.
pub(crate) fn is_of_mesh(test: &str) -> bool {
    test.starts_with("Mesh")
}

/// The expectations, which have to speak of exactly the suite's tests; words and features have to be the suite's as well.
pub(crate) fn expectations(common: &Common, listing: &Listing) -> Result<Expectations> {
    let file = common.workspace.join("conformance/expectations");
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let expectations = Expectations::parse(&text).with_context(|| format!("reading {}", file.display()))?;
    let differences = expectations.missing_and_unknown(&listing.names());
    if !differences.is_empty() {
        bail!("{}: {}", file.display(), differences.join("; "));
    }
    for (file, content) in [("words", listing.words()), ("features", listing.features())] {
        let file = common.workspace.join("conformance").join(file);
        if std::fs::read_to_string(&file).unwrap_or_default() != content {
            bail!("{} is not what the suite holds: cargo xtask conformance --list", file.display());
        }
    }
    Ok(expectations)
}

#[allow(clippy::disallowed_methods, reason = "says how long a run took")]
fn once(
    cluster: &Cluster,
    program: &Path,
    mesh: &str,
    run: Run,
    folder: &Path,
    expectations: &Expectations,
) -> Result<Judged> {
    let scheduler = Scheduler::start(cluster, run.placement())?;
    let before = Ways::count(cluster)?;
    let start = Instant::now();
    let profiles = suite::MESH.map(str::to_owned).into();
    let subject = suite::Subject { mesh: mesh.to_owned(), profiles, enrolled: true, ..Default::default() };
    let ran = suite::run(cluster, program, &subject, folder)?;
    let seconds = start.elapsed().as_secs();
    let outcomes = outcome::read(&ran.output, suite::TEST);
    let mut failures = expectations.differences(&outcomes);
    if !ran.passed {
        failures.insert(0, "the Go test itself failed".to_owned());
    }
    let record = scheduler.finish()?;
    println!("== {}: where the pods ran, read back from the API server:\n{record}", run.name());
    failures.extend(record.judge(run.placement(), NODES).err().map(|error| error.to_string()));
    let ways = Ways::count(cluster)?.since(&before);
    println!("== {}: how its calls travelled: {ways}", run.name());
    let (mtls, same_node) = run.ways();
    failures.extend(ways.judge(mtls, same_node).err().map(|error| error.to_string()));
    Ok(Judged { run, outcomes, seconds, failures })
}

/// What is wrong with a run's report, by itself and beside the committed one.
fn judge_report(workspace: &Path, file: &Path) -> Vec<String> {
    let judge = || -> Result<Vec<String>> {
        let now = committed::read(file)?;
        let mut found = report::shortcomings(&now, &suite::MESH);
        found.extend(committed::differences(workspace, &now, &suite::MESH)?);
        Ok(found)
    };
    judge().unwrap_or_else(|error| vec![format!("{error:#}")])
}

/// A line for each test that ran or should have, and one for all that are not run.
fn print_table(expectations: &Expectations, results: &[Judged]) {
    let columns: String = results.iter().map(|result| format!(" {:>16}", result.run.name())).collect();
    println!("\n{:<46} {:<9}{columns}", "test", "expected");
    let mut not_run = 0;
    for (name, expectation) in expectations.iter() {
        let ran = |result: &&Judged| result.outcomes.get(name).map(|outcome| outcome.verdict);
        let as_expected = results.iter().all(|r| ran(&r) == Some(outcome::Verdict::Skipped));
        if matches!(expectation, Expectation::NotRun(_)) && as_expected {
            not_run += 1;
            continue;
        }
        let expected = if *expectation == Expectation::Pass { "pass" } else { "not run" };
        let cell = |result: &Judged| match result.outcomes.get(name) {
            Some(outcome) => format!(" {:>9} {:>5.1}s", outcome.verdict.to_string(), outcome.seconds),
            None => format!(" {:>16}", "never began"),
        };
        println!("{name:<46} {expected:<9}{}", results.iter().map(cell).collect::<String>());
    }
    println!("{:<46} {:<9}", format!("{not_run} others"), "not run");
    let times: String = results.iter().map(|result| format!(" {:>15}s", result.seconds)).collect();
    println!("{:<46} {:<9}{times}", "the whole run", "");
}
