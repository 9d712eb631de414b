//! `cargo xtask conformance --gateway` and `--all`: the suite's gateway profiles, alone or with the mesh's, in one run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;
use weft_cluster::Cluster;

use crate::expectations::Expectation;
use crate::install::{self, Chart};
use crate::mesh::{expectations, is_of_mesh};
use crate::outcome::{self, Outcome, Verdict};
use crate::place::NODES;
use weft_controller::kubernetes::mesh::FEATURES;

use crate::{Common, committed, programs, suite};

/// Which of the Gateway API's definitions are installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Channel {
    /// The standard ones: all kinds but XMesh.
    Standard,
    /// All there are.
    #[default]
    Experimental,
}

impl Channel {
    const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        }
    }
}

/// What is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// With these definitions.
    pub channel: Channel,
    /// Some of [`suite::GATEWAY`], in any case of letters and with or without the prefix; empty: all.
    pub profiles: Vec<String>,
    /// Only this test.
    pub test: Option<String>,
    /// The mesh profiles as well, with the suite's namespaces in the mesh.
    pub all: bool,
    /// Write the report that is committed, which is that of a whole run of all.
    pub update: bool,
}

impl Options {
    fn profiles(&self) -> Result<Vec<String>> {
        let known = suite::GATEWAY.map(str::to_owned);
        let mesh = self.all.then(|| suite::MESH.map(str::to_owned)).into_iter().flatten();
        if self.profiles.is_empty() {
            return Ok(known.into_iter().chain(mesh).collect());
        }
        let named = self.profiles.iter().map(|name| {
            let name = name.to_uppercase();
            let full = if name.starts_with("GATEWAY-") { name } else { format!("GATEWAY-{name}") };
            if known.contains(&full) { Ok(full) } else { bail!("{full} is not one of {}", known.join(", ")) }
        });
        named.chain(mesh.map(Ok)).collect()
    }

    /// Whether every test of Gateways is to run.
    fn is_whole(&self) -> bool {
        self.profiles.is_empty() && self.test.is_none()
    }
}

/// Runs the suite once; fails if a test fails or, in a run of all profiles, if anything is not as expected.
///
/// # Errors
/// If the run cannot be made, or something is not as expected; that has then been printed.
pub fn run(common: &Common, options: &Options) -> Result<()> {
    let profiles = options.profiles()?;
    let (program, listing) = programs::suite()?;
    let expected = expectations(common, &listing)?.only(|test| options.all || !is_of_mesh(test));
    let cluster = common.cluster_up(&["--crds", options.channel.name()])?;
    cluster.load_images(&[&programs::echo_images(&common.workspace, &listing)?, &common.images])?;
    cluster.kubectl(&[&["uncordon"], &NODES[..]].concat())?;
    Chart::new(&common.workspace, &common.images)?.install(&cluster, "direct")?;
    // The tag of their image does not change with its content: those of an earlier run are made anew.
    let of_gateways = ["--all-namespaces", "--selector=weft-mesh.dev/managed-by=weft-controller"];
    cluster.kubectl(&[&["delete", "pods", "--wait=false"], &of_gateways[..]].concat())?;
    let subject = subject(&cluster, options, profiles)?;
    println!("== {}, with the {} definitions", subject.profiles.join(", "), options.channel.name());
    let ran = suite::run(&cluster, &program, &subject, &common.out)?;
    let outcomes = outcome::read(&ran.output, suite::TEST);
    print_table(&outcomes, options.is_whole().then_some(&expected));
    let mut failures = Vec::new();
    if !ran.passed {
        failures.push("the Go test itself failed".to_owned());
    }
    if options.is_whole() {
        failures.extend(expected.differences(&outcomes));
    }
    if options.is_whole() && options.all {
        failures.extend(judge_report(common, &ran.report, options.update)?);
    }
    if !failures.is_empty() {
        bail!("not as expected:\n  {}", failures.join("\n  "));
    }
    Ok(())
}

/// What is run, against what. Features are read by the suite from the statuses of the class and of the mesh. With the
/// standard definitions there is no object whose status could tell the mesh's, so it is given all of them: the class's
/// from its status, as the suite reads them, and the mesh's from the controller's own list.
fn subject(cluster: &Cluster, options: &Options, profiles: Vec<String>) -> Result<suite::Subject> {
    let class = install::class(cluster)?;
    let (mesh, features) = match (options.all, options.channel) {
        (false, _) => Default::default(),
        (true, Channel::Experimental) => (install::mesh(cluster)?, Vec::new()),
        (true, Channel::Standard) => {
            (String::new(), class.features.into_iter().chain(FEATURES.map(str::to_owned)).collect())
        }
    };
    let test = options.test.clone();
    Ok(suite::Subject { class: class.name, mesh, features, profiles, enrolled: options.all, test })
}

/// What differs from the committed report, once that is written if it is to be.
fn judge_report(common: &Common, file: &Path, update: bool) -> Result<Vec<String>> {
    if update {
        committed::update(&common.workspace, file)?;
    }
    let now = committed::read(file)?;
    let all: Vec<&str> = suite::GATEWAY.into_iter().chain(suite::MESH).collect();
    committed::differences(&common.workspace, &now, &all)
}

/// A line for each test that ran, and how many there are of each kind.
fn print_table(outcomes: &BTreeMap<String, Outcome>, expected: Option<&crate::expectations::Expectations>) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    println!("\n{:<70} {:<9} {:>8}", "test", "verdict", "seconds");
    for (name, outcome) in outcomes {
        *counts.entry(outcome.verdict.to_string()).or_default() += 1;
        if outcome.verdict != Verdict::Skipped {
            println!("{name:<70} {:<9} {:>8.1}", outcome.verdict.to_string(), outcome.seconds);
        }
    }
    let counts: Vec<String> = counts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    println!("{}", counts.join(", "));
    if let Some(expected) = expected {
        let pass = expected.iter().filter(|(_, expectation)| **expectation == Expectation::Pass).count();
        println!("{pass} expected to pass");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_named_briefly_and_unknown_ones_are_refused() {
        let named = |names: &[&str], all: bool| {
            let profiles = names.iter().map(ToString::to_string).collect();
            Options { profiles, all, ..Options::default() }.profiles()
        };
        assert_eq!(named(&["http", "GATEWAY-UDP"], false).expect("names"), ["GATEWAY-HTTP", "GATEWAY-UDP"]);
        assert_eq!(named(&[], false).expect("all").len(), 5);
        assert_eq!(named(&[], true).expect("all").len(), 7);
        assert!(named(&["MESH-HTTP"], false).is_err());
    }
}
