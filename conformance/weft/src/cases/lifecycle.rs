//! Pods and namespaces that come and go: a namespace that enters and leaves the mesh under load, many pods at once, and
//! deletion within the time that the official suite allows.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::load::{Load, none_failed, some_more};
use crate::mesh::{
    Checks, ECHO, HTTP_PORTS as HTTP, IMAGE, Mesh, echo, namespace, nodes, patiently, pod_address, service,
    sleeper,
};

/// What the official suite gives a namespace to vanish in.
const DELETION: Duration = Duration::from_secs(30);
/// Stops the CNI plugin in the middle of a pod's start.
const STOP_PLUGIN: &str = include_str!("programs/stop_plugin.py");

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("out", false);
    yaml += &(sleeper("a", "near", "node1") + &sleeper("out", "stranger", "node1"));
    yaml += &(echo("a", "web", "node2", &[]) + &service("a", "web", "web", HTTP));
    yaml
}

fn late() -> String {
    let mut yaml = echo("late", "server", "node2", &[]) + &service("late", "server", "server", HTTP);
    yaml += &(sleeper("late", "near", "node1") + &sleeper("late", "far", "node2"));
    yaml
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    enrolment(checks);
    crowd(checks);
}

fn is_meshed(mesh: &Mesh, name: &str) -> Result<bool> {
    let pod = mesh.object("Pod", "late", name)?;
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let meshed = conditions.and_then(|all| all.iter().find(|c| c["type"] == "weft-mesh.dev/Meshed"));
    Ok(meshed.is_some_and(|condition| condition["status"] == "True"))
}

/// What Weft says of the namespace's enrolment; nothing, if it is not in the mesh.
fn enrolment_of(mesh: &Mesh, name: &str) -> Result<String> {
    let namespace = mesh.object("Namespace", "default", name)?;
    let conditions = namespace.pointer("/status/conditions").and_then(Value::as_array);
    let said = conditions.and_then(|all| all.iter().find(|c| c["type"] == "weft-mesh.dev/Enrolled"));
    Ok(said.and_then(|said| said["reason"].as_str()).unwrap_or_default().to_owned())
}

/// Waits until Weft says this of the namespace.
fn is_said(mesh: &Mesh, name: &str, reason: &str) -> Result<()> {
    if !mesh.is_weft() {
        return Ok(());
    }
    patiently(|| {
        let said = enrolment_of(mesh, name)?;
        ensure!(said == reason, "it is said to be {said:?} instead of {reason:?}");
        Ok(())
    })
}

fn stranger_gets_in(mesh: &Mesh) -> Result<bool> {
    let told = mesh
        .shell("out/stranger", "curl -sS -m 10 -o /dev/null -w '%{http_code}' http://server.late/; true")?;
    Ok(told.contains("200"))
}

fn enrolment(checks: &mut Checks<'_>) {
    let mut all = Vec::new();
    checks.check("a namespace outside the mesh has client and server", |m| {
        m.apply("late-namespace", &namespace("late", false))?;
        m.apply("late", &late())?;
        m.settle()?;
        ensure!(stranger_gets_in(m)?, "nobody gets in");
        for pod in ["late/near", "late/far"] {
            for mode in ["keep", "slow", "new"] {
                all.push(Load::start(m, pod, mode, ("server.late", 80), &[])?);
            }
        }
        some_more(&all, 3)
    });
    checks.check("it enters the mesh under load, and is strict from then on", |m| {
        m.apply("late-namespace", &namespace("late", true))?;
        is_said(m, "late", "Enrolling")?;
        patiently(|| {
            if m.is_weft() {
                for name in ["server", "near", "far"] {
                    ensure!(is_meshed(m, name)?, "{name} is not in the mesh");
                }
            }
            ensure!(!stranger_gets_in(m)?, "not strict yet");
            Ok(())
        })?;
        is_said(m, "late", "Strict")?;
        some_more(&all, 3)?;
        ensure!(!stranger_gets_in(m)?, "no longer strict");
        m.curl("a/near", &["http://server.late/"])?.expect(200, "server")
    });
    checks.check("it leaves the mesh under load, and everybody gets in again", |m| {
        m.apply("late-namespace", &namespace("late", false))?;
        patiently(|| {
            ensure!(stranger_gets_in(m)?, "still strict");
            Ok(())
        })?;
        is_said(m, "late", "")?;
        if m.is_weft() {
            patiently(|| {
                let still =
                    ["server", "near", "far"].into_iter().find(|name| is_meshed(m, name).unwrap_or(true));
                ensure!(still.is_none(), "{still:?} is still in the mesh");
                Ok(())
            })?;
        }
        some_more(&all, 3)
    });
    checks.check("no request failed all the while", |_| none_failed(all).map(drop));
}

/// Many replicas of the echo server, ready when they answer.
fn replicas(count: usize) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: crowd, namespace: many}}
spec:
  replicas: {count}
  selector: {{matchLabels: {{app: crowd}}}}
  template:
    metadata: {{labels: {{app: crowd}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: c, {IMAGE}, command: [{ECHO}, --port, \"8080\"], readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}
---
"
    ) + &service("many", "crowd", "crowd", HTTP)
}

/// While it lives, the start of one pod hangs in the middle of its enrolment.
struct Hanging(Child);

impl Hanging {
    /// Makes a pod `many/hanging` whose CNI plugin is stopped before the agent has answered it.
    fn start(mesh: &Mesh) -> Result<Self> {
        let program = ["python3", "-c", STOP_PLUGIN, "hanging"];
        let mut command = mesh.place().exec_command("node/node1", &program);
        let mut one = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        mesh.apply("hanging", &echo("many", "hanging", "node1", &[]))?;
        let mut told = String::new();
        BufReader::new(one.0.stdout.take().context("no output")?).read_line(&mut told)?;
        ensure!(told == "stopped\n", "its plugin was not stopped: {told:?}");
        Ok(one)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Waits until all of the crowd are Ready and called.
fn all_are_served(mesh: &Mesh, count: usize) -> Result<()> {
    patiently(|| {
        let ready =
            ["get", "deployment", "crowd", "--namespace=many", "--output=jsonpath={.status.readyReplicas}"];
        let ready = mesh.kubectl(&ready, "")?;
        ensure!(ready == count.to_string(), "{ready} are Ready");
        let counts = mesh.many("many/caller", count * 6, "http://crowd/", &[])?;
        ensure!(counts.keys().all(|answer| answer.starts_with("200 ")), "{counts:?}");
        ensure!(counts.len() > count / 2, "only {} of them were asked", counts.len());
        Ok(())
    })
}

fn is_ready(mesh: &Mesh, name: &str) -> Result<bool> {
    let pod = mesh.object("Pod", "many", name)?;
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    Ok(conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

fn crowd(checks: &mut Checks<'_>) {
    let count = checks.mesh().place().crowd();
    let mut hanging = None;
    checks.check("a namespace for many pods is there", |m| {
        m.apply("many", &(namespace("many", true) + &nodes() + &sleeper("many", "caller", "node1")))?;
        m.settle()
    });
    checks.own("a pod's start hangs in the middle of its enrolment", |m| {
        hanging = Some(Hanging::start(m)?);
        Ok(())
    });
    checks.check(&format!("{count} pods that start at once are all Ready and all served"), |m| {
        m.apply("crowd", &replicas(count))?;
        all_are_served(m, count)
    });
    checks.own("the one that hangs is not Ready meanwhile, and is as soon as it hangs no longer", |m| {
        ensure!(!is_ready(m, "hanging")?, "it does not hang");
        drop(hanging.take());
        patiently(|| {
            ensure!(is_ready(m, "hanging")?, "it still hangs");
            Ok(())
        })?;
        let address = pod_address(m, "many", "hanging", false)?;
        m.curl("many/caller", &[&format!("http://{address}:8080/")])?.expect(200, "hanging")
    });
    checks.check("their namespace can be deleted", |m| {
        m.kubectl(&["delete", "namespace", "many", "--timeout=300s"], "").map(drop)
    });
    checks.check("a namespace as the official suite's is gone within 30 s of its deletion", |m| {
        #[allow(clippy::disallowed_methods, reason = "the time is what is asked for")]
        let start = Instant::now();
        m.kubectl(&["delete", "namespace", "a", "--timeout=300s"], "").context("it does not go at all")?;
        ensure!(start.elapsed() < DELETION, "{} s", start.elapsed().as_secs());
        Ok(())
    });
}
