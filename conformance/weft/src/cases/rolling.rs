//! Rolling things under load through an HTTPRoute: servers that are replaced, gracefully or not, and a controller that is
//! restarted or away.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use anyhow::{Context, Result, ensure};

use crate::load::{self, Load, none_failed, some_more};
use crate::mesh::{
    Checks, ECHO, HTTP_PORTS as HTTP, IMAGE, Mesh, namespace, patiently, route, service, sleeper,
};

const REPLICAS: usize = 3;
/// Where Weft's controller is.
const CONTROLLER: &[&str] = &["deployment/weft-controller", "--namespace=weft-system"];

/// Echo servers that are replaced one after the other.
fn deployment(name: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: a}}
spec:
  replicas: {REPLICAS}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 20
      containers:
      - {{name: c, {IMAGE}, command: [{ECHO}, --port, \"8080\"{more}], readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}
---
"
    ) + &service("a", name, name, HTTP)
        + &route(
            "HTTPRoute",
            "a",
            name,
            &format!("[{{group: \"\", kind: Service, name: {name}}}]"),
            &format!("rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]"),
        )
}

/// The objects.
pub fn topology() -> String {
    namespace("a", true)
        + &sleeper("a", "near", "node1")
        + &sleeper("a", "far", "node2")
        + &deployment("graceful", ", --graceful")
        + &deployment("abrupt", "")
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    checks
        .check("servers that finish their requests on SIGTERM are replaced, and no request fails", graceful);
    checks.check(
        "servers that end abruptly lose what they have in hand, each told with the proxy's reason",
        abrupt,
    );
    checks.own("a controller that restarts disturbs no traffic", |m| {
        let all = everybody(m, "graceful", "/")?;
        some_more(&all, 20)?;
        let outcome = restart(m, CONTROLLER);
        some_more(&all, 20)?;
        none_failed(all).map(drop).and(outcome)
    });
    checks.own("a controller that is away disturbs no traffic, and takes up its work when it is back", away);
}

/// Loads from both nodes: on a connection that is kept, and on new ones.
fn everybody(mesh: &Mesh, host: &str, path: &str) -> Result<Vec<Load>> {
    let path = format!("path={path}");
    let calls = ["a/near", "a/far"].into_iter().flat_map(|pod| ["keep", "new"].map(|mode| (pod, mode)));
    calls.map(|(pod, mode)| Load::start(mesh, pod, mode, (host, 80), &[&path])).collect()
}

fn restart(mesh: &Mesh, what: &[&str]) -> Result<()> {
    mesh.kubectl(&[&["rollout", "restart"], what].concat(), "")?;
    mesh.kubectl(&[&["rollout", "status", "--timeout=300s"], what].concat(), "").map(drop)
}

/// Restarts a Deployment of namespace `a`, and waits until its old pods are gone.
fn replace(mesh: &Mesh, name: &str) -> Result<()> {
    restart(mesh, &[&format!("deployment/{name}"), "--namespace=a"])?;
    patiently(|| {
        let selector = format!("--selector=app={name}");
        let pods = mesh.kubectl(&["get", "pods", "--namespace=a", &selector, "--output=name"], "")?;
        ensure!(pods.lines().count() == REPLICAS, "there are {pods}");
        Ok(())
    })
}

fn graceful(mesh: &Mesh) -> Result<()> {
    let mut all = everybody(mesh, "graceful", "/?delay=50")?;
    all.extend(everybody(mesh, "graceful", "/")?);
    some_more(&all, 20)?;
    replace(mesh, "graceful")?;
    some_more(&all, 20)?;
    for one in none_failed(all)? {
        ensure!(one.answered.len() > REPLICAS, "no other server than {:?} answered", one.answered);
    }
    Ok(())
}

fn abrupt(mesh: &Mesh) -> Result<()> {
    // Every server has some of these in hand at any time.
    let mut all = Vec::new();
    for _ in 0..2 {
        all.extend(everybody(mesh, "abrupt", "/?delay=1500")?);
    }
    let in_hand = all.len();
    some_more(&all, 2)?;
    replace(mesh, "abrupt")?;
    some_more(&all, 2)?;
    let ended = load::end(all)?;
    let failed: Vec<&String> = ended.iter().flat_map(|one| &one.failed).collect();
    let lost = format!(
        "{} of {} calls failed: {failed:#?}",
        failed.len(),
        ended.iter().map(|one| one.ok).sum::<u64>()
    );
    // Each server that ends has at most one request of each caller.
    ensure!(failed.len() <= in_hand * REPLICAS, "{lost}");
    ensure!(!failed.is_empty(), "nothing was lost: the servers have not ended abruptly");
    let named =
        |one: &&String| one.contains("502") && (!mesh.is_weft() || one.contains("weft: upstream_reset"));
    ensure!(failed.iter().all(named), "{lost}");
    eprintln!("{lost}");
    Ok(())
}

fn away(mesh: &Mesh) -> Result<()> {
    let read = [&["get"], CONTROLLER, &["--output=jsonpath={.spec.replicas}"]].concat();
    let replicas = mesh.kubectl(&read, "")?;
    let scale = |count: &str| {
        mesh.kubectl(&[&["scale"], CONTROLLER, &[&format!("--replicas={count}")]].concat(), "").map(drop)
    };
    let all = everybody(mesh, "graceful", "/")?;
    some_more(&all, 20)?;
    scale("0")?;
    let absent = || {
        let pods = ["get", "pods", "--namespace=weft-system", "--output=name"];
        patiently(|| {
            let left = mesh.kubectl(&pods, "")?;
            ensure!(!left.contains("weft-controller"), "{left}");
            Ok(())
        })?;
        // Endpoints that come and go meanwhile have to wait; what is known goes on.
        some_more(&all, 200)
    };
    let outcome = absent();
    scale(&replicas)?;
    let status = [&["rollout", "status", "--timeout=300s"], CONTROLLER].concat();
    mesh.kubectl(&status, "").context("the controller does not come back")?;
    outcome?;
    let edited = deployment("graceful", ", --graceful").replace(
        "rules: [{",
        "rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: \"yes\"}]}}], ",
    );
    mesh.apply("edited", &edited)?;
    patiently(|| {
        let answer = mesh.curl("a/near", &["http://graceful/"])?;
        ensure!(answer.header("x-back") == ["yes"], "{answer:?}");
        Ok(())
    })?;
    some_more(&all, 20)?;
    none_failed(all).map(drop)
}
