//! `weft lab status`.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::Which;
use super::up::refusals;
use crate::report::{LabReport, ObjectReport, Phase};
use crate::statuses;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    which: Which,
    /// Output format.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables.
    Text,
    /// The whole report.
    Json,
}

impl Status {
    pub(super) fn run(self) -> Result<u8> {
        let (state, pid, mut report) = self.which.running()?;
        report.objects = statuses::all(&state);
        if self.output == Format::Json {
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(0);
        }
        let phase = match &report.phase {
            Phase::Starting => "starting".to_owned(),
            Phase::Running => "running".to_owned(),
            Phase::Failed(reason) => format!("failed: {reason}"),
        };
        println!(
            "Lab {}: {phase} (process {pid}), objects from {}, state in {}\n",
            report.name,
            report.folder,
            state.0.display()
        );
        print!("{}", table(&pods(&report)));
        if !report.daemons.is_empty() {
            println!();
            print!("{}", table(&daemons(&report)));
        }
        if !report.objects.is_empty() {
            println!();
            print!("{}", table(&objects(&report)));
        }
        for line in refusals(&report) {
            println!("{line}");
        }
        Ok(0)
    }
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|c| (*c).to_owned()).collect()
}

fn pods(report: &LabReport) -> Vec<Vec<String>> {
    let mut rows =
        vec![row(&["NAMESPACE", "POD", "READY", "STATUS", "RESTARTS", "NODE", "ADDRESSES", "MESSAGE"])];
    for pod in &report.pods {
        let ready = pod.containers.iter().filter(|c| c.ready).count();
        let restarts: u32 = pod.containers.iter().map(|c| c.restarts).sum();
        rows.push(vec![
            pod.namespace.clone(),
            pod.name.clone(),
            format!("{ready}/{}", pod.containers.len()),
            pod.status.clone(),
            restarts.to_string(),
            pod.node.clone(),
            pod.addresses.join(","),
            pod.message.clone(),
        ]);
    }
    rows
}

fn daemons(report: &LabReport) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["PROCESS", "PID", "RESTARTS", "LAST END"])];
    for daemon in &report.daemons {
        let pid = daemon.pid.map_or_else(|| "-".to_owned(), |p| p.to_string());
        rows.push(vec![daemon.name.clone(), pid, daemon.restarts.to_string(), daemon.message.clone()]);
    }
    rows
}

fn objects(report: &LabReport) -> Vec<Vec<String>> {
    let mut rows = vec![row(&["KIND", "NAMESPACE", "NAME", "FOR", "ADDRESSES", "STATUS", "MESSAGE"])];
    for object in &report.objects {
        let ObjectReport { kind, namespace, name, of, addresses, status, message } = object;
        rows.push(row(&[kind, namespace, name, of, &addresses.join(","), status, message]));
    }
    rows
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
