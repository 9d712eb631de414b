//! Pods and namespaces that come and go: a namespace that enters and leaves the mesh under load, many pods at once, and
//! deletion within the time that the official suite allows.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::mesh::{
    Checks, ECHO, HTTP_PORTS as HTTP, IMAGE, Mesh, echo, namespace, patiently, service, sleeper,
};

/// What the official suite gives a namespace to vanish in.
const DELETION: Duration = Duration::from_secs(30);
/// What the requests ended with.
const CODES: &str = "/tmp/codes";
/// What the slow ones ended with.
const SLOW_CODES: &str = "/tmp/slow";
const SLOW: &str = include_str!("programs/slow_client.py");
/// How many pods start at once.
const CROWD: usize = 30;

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

/// Starts one request after the other in a pod, each on a connection of its own; what each ended with is written down.
fn load(mesh: &Mesh, pod: &str) -> Result<()> {
    let script = "rm -f /tmp/stop /tmp/codes; (while [ ! -e /tmp/stop ]; do curl -sS -m 10 -o /dev/null -w '%{http_code}\\n' http://server.late/ 2>&1; sleep 0.02; done > /tmp/codes) </dev/null >/dev/null 2>&1 &";
    mesh.run(pod, &["bash", "-c", script]).map(drop)
}

/// The same over one connection that is kept, with a pause between requests in which other clients would close it.
fn slow_load(mesh: &Mesh, pod: &str) -> Result<()> {
    let script = format!("rm -f /tmp/slow; python3 -c '{SLOW}' </dev/null >/tmp/slow 2>&1 &");
    mesh.run(pod, &["bash", "-c", &script]).map(drop)
}

/// How many requests there have been, and what was not 200.
fn so_far(mesh: &Mesh, pod: &str, file: &str) -> Result<(usize, Vec<String>)> {
    let told = mesh.run(pod, &["cat", file])?;
    // The last line may be half written.
    let whole = told.rsplit_once('\n').map_or("", |(whole, _)| whole);
    Ok((whole.lines().count(), whole.lines().filter(|line| *line != "200").map(str::to_owned).collect()))
}

/// Waits until each pod has made this many more requests.
fn some_more(mesh: &Mesh, pods: &[&str]) -> Result<()> {
    for pod in pods {
        let before = so_far(mesh, pod, CODES)?.0;
        patiently(|| {
            ensure!(so_far(mesh, pod, CODES)?.0 > before + 20, "the load in {pod} stands still");
            Ok(())
        })?;
    }
    Ok(())
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
    let told =
        mesh.shell("out/stranger", "curl -sS -m 5 -o /dev/null -w '%{http_code}' http://server.late/; true")?;
    Ok(told.contains("200"))
}

fn enrolment(checks: &mut Checks<'_>) {
    let pods = ["late/near", "late/far"];
    checks.check("a namespace outside the mesh has client and server", |m| {
        m.apply("late-namespace", &namespace("late", false))?;
        m.apply("late", &late())?;
        m.settle()?;
        ensure!(stranger_gets_in(m)?, "nobody gets in");
        pods.iter().try_for_each(|pod| load(m, pod).and_then(|()| slow_load(m, pod)))?;
        some_more(m, &pods)
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
        some_more(m, &pods)?;
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
        some_more(m, &pods)
    });
    checks.check("no request failed all the while", |m| {
        for pod in pods {
            m.run(pod, &["touch", "/tmp/stop"])?;
            for (file, least) in [(CODES, 60), (SLOW_CODES, 5)] {
                let (count, failed) = so_far(m, pod, file)?;
                ensure!(failed.is_empty(), "{pod}: {} of {count}: {failed:?}", failed.len());
                ensure!(count >= least, "{pod}: only {count} in {file}");
            }
        }
        Ok(())
    });
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

fn crowd(checks: &mut Checks<'_>) {
    checks.check(&format!("{CROWD} pods that start at once are all Ready and all served"), |m| {
        m.apply("many", &(namespace("many", true) + &sleeper("many", "caller", "node1") + &replicas(CROWD)))?;
        m.settle()?;
        patiently(|| {
            let pods = m.kubectl(
                &[
                    "get",
                    "deployment",
                    "crowd",
                    "--namespace=many",
                    "--output=jsonpath={.status.readyReplicas}",
                ],
                "",
            )?;
            ensure!(pods == CROWD.to_string(), "{pods} are Ready");
            let counts = m.many("many/caller", CROWD * 6, "http://crowd/", &[])?;
            ensure!(counts.keys().all(|answer| answer.starts_with("200 ")), "{counts:?}");
            ensure!(counts.len() > CROWD / 2, "only {} of them were asked", counts.len());
            Ok(())
        })
    });
    checks.check("their namespace is gone within 30 s of its deletion", |m| {
        #[allow(clippy::disallowed_methods, reason = "the time is what is asked for")]
        let start = Instant::now();
        m.kubectl(&["delete", "namespace", "many", "--timeout=120s"], "").context("it does not go at all")?;
        ensure!(start.elapsed() < DELETION, "{} s", start.elapsed().as_secs());
        Ok(())
    });
}
