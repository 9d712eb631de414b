//! One run of the suite's test program, as it is, in the cluster's host network namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use weft_cluster::Cluster;

/// The profiles that a mesh can pass.
pub const MESH: [&str; 2] = ["MESH-HTTP", "MESH-GRPC"];
/// The profiles that Gateways can pass.
pub const GATEWAY: [&str; 5] = ["GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS", "GATEWAY-TCP", "GATEWAY-UDP"];
/// The Go test that is the suite.
pub const TEST: &str = "TestConformance";

/// Who is reported on.
const ORGANIZATION: &str = "weft-mesh";
const PROJECT: &str = "weft";
/// Where it is: `repository` of the workspace's `Cargo.toml`. Who has questions asks there.
const URL: &str = env!("CARGO_PKG_REPOSITORY");
/// How the suite's namespaces come into the mesh.
const LABELS: &str = "weft-mesh.dev/mesh=enabled";
/// An address that the test cluster gives on request, and one that it never gives.
const ADDRESSES: (&str, &str) = ("10.10.1.200", "192.0.2.1");

/// What is run, against what.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The GatewayClass's name; empty: none.
    pub class: String,
    /// The XMesh's name; empty: none.
    pub mesh: String,
    /// What is claimed; empty: what the statuses of the class and of the mesh claim.
    pub features: Vec<String>,
    /// The profiles.
    pub profiles: Vec<String>,
    /// Whether the suite's namespaces are in the mesh.
    pub enrolled: bool,
    /// Only this test.
    pub test: Option<String>,
}

/// What a run printed, and how it ended.
#[derive(Debug)]
pub struct Run {
    /// All that the Go test printed.
    pub output: String,
    /// Whether the Go test itself says that it passed.
    pub passed: bool,
    /// The report, if the suite wrote one.
    pub report: PathBuf,
}

/// The version that reports name.
#[must_use]
pub fn version() -> String {
    format!("v{}", env!("CARGO_PKG_VERSION"))
}

/// Runs the suite's `program`; what it prints goes to the terminal and into `folder`.
///
/// # Errors
/// If it cannot be started or its output cannot be kept. A failed test is no error.
pub fn run(cluster: &Cluster, program: &Path, subject: &Subject, folder: &Path) -> Result<Run> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let report = folder.join("report.yaml");
    if report.exists() {
        std::fs::remove_file(&report)?;
    }
    let mut log = File::create(folder.join("output.log"))?;
    let mut command = cluster.command("exec");
    command.arg("--").arg(program).args(arguments(subject, &report));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the suite")?;
    let mut output = String::new();
    let source = child.stdout.take().context("the suite has no output")?;
    let mut terminal = std::io::stdout().lock();
    for line in BufReader::new(source).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned() + "\n";
        terminal.write_all(line.as_bytes())?;
        log.write_all(line.as_bytes())?;
        output += &line;
    }
    let passed = child.wait()?.success();
    Ok(Run { output, passed, report })
}

fn arguments(subject: &Subject, report: &Path) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["-test.v", "-test.count=1", "-test.timeout=60m"].map(str::to_owned).into();
    arguments.push(format!("-test.run=^{TEST}$"));
    let (usable, unusable) = ADDRESSES;
    for (flag, value) in [
        ("gateway-class", subject.class.as_str()),
        ("mesh-name", &subject.mesh),
        ("conformance-profiles", &subject.profiles.join(",")),
        ("namespace-labels", if subject.enrolled { LABELS } else { "" }),
        ("usable-address", usable),
        ("unusable-address", unusable),
        ("organization", ORGANIZATION),
        ("project", PROJECT),
        ("url", URL),
        ("version", &version()),
        ("contact", URL),
        ("report-output", &report.display().to_string()),
    ] {
        arguments.push(format!("-{flag}={value}"));
    }
    if !subject.features.is_empty() {
        arguments.push(format!("-supported-features={}", subject.features.join(",")));
    }
    arguments.extend(subject.test.as_ref().map(|test| format!("-run-test={test}")));
    arguments
}
