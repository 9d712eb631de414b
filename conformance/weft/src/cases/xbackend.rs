//! XBackends as backends of one and the same route, on a Service and at a Gateway: pods by their labels, inside and outside the
//! mesh, which come and go; protocols and sessions; what cannot be used, and what statuses say.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::mesh::{
    Answer, Checks, GATEWAYS, HTTP_LISTENER, Mesh, Port, ancestors, echo, gateway, log_lines, namespace,
    patiently, route, service, sleeper, soon,
};

const FROM: &str = "a/near";
pub(super) const PARENTS: &str = "[{name: front}, {group: \"\", kind: Service, name: web, port: 80}]";
/// The ways that lead to the route.
pub(super) const WAYS: [&str; 2] = ["web", "front-weft"];
/// Requests that would hardly all reach one of two endpoints by chance.
const MANY: usize = 20;

pub(super) fn xbackend(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {{name: {name}, namespace: a}}
spec: {{{spec}}}
---
"
    )
}

/// One that selects by the label `app`.
fn selecting(name: &str, app: &str, more: &str) -> String {
    let spec = format!(
        "type: EndpointSelector, endpointSelector: {{matchLabels: {{app: {app}}}}}, port: {{number: 8080}}"
    );
    xbackend(name, &format!("{spec}{more}"))
}

/// An echo server that is one of several with a label.
fn replica(name: &str, node: &str) -> String {
    echo("a", name, node, &[]).replace(&format!("app: {name}"), "app: both")
}

/// What names one in a route.
pub(super) fn backend(name: &str) -> String {
    format!("backendRefs: [{{group: gateway.networking.x-k8s.io, kind: XBackend, name: {name}}}]")
}

/// The objects.
pub fn topology() -> String {
    // The parent's own endpoints are none of the backends'.
    let ports = [Port("http", 80, 8080, "http"), Port("tcp", 90, 8080, "")];
    let rule = |name: &str| format!("{{matches: [{{path: {{value: /{name}}}}}], {}}},", backend(name));
    let paths = ["both", "plain", "h2c", "sticky", "nobody", "missing", "refused", "secret"];
    let rules = format!("rules: [{}]", paths.map(rule).concat());
    let tls =
        ", tls: {mode: ServerOnly, validation: {hostname: both.example, wellKnownCACertificates: System}}";
    [
        namespace("a", true),
        sleeper("a", "near", "node1"),
        echo("a", "own", "node1", &[]),
        service("a", "web", "own", &ports),
        replica("r1", "node1"),
        replica("r2", "node2"),
        echo("a", "plain", "node2", &[]).replace("app: plain", "app: plain, weft-mesh.dev/mesh: disabled"),
        selecting("both", "both", ""),
        selecting("plain", "plain", ", protocol: HTTP11"),
        selecting("h2c", "both", ", protocol: H2C"),
        selecting("sticky", "both", ", sessionPersistence: {cookie: {name: at}}"),
        selecting("nobody", "nobody", ""),
        selecting("refused", "both", ", protocol: MCP"),
        selecting("secret", "both", tls),
        gateway("a", "front", HTTP_LISTENER),
        route("HTTPRoute", "a", "web", PARENTS, &rules),
        route(
            "TCPRoute",
            "a",
            "web",
            "[{group: \"\", kind: Service, name: web, port: 90}]",
            &format!("rules: [{{{}}}]", backend("both")),
        ),
    ]
    .concat()
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    if !checks.mesh().is_weft() {
        return;
    }
    for way in WAYS {
        checks
            .check(&format!("{way}: the selected pods answer, and no other"), |m| patiently(|| both(m, way)));
        check_protocols(checks, way);
        check_sessions(checks, way);
        check_unusable(checks, way);
    }
    checks.check("a TCPRoute leads there too", |m| {
        let answer = m.curl(FROM, &["http://web:90/"])?;
        ensure!(["r1", "r2"].contains(&&*answer.name()?), "{answer:?}");
        Ok(())
    });
    check_security(checks);
    check_changes(checks);
    check_status(checks);
}

fn ask(m: &Mesh, way: &str, path: &str, more: &[&str]) -> Result<Answer> {
    m.curl(FROM, &[more, &[&format!("http://{way}{path}")]].concat())
}

/// Which echo servers answer.
fn who(m: &Mesh, way: &str, path: &str) -> Result<BTreeSet<String>> {
    let counts = m.many(FROM, MANY, &format!("http://{way}{path}"), &["-H", "Connection: close"])?;
    Ok(counts.into_keys().collect())
}

fn both(m: &Mesh, way: &str) -> Result<()> {
    let names = who(m, way, "/both")?;
    ensure!(names == ["200 r1", "200 r2"].map(str::to_owned).into(), "{names:?}");
    Ok(())
}

fn check_protocols(checks: &mut Checks<'_>, way: &'static str) {
    for (path, version) in [("/plain", "HTTP/1.1"), ("/h2c", "HTTP/2.0")] {
        checks.check(&format!("{way}: the backend is spoken to in its protocol: {path}"), |m| {
            let answer = ask(m, way, path, &[])?;
            answer.expect(200, "")?;
            let told = answer.echoed()?["version"].clone();
            ensure!(told == version, "{told} instead of {version}");
            Ok(())
        });
    }
}

fn check_sessions(checks: &mut Checks<'_>, way: &'static str) {
    checks.check(&format!("{way}: a session stays at its endpoint"), |m| {
        let answer = ask(m, way, "/sticky", &[])?;
        answer.expect(200, "")?;
        let name = answer.name()?;
        let set = answer.header("set-cookie").concat();
        let cookie = set.split(';').next().unwrap_or_default().to_owned();
        ensure!(cookie.starts_with("at="), "{answer:?}");
        let counts = m.many(
            FROM,
            MANY,
            &format!("http://{way}/sticky"),
            &["-H", "Connection: close", "-H", &format!("Cookie: {cookie}")],
        )?;
        ensure!(counts.keys().eq([&format!("200 {name}")]), "{counts:?} instead of {name}");
        Ok(())
    });
}

fn check_unusable(checks: &mut Checks<'_>, way: &'static str) {
    let secret = if way == "web" { (500, "invalid_backend: ") } else { (503, "tls_failed: ") };
    for (path, (status, reason)) in [
        ("/nobody", (503, "no_endpoints: port 8080 of XBackend a/nobody has no ready endpoint")),
        ("/missing", (500, "invalid_backend: backend XBackend a/missing does not exist")),
        ("/refused", (500, "invalid_backend: backend XBackend a/refused cannot be used: protocol MCP")),
        // Its pods do not speak TLS.
        ("/secret", secret),
    ] {
        checks.check(&format!("{way}: nobody else is sent what cannot be used: {path}"), |m| {
            let answer = ask(m, way, path, &[])?;
            ensure!(answer.status == status, "{answer:?}");
            ensure!(answer.body.starts_with(&format!("weft: {reason}")), "{answer:?}");
            Ok(())
        });
    }
}

fn check_security(checks: &mut Checks<'_>) {
    checks.check("pods of the mesh are reached by mutual TLS, others in plaintext", |m| {
        soon(|| {
            let lines = log_lines(&m.proxy_log("node1")?);
            for (path, pod, security) in [("/both", "r2", "mtls"), ("/plain", "plain", "plaintext")] {
                let about = |line: &&Value| {
                    line["reporter"] == "source"
                        && line["path"].as_str().is_some_and(|of| of.starts_with(path))
                        && line["destination_pod"].as_str().is_some_and(|name| name.ends_with(pod))
                };
                let line = lines.iter().rfind(about).cloned().unwrap_or_default();
                ensure!(line["security"] == security, "{path}: {line}");
            }
            Ok(())
        })
    });
}

fn check_changes(checks: &mut Checks<'_>) {
    checks.check("a pod with the labels is an endpoint while it is ready", |m| {
        m.apply("third", &replica("r3", "node2"))?;
        for way in WAYS {
            patiently(|| {
                let names = who(m, way, "/both")?;
                ensure!(names.contains("200 r3"), "{names:?}");
                Ok(())
            })?;
        }
        m.delete("third")?;
        WAYS.into_iter().try_for_each(|way| patiently(|| both(m, way)))
    });
}

fn check_status(checks: &mut Checks<'_>) {
    for (name, told) in [
        ("both", ["True Accepted"; 2]),
        ("sticky", ["True Accepted"; 2]),
        ("refused", ["False UnsupportedProtocol"; 2]),
        ("secret", ["False UnsupportedValue", "True Accepted"]),
    ] {
        checks.soon(&format!("its status has the Service and the Gateway: {name}"), |m| {
            check_ancestors(m, name, told)
        });
    }
    checks.check("and says why it is refused", |m| {
        let status = m.object("XBackend", "a", "refused")?["status"].to_string();
        ensure!(status.matches("protocol MCP is not supported").count() == 2, "{status}");
        Ok(())
    });
    checks.soon("the route's status names what cannot be used", |m| {
        let told = m.condition("HTTPRoute", "a", "web", "ResolvedRefs")?;
        ensure!(told == "False BackendNotFound", "{told}");
        Ok(())
    });
}

/// What an XBackend's status says of the Service and of the Gateway.
pub(super) fn check_ancestors(m: &Mesh, name: &str, told: [&str; 2]) -> Result<()> {
    let entries = ancestors(m, "XBackend", "a", name)?;
    let mesh = m.place().controller_name();
    ensure!(entries == [["Service", mesh, told[0]], ["Gateway", GATEWAYS, told[1]]], "{entries:?}");
    Ok(())
}
