//! XBackends as backends of one and the same route, on a Service and at a Gateway: pods by their labels, inside and outside the
//! mesh, which come and go; protocols and sessions; what cannot be used, and what statuses say.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_conformance::log_lines;
use weft_conformance::mesh::{Answer, Checks, Mesh, Port, echo, namespace, route, service, sleeper, soon};

const FROM: &str = "a/near";
const PARENTS: &str = "[{name: front}, {group: \"\", kind: Service, name: web, port: 80}]";
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: a}
spec: {gatewayClassName: weft, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
";
/// The ways that lead to the route.
const WAYS: [&str; 2] = ["web", "front-weft"];
/// Requests that would hardly all reach one of two endpoints by chance.
const MANY: usize = 20;

fn xbackend(name: &str, spec: &str) -> String {
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

fn topology() -> String {
    // The parent's own endpoints are none of the backends'.
    let ports = [Port("http", 80, 8080, "http"), Port("tcp", 90, 8080, "")];
    let backend = |path: &str, name: &str| {
        format!(
            "{{matches: [{{path: {{value: /{path}}}}}], backendRefs: [{{group: gateway.networking.x-k8s.io, kind: XBackend, name: {name}}}]}},"
        )
    };
    let paths = ["both", "plain", "h2c", "sticky", "nobody", "missing", "outside", "unknown"];
    let rules = format!("rules: [{}]", paths.map(|name| backend(name, name)).concat());
    let tcp = "rules: [{backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: both}]}]";
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
        xbackend(
            "outside",
            "type: ExternalHostname, externalHostname: {hostname: api.example}, port: {number: 80}, protocol: MCP",
        ),
        xbackend(
            "unknown",
            "type: ExternalHostname, externalHostname: {hostname: unknown.example}, port: {number: 80}",
        ),
        GATEWAY.to_owned(),
        route("HTTPRoute", "a", "web", PARENTS, &rules),
        route("TCPRoute", "a", "web", "[{group: \"\", kind: Service, name: web, port: 90}]", tcp),
    ]
    .concat()
}

#[test]
fn xbackend_as_backend() {
    let mesh = weft_conformance::place::up(&topology());
    let mut checks = Checks::new(&mesh);
    for way in WAYS {
        checks.soon(&format!("{way}: the selected pods answer, and no other"), |m| both(m, way));
        check_protocols(&mut checks, way);
        check_sessions(&mut checks, way);
        check_unusable(&mut checks, way);
    }
    checks.check("a TCPRoute leads there too", |m| {
        let answer = m.curl(FROM, &["http://web:90/"])?;
        ensure!(["r1", "r2"].contains(&&*answer.name()?), "{answer:?}");
        Ok(())
    });
    check_security(&mut checks);
    check_changes(&mut checks);
    check_status(&mut checks);
    checks.finish();
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
    for (path, status, reason) in [
        ("/nobody", 503, "no_endpoints: port 8080 of XBackend a/nobody has no ready endpoint"),
        ("/missing", 500, "invalid_backend: backend XBackend a/missing does not exist"),
        ("/outside", 500, "invalid_backend: backend XBackend a/outside cannot be used"),
        (
            "/unknown",
            503,
            "no_endpoints: XBackend a/unknown has no endpoint: unknown.example could not be looked up",
        ),
    ] {
        checks.soon(&format!("{way}: what cannot be used is refused with a reason: {path}"), |m| {
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
            soon(|| {
                let names = who(m, way, "/both")?;
                ensure!(names.contains("200 r3"), "{names:?}");
                Ok(())
            })?;
        }
        m.delete("third")?;
        for way in WAYS {
            soon(|| both(m, way))?;
        }
        Ok(())
    });
}

fn check_status(checks: &mut Checks<'_>) {
    for (name, accepted, reason) in [
        ("both", "True", "Accepted"),
        ("sticky", "True", "Accepted"),
        ("outside", "False", "UnsupportedProtocol"),
        ("unknown", "True", "Accepted"),
    ] {
        checks.soon(&format!("its status has the Service and the Gateway: {name}"), |m| {
            let object = m.object("XBackend", "a", name)?;
            let entries = object["status"]["ancestors"].as_array().cloned().unwrap_or_default();
            let told: Vec<_> = entries
                .iter()
                .map(|entry| {
                    let condition = &entry["conditions"][0];
                    let of = [&entry["ancestorRef"]["kind"], &condition["status"], &condition["reason"]];
                    of.map(|value| value.as_str().unwrap_or_default().to_owned())
                })
                .collect();
            let expected = ["Service", "Gateway"].map(|kind| [kind, accepted, reason].map(str::to_owned));
            ensure!(told == expected, "{entries:?}");
            Ok(())
        });
    }
    checks.soon("the route's status names what cannot be used", |m| {
        let told = m.condition("HTTPRoute", "a", "web", "ResolvedRefs")?;
        ensure!(told == "False BackendNotFound", "{told}");
        Ok(())
    });
}
