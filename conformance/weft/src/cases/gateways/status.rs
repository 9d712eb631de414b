//! What Gateways and routes at them say while another controller writes too, and while routes come and go.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{NAMESPACE, PLAIN, gateway, http, is_programmed, object, rule};
use crate::mesh::{Checks, GATEWAYS, Mesh, patiently};

const OTHER: &str = "other.example/gateway";
/// How often the two controllers write.
const ROUNDS: usize = 12;
/// How many routes come and go.
const CROWD: usize = 24;

/// A GatewayClass that somebody else serves, and a Gateway of it.
fn theirs() -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: theirs}}
spec: {{controllerName: {OTHER}}}
---
"
    ) + &gateway("theirs", &[PLAIN]).replace("gatewayClassName: weft", "gatewayClassName: theirs")
}

/// The sentences.
pub(super) fn run(checks: &mut Checks<'_>) {
    checks.check("two controllers that write one route's status keep out of each other's entries", |m| {
        m.apply("theirs", &theirs())?;
        let outcome = fight(m);
        m.delete("theirs").and(outcome)
    });
    checks.check("attachedRoutes is exact while routes come and go", churn);
}

fn fought(path: &str) -> String {
    http("fought", &["one", "theirs"], &[rule(path, &["v1"])])
}

fn parents(route: &Value) -> Vec<Value> {
    route["status"]["parents"].as_array().cloned().unwrap_or_default()
}

/// The other controller's entry, as it writes it in this round.
fn entry(round: usize) -> Value {
    json!({
        "parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "theirs"},
        "controllerName": OTHER,
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": format!("round {round}"),
            "observedGeneration": 1, "lastTransitionTime": "2020-01-01T00:00:00Z",
        }],
    })
}

/// Reads, changes its own entry only and writes on condition that nobody else has, as a controller should.
fn write_theirs(mesh: &Mesh, round: usize) -> Result<()> {
    for _ in 0..50 {
        let route = mesh.object("HTTPRoute", NAMESPACE, "fought")?;
        let mut all = parents(&route);
        all.retain(|one| one["controllerName"] != OTHER);
        all.push(entry(round));
        let patch = json!({
            "metadata": {"resourceVersion": route["metadata"]["resourceVersion"]},
            "status": {"parents": all},
        });
        let patch = format!("--patch={patch}");
        let words =
            ["patch", "httproute", "fought", "--namespace=gw", "--subresource=status", "--type=merge"];
        match mesh.kubectl(&[&words[..], &[&patch]].concat(), "") {
            Ok(_) => return Ok(()),
            Err(error) if error.to_string().contains("the object has been modified") => {}
            Err(error) => return Err(error),
        }
    }
    bail!("somebody writes the status all the time")
}

fn fight(mesh: &Mesh) -> Result<()> {
    mesh.apply("fought", &fought("/fought"))?;
    let untouched = object(mesh, "theirs")?["status"].clone();
    for round in 0..ROUNDS {
        mesh.apply("fought", &fought(&format!("/fought/{round}")))?;
        write_theirs(mesh, round)?;
    }
    let route = || mesh.object("HTTPRoute", NAMESPACE, "fought");
    patiently(|| {
        let route = route()?;
        let all = parents(&route);
        let own: Vec<&Value> = all.iter().filter(|one| one["controllerName"] == GATEWAYS).collect();
        ensure!(own.len() == 1 && own[0]["parentRef"]["name"] == "one", "{all:?}");
        let conditions = own[0]["conditions"].as_array().context("no conditions")?;
        let of_now = |one: &Value| one["observedGeneration"] == route["metadata"]["generation"];
        ensure!(conditions.iter().all(of_now), "{all:?}");
        let other: Vec<&Value> = all.iter().filter(|one| one["controllerName"] == OTHER).collect();
        ensure!(other == [&entry(ROUNDS - 1)], "{all:?}");
        Ok(())
    })?;
    // Nobody writes on and on.
    let before = route()?;
    sleep(Duration::from_secs(3));
    let after = route()?;
    ensure!(before == after, "the status does not come to rest: {before} {after}");
    let now = object(mesh, "theirs")?["status"].clone();
    ensure!(now == untouched, "another's Gateway was written to: {now}");
    Ok(())
}

/// How many routes each listener of a Gateway says it has.
fn attached(mesh: &Mesh, gateway: &str) -> Result<Vec<u64>> {
    let status = object(mesh, gateway)?["status"].clone();
    let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
    Ok(listeners.iter().filter_map(|one| one["attachedRoutes"].as_u64()).collect())
}

fn churn(mesh: &Mesh) -> Result<()> {
    let member = |n: usize, gateway: &str| {
        http(&format!("churn-{n}"), &[gateway], &[rule(&format!("/churn/{n}"), &["v1"])])
    };
    let crowd = |gateway: &str| (0..CROWD).map(|n| member(n, gateway)).collect::<String>();
    let counts = |one: u64, two: u64| {
        patiently(|| {
            let (at_one, at_two) = (attached(mesh, "one")?, attached(mesh, "two")?);
            ensure!(
                at_one == [one, one] && at_two == [two],
                "{at_one:?} and {at_two:?}, not {one} and {two}"
            );
            Ok(())
        })
    };
    let many = u64::try_from(CROWD)?;
    // The routes that are there already: `one` and `fought`, and `two`.
    mesh.apply("churn", &crowd("one"))?;
    counts(2 + many, 1)?;
    // All at once to the other Gateway, half of them away, and some of those back again.
    mesh.apply("churn", &crowd("two"))?;
    for half in [0..CROWD / 2, 0..CROWD / 4] {
        let names: Vec<String> = half.map(|n| format!("churn-{n}")).collect();
        let words: Vec<&str> = names.iter().map(String::as_str).collect();
        let delete = ["delete", "httproute", "--namespace=gw", "--ignore-not-found"];
        mesh.kubectl(&[&delete[..], &words].concat(), "")?;
        mesh.apply("back", &(0..CROWD / 3).map(|n| member(n, "one")).collect::<String>())?;
    }
    let back = u64::try_from(CROWD / 3)?;
    let gone = u64::try_from(CROWD / 2)?;
    counts(2 + back, 1 + many - gone)?;
    mesh.delete("churn")?;
    counts(2, 1)?;
    is_programmed(mesh, "one")
}
