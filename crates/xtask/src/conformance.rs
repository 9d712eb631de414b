//! `cargo xtask conformance`: the official suite and our own cases, against this tree on a real cluster.
//! `conformance/runner` does the work; this builds what it needs.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{cluster, run, setup};

/// Options of `cargo xtask conformance`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The official suite's mesh profiles: with all pods on one node, with versions apart, and through the tunnel.
    #[arg(long)]
    mesh: bool,
    /// The official suite's gateway profiles: these (http, grpc, tls, tcp, udp), or all of them.
    #[arg(long, value_name = "PROFILE", num_args = 0..)]
    gateway: Option<Vec<String>>,
    /// The official suite's seven profiles in one run, with the suite's namespaces in the mesh.
    #[arg(long)]
    all: bool,
    /// With --gateway and --all: the channel whose definitions of the Gateway API are installed [default: experimental].
    #[arg(long, value_name = "CHANNEL", value_parser = ["standard", "experimental"])]
    crds: Option<String>,
    /// Our own, stricter cases.
    #[arg(long)]
    weft: bool,
    /// List the official suite's tests, and write down the words that only it may use.
    #[arg(long)]
    list: bool,
    /// With --mesh: only this run (together, apart or tunnel). May be given several times. With --gateway and --all: only
    /// the test of this name.
    #[arg(long = "run", value_name = "RUN")]
    runs: Vec<String>,
    /// With --weft: only this case. May be given several times.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// With --weft: how many pods the case `lifecycle` starts at once [default: 30].
    #[arg(long)]
    pods: Option<usize>,
    /// With --weft: instead of the cases, measure how long a route takes to be obeyed, how much later enrolled pods start and
    /// what memory the programs take.
    #[arg(long)]
    measure: bool,
    /// With --all: write the report that is committed.
    #[arg(long)]
    update: bool,
    /// With --mesh, --gateway and --all: a cluster with IPv6 beside IPv4, as --weft always has one.
    #[arg(long)]
    dual_stack: bool,
    /// The cluster's name [default: conformance, and conformance-dual with --weft or --dual-stack].
    #[arg(long)]
    name: Option<String>,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Optimised programs, as users run them.
    #[arg(long)]
    release: bool,
}

impl Options {
    /// Whether Gateways are asked for.
    fn gateways(&self) -> bool {
        self.gateway.is_some() || self.all
    }

    fn check(&self) -> Result<()> {
        if !(self.mesh || self.gateways() || self.weft || self.list) {
            bail!("say what to run: --mesh, --gateway, --all, --weft or --list");
        }
        if self.update && !self.all {
            bail!("the committed report is that of all profiles in one run: --all --update");
        }
        if self.crds.is_some() && !self.gateways() {
            bail!("--crds belongs to --gateway or --all: the other runs install the experimental channel's");
        }
        if self.gateways() && self.runs.len() > 1 {
            bail!("with --gateway and --all, --run names one test");
        }
        if (self.measure || self.pods.is_some() || !self.cases.is_empty()) && !self.weft {
            bail!("--case, --pods and --measure belong to --weft");
        }
        Ok(())
    }

    /// The runner's further arguments for Gateways.
    fn of_gateways(&self) -> Vec<String> {
        let mut more = pairs("--profile", self.gateway.as_deref().unwrap_or_default());
        more.extend(self.crds.iter().flat_map(|channel| ["--crds".to_owned(), channel.clone()]));
        more.extend(self.all.then(|| "--all".to_owned()));
        more.extend(self.update.then(|| "--update".to_owned()));
        more.extend(pairs("--test", &self.runs));
        more
    }

    /// The runner's further arguments for our own cases.
    fn of_cases(&self) -> Vec<String> {
        let bin_dir = run::target_dir().join("debug").display().to_string();
        let mut more = vec!["--bin-dir".to_owned(), bin_dir, "--".to_owned()];
        more.extend(pairs("--case", &self.cases));
        more.extend(self.pods.iter().flat_map(|pods| ["--pods".to_owned(), pods.to_string()]));
        more.extend(self.measure.then(|| "--measure".to_owned()));
        more
    }
}

fn pairs(flag: &str, values: &[String]) -> Vec<String> {
    values.iter().flat_map(|value| [flag.to_owned(), value.clone()]).collect()
}

/// `cargo xtask conformance`.
pub(crate) fn run(options: &Options) -> Result<()> {
    options.check()?;
    setup::for_clusters()?;
    let cluster_program = cluster::program()?;
    let runner = cluster_program.with_file_name("weft-conformance-runner");
    let build = ["build", "--quiet", "--workspace", "--bin", "weft-conformance-runner"];
    run::step("building the conformance runner", &mut run::cargo(&build))?;
    if options.list {
        let mut list = std::process::Command::new(&runner);
        list.arg("list").arg("--workspace").arg(run::root());
        run::step("asking the suite", &mut list)?;
    }
    if !(options.mesh || options.gateways() || options.weft) {
        return Ok(());
    }
    let profile = if options.release { "release" } else { "dev" };
    let images = cluster::images(profile)?;
    let task = |task: &str, more: &[String]| -> Result<()> {
        let dual_stack = options.dual_stack || task == "weft";
        let default = if dual_stack { "conformance-dual" } else { "conformance" };
        let name = options.name.as_deref().unwrap_or(default);
        let mut command = std::process::Command::new(&runner);
        command.arg(task).arg("--workspace").arg(run::root()).arg("--cluster-program").arg(&cluster_program);
        command.args(["--name", name]).arg("--images").arg(&images);
        command.args(dual_stack.then_some("--dual-stack"));
        command.arg("--out").arg(run::target_dir().join("conformance").join(task)).args(more);
        let outcome = run::step(&format!("conformance: {task}"), &mut command);
        if !options.keep {
            take_down(&cluster_program, name);
        }
        outcome
    };
    if options.mesh {
        task("mesh", &pairs("--run", &options.runs))?;
    }
    if options.gateways() {
        task("gateway", &options.of_gateways())?;
    }
    if options.weft {
        setup::for_tests()?;
        task("weft", &options.of_cases())?;
    }
    Ok(())
}

fn take_down(cluster_program: &Path, name: &str) {
    let mut down = std::process::Command::new(cluster_program);
    if let Err(error) = run::step("taking the cluster down", down.args(["down", "--name", name])) {
        eprintln!("{error:#}");
    }
}
