//! `cargo xtask`: the menu of development tasks. `cargo xtask --help` lists it; each task is one module.
#![forbid(unsafe_code)]

mod bench;
mod cluster;
mod codegen;
mod conformance;
mod demo;
mod lab;
mod run;
mod setup;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

/// Weft's development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring up a small shop over two nodes, and show and check what the mesh does, step by step.
    Demo(demo::Options),
    /// Run every test, from tables to the lab.
    Test(test::Options),
    /// Check the rules that compilers do not: layout, dependencies, lints, formatting.
    Tidy(tidy::Options),
    /// Write the golden files anew from what the code says now; read the difference before committing it.
    Golden,
    /// Generate the Gateway API types and the protocol code anew.
    Codegen(codegen::Options),
    /// A real Kubernetes cluster on this machine: up, down, status, load-images, kubectl, exec.
    Cluster(cluster::Options),
    /// The official Gateway API conformance suite and our own cases, on a real cluster.
    Conformance(conformance::Options),
    /// Make container images of Weft's programs from this tree.
    Images(cluster::ImageOptions),
    /// Measure CPU per request beside HAProxy and Envoy, in one interleaved run.
    Bench(bench::Options),
    /// Install the Debian packages that the demo, the tests and the benches need.
    Setup(setup::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Tidy(options) => tidy::run(&options),
        Task::Golden => test::golden(),
        Task::Codegen(options) => codegen::run(&options),
        Task::Cluster(options) => cluster::run(&options),
        Task::Conformance(options) => conformance::run(&options),
        Task::Images(options) => cluster::make_images(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Setup(options) => setup::run(&options),
    }
}
