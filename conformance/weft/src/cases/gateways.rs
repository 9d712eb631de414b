//! Gateways of Weft's class on a cluster, where its peers' users report trouble: statuses that two controllers write, Gateways on
//! equal ports, counts of attached routes, and changes under load; and what the official suite does not ask of Gateways.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

mod load;
mod newer;
mod pods;
mod status;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::mesh::{
    Checks, HTTP_PORTS as HTTP, Mesh, echo, gateway_addresses, host, namespace, patiently, route, service,
    sleeper,
};

const NAMESPACE: &str = "gw";
/// Where requests come from: outside the mesh, on both nodes.
const CLIENTS: [&str; 2] = ["out/client1", "out/client2"];
const PLAIN: &str = "{name: http, port: 80, protocol: HTTP}";
const ENCRYPTED: &str =
    "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: certificate}]}}";

fn gateway(name: &str, listeners: &[&str]) -> String {
    crate::mesh::gateway(NAMESPACE, name, &format!("listeners: [{}]", listeners.join(", ")))
}

/// An HTTPRoute at Gateways, given by name.
fn http(name: &str, gateways: &[&str], rules: &[String]) -> String {
    let parents: Vec<String> = gateways.iter().map(|name| format!("{{name: {name}}}")).collect();
    let parents = format!("[{}]", parents.join(", "));
    route("HTTPRoute", NAMESPACE, name, &parents, &format!("rules: [{}]", rules.join(", ")))
}

/// A rule for a path and what is below it.
fn rule(path: &str, backends: &[&str]) -> String {
    let backends: Vec<String> = backends.iter().map(|name| format!("{{name: {name}, port: 80}}")).collect();
    format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{}]}}", backends.join(", "))
}

/// The objects. The listener for HTTPS has its certificate later.
pub fn topology() -> String {
    let mut yaml = namespace(NAMESPACE, true) + &namespace("out", false);
    yaml += &(sleeper("out", "client1", "node1") + &sleeper("out", "client2", "node2"));
    for (name, node) in [("v1", "node1"), ("v2", "node2")] {
        yaml += &(echo(NAMESPACE, name, node, &[]) + &service(NAMESPACE, name, name, HTTP));
    }
    yaml += &(gateway("one", &[PLAIN, ENCRYPTED]) + &gateway("two", &[PLAIN]));
    yaml += &http("one", &["one"], &[rule("/one", &["v1"]), rule("/both", &["v1"])]);
    yaml + &http("two", &["two"], &[rule("/two", &["v2"]), rule("/both", &["v2"])])
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    if !checks.mesh().is_weft() {
        return;
    }
    checks.check("two Gateways are Programmed, one with a certificate", |m| {
        swap_certificate(m, "first")?;
        ["one", "two"].into_iter().try_for_each(|name| is_programmed(m, name))
    });
    checks.check("Gateways with equal ports have each its own routes", |m| {
        for (gateway, own, other, name) in [("one", "/one", "/two", "v1"), ("two", "/two", "/one", "v2")] {
            patiently(|| get(m, gateway, own)?.expect(200, name))?;
            get(m, gateway, "/both")?.expect(200, name)?;
            get(m, gateway, other)?.expect(404, "")?;
        }
        Ok(())
    });
    newer::run(checks);
    pods::run(checks);
    status::run(checks);
    load::run(checks);
}

fn get(mesh: &Mesh, gateway: &str, path: &str) -> Result<crate::mesh::Answer> {
    mesh.curl(CLIENTS[0], &[&format!("http://{}{path}", host(&address(mesh, gateway)?))])
}

fn object(mesh: &Mesh, name: &str) -> Result<Value> {
    mesh.object("gateways.gateway.networking.k8s.io", NAMESPACE, name)
}

/// A Gateway's first address.
fn address(mesh: &Mesh, name: &str) -> Result<String> {
    gateway_addresses(mesh, NAMESPACE, name)?.into_iter().next().context("no address")
}

/// Waits until a Gateway and all of its listeners are Programmed as they are now.
fn is_programmed(mesh: &Mesh, name: &str) -> Result<()> {
    patiently(|| {
        let gateway = object(mesh, name)?;
        let generation = &gateway["metadata"]["generation"];
        let is_true = |conditions: &Value| {
            let mut all = conditions.as_array().into_iter().flatten();
            all.any(|one| {
                one["type"] == "Programmed"
                    && one["status"] == "True"
                    && one["observedGeneration"] == *generation
            })
        };
        let status = &gateway["status"];
        let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
        let count = gateway["spec"]["listeners"].as_array().map_or(0, Vec::len);
        let programmed = is_true(&status["conditions"])
            && listeners.len() == count
            && listeners.iter().all(|listener| is_true(&listener["conditions"]));
        ensure!(programmed, "Gateway {name} is not Programmed: {status}");
        address(mesh, name).map(drop)
    })
}

/// Puts a new certificate with this common name into the Secret of the HTTPS listener.
fn swap_certificate(mesh: &Mesh, name: &str) -> Result<()> {
    let make = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} -keyout /tmp/{name}.key -out /tmp/{name}.crt"
    );
    let make: Vec<&str> = make.split(' ').collect();
    mesh.run(CLIENTS[0], &make)?;
    let [certificate, key] =
        ["crt", "key"].map(|end| mesh.run(CLIENTS[0], &["cat", &format!("/tmp/{name}.{end}")]));
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "certificate", "namespace": NAMESPACE},
        "stringData": {"tls.crt": certificate?, "tls.key": key?},
    });
    mesh.apply("certificate", &secret.to_string())
}
