//! Figures of Weft on a cluster: how long a route takes to be obeyed, how much later enrolled pods start, and what memory the
//! programs take.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::cases::bad_input::many_routes;
use crate::mesh::{
    HTTP_PORTS as HTTP, IMAGE, Mesh, echo, namespace, nodes, patiently, route, service, sleeper,
};

const WATCH: &str = include_str!("programs/watch_route.py");
const MEMORY: &str = include_str!("programs/memory.py");
/// How often a route is edited, and how many pods of each kind are started.
const ROUNDS: usize = 20;
/// How many further routes there are in the second measurement.
const MANY: usize = 1000;

/// The objects.
#[must_use]
pub fn topology() -> String {
    namespace("a", true)
        + &namespace("out", false)
        + &sleeper("a", "near", "node1")
        + &echo("a", "v1", "node2", &[])
        + &service("a", "v1", "v1", HTTP)
        + &service("a", "many", "v1", HTTP)
        + &nodes()
}

/// Measures, and prints what came out.
///
/// # Errors
/// When something cannot be measured.
pub fn run(mesh: &Mesh) -> Result<()> {
    ensure!(mesh.is_weft(), "only Weft is measured");
    let idle = obeyed(mesh)?;
    let memory = memory(mesh)?;
    let starts = starts(mesh)?;
    mesh.kubectl(&["create", "--filename=-"], &many_routes("many", MANY, "v1").to_string())?;
    patiently(|| {
        let last = format!("http://many/many/{}", MANY - 1);
        mesh.curl("a/near", &[&last])?.expect(200, "v1")
    })?;
    let crowded = obeyed(mesh)?;
    let crowded_memory = self::memory(mesh)?;

    println!(
        "From the start of kubectl apply to the first request that obeys the route, {ROUNDS} edits, in ms:"
    );
    println!("{:<28} {:>8} {:>8} {:>30}", "", "p50", "max", "after kubectl returned: p50, max");
    for (what, times) in
        [("nothing else there".to_owned(), &idle), (format!("{MANY} further routes"), &crowded)]
    {
        let (all, after) = (column(times, |time| time.0), column(times, |time| time.1));
        println!(
            "{what:<28} {:>8.0} {:>8.0} {:>24.0}, {:>4.0}",
            median(&all),
            largest(&all),
            median(&after),
            largest(&after)
        );
    }
    println!(
        "\nFrom the start of kubectl create to the first line of a pod's program, {ROUNDS} pods each, in ms:"
    );
    let [inside, outside] = &starts;
    println!("{:<28} {:>8} {:>8}", "", "p50", "max");
    for (what, times) in [("in the mesh", inside), ("not in the mesh", outside)] {
        println!("{what:<28} {:>8.0} {:>8.0}", median(times), largest(times));
    }
    println!("{:<28} {:>8.0}", "difference", median(inside) - median(outside));
    println!("\nResident memory of each process, now (most so far), in MiB:");
    println!("{:<28} {:>20} {:>20}", "", "nothing else there", format!("{MANY} further routes"));
    for ((name, now, most), (_, then, most_then)) in memory.iter().zip(&crowded_memory) {
        let show = |now: f64, most: f64| format!("{now:.1} ({most:.1})");
        println!("{name:<28} {:>20} {:>20}", show(*now, *most), show(*then, *most_then));
    }
    Ok(())
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn column(times: &[(f64, f64)], of: impl Fn(&(f64, f64)) -> f64) -> Vec<f64> {
    times.iter().map(of).collect()
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn largest(times: &[f64]) -> f64 {
    times.iter().copied().fold(f64::NAN, f64::max)
}

/// A program in a pod that calls until a route says what it is to say.
struct Watcher {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Watcher {
    fn start(mesh: &Mesh) -> Result<Self> {
        let mut command = mesh.place().exec_command("a/near", &["python3", "-c", WATCH, "v1"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { input: child.stdin.take(), child, output })
    }

    fn expect(&mut self, round: usize) -> Result<()> {
        Ok(writeln!(self.input.as_mut().context("no input")?, "{round}")?)
    }

    fn seen(&mut self) -> Result<f64> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().context("the watcher has ended")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// How long each edit took to be obeyed, since kubectl was started and since it returned, in milliseconds.
fn obeyed(mesh: &Mesh) -> Result<Vec<(f64, f64)>> {
    let mut watcher = Watcher::start(mesh)?;
    let mut times = Vec::new();
    // The first makes the route, and the programs warm.
    for round in 0..=ROUNDS {
        let filter = format!(
            "{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-round, value: \"{round}\"}}]}}}}"
        );
        let rules = format!("rules: [{{filters: [{filter}], backendRefs: [{{name: v1, port: 80}}]}}]");
        let edited = route("HTTPRoute", "a", "v1", "[{group: \"\", kind: Service, name: v1}]", &rules);
        watcher.expect(round)?;
        let began = now();
        mesh.apply("measured", &edited)?;
        let returned = now();
        let seen = watcher.seen()?;
        times.push(((seen - began) * 1e3, (seen - returned).max(0.0) * 1e3));
    }
    mesh.delete("measured")?;
    Ok(times.split_off(1))
}

/// How long pods take to start, in milliseconds: in the mesh, and not.
fn starts(mesh: &Mesh) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (namespace, times) in ["a", "out"].into_iter().zip(&mut times) {
            let name = format!("start-{round}");
            let pod = format!(
                "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  nodeName: node2
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, {IMAGE}, command: [bash, -c, \"echo $EPOCHREALTIME\"]}}]
"
            );
            let began = now();
            mesh.apply(&format!("{namespace}-start"), &pod)?;
            let mut started = 0.0;
            patiently(|| {
                let told = mesh.kubectl(&["logs", "--namespace", namespace, &name], "")?;
                started = told.trim().parse().context("not started yet")?;
                Ok(())
            })?;
            // The first of each kind finds nothing prepared.
            if round > 0 {
                times.push((started - began) * 1e3);
            }
            mesh.delete(&format!("{namespace}-start"))?;
        }
    }
    Ok(times)
}

/// Each program's resident memory now and at most so far, in MiB.
fn memory(mesh: &Mesh) -> Result<Vec<(String, f64, f64)>> {
    let mut all = Vec::new();
    for node in ["node1", "node2"] {
        for line in mesh.run(&format!("node/{node}"), &["python3", "-c", MEMORY])?.lines() {
            let mut words = line.split(' ');
            let mebibytes = |words: &mut std::str::Split<'_, char>| -> Result<f64> {
                Ok(words.next().context("a number is missing")?.parse::<f64>()? / 1024.0)
            };
            let name = words.next().unwrap_or_default();
            all.push((format!("{name} on {node}"), mebibytes(&mut words)?, mebibytes(&mut words)?));
        }
    }
    ensure!(!all.is_empty(), "no program of Weft is to be seen");
    all.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(all)
}
