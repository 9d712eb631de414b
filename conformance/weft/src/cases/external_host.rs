//! XBackends of type ExternalHostname, on a Service and at a Gateway: hosts that are looked up and called in plaintext and by
//! TLS, and what is not called: hosts inside the cluster, hosts that nobody knows, hosts that are not who they should be.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use anyhow::{Context, Result, ensure};

use super::xbackend::{PARENTS, WAYS, backend, check_ancestors, xbackend};
use crate::mesh::{
    Answer, Checks, ECHO, HTTP_LISTENER, HTTP_PORTS, Mesh, echo, gateway, log_lines, namespace, nodes,
    patiently, route, service, sleeper, soon,
};

const FROM: &str = "a/near";
/// An address that no object of the cluster has. Each node has it, so that it is reached from all pods.
const OUTSIDE: &str = "203.0.113.7";
/// DNS of the cluster itself.
const INSIDE: &str = "10.96.0.10";

/// An XBackend for a host.
fn to(name: &str, host: &str, port: u16, more: &str) -> String {
    let host = format!("type: ExternalHostname, externalHostname: {{hostname: {host}}}");
    xbackend(name, &format!("{host}, port: {{number: {port}}}{more}"))
}

/// The name of a [`host`].
fn at(name: &str) -> String {
    format!("{name}.a.svc.outside.example")
}

/// A name outside the cluster's domain: the test cluster's DNS has Services under a second domain, the lab's what annotations say.
fn host(name: &str, address: &str) -> String {
    let of_dns = "external-dns.alpha.kubernetes.io";
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: a
  annotations: {{{of_dns}/hostname: {}, {of_dns}/target: {address}}}
spec: {{clusterIP: None, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: a, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
endpoints: [{{addresses: [{address}]}}]
ports: [{{port: 80}}]
---
",
        at(name)
    )
}

/// The objects, but for the roots, which [`serve`] makes.
pub fn topology() -> String {
    let tls = |host: &str| {
        format!(
            ", protocol: HTTP11, tls: {{mode: ServerOnly, validation: {{hostname: {host}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: roots}}]}}}}"
        )
    };
    let rule = |name: &str| {
        format!(
            "{{matches: [{{path: {{value: /{name}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{hostname: {name}.example}}}}], {}}},",
            backend(name)
        )
    };
    let names = ["plain", "secure", "impostor", "inside", "metadata", "unknown", "moving"];
    [
        namespace("a", true),
        nodes(),
        sleeper("a", "near", "node1"),
        echo("a", "own", "node2", &[]),
        service("a", "web", "own", HTTP_PORTS),
        host("api", OUTSIDE),
        host("inside", INSIDE),
        // Of the metadata servers' addresses one that is not link-local: no EndpointSlice may have those.
        host("metadata", "168.63.129.16"),
        to("plain", &at("api"), 8080, ""),
        to("secure", &at("api"), 8443, &tls(&at("api"))),
        to("impostor", &at("api"), 8443, &tls("other.example")),
        to("inside", &at("inside"), 53, ""),
        to("metadata", &at("metadata"), 80, ""),
        to("unknown", "unknown.example", 80, ""),
        to("moving", &at("moving"), 8080, ""),
        gateway("a", "front", HTTP_LISTENER),
        route("HTTPRoute", "a", "web", PARENTS, &format!("rules: [{}]", names.map(rule).concat())),
    ]
    .concat()
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    if !checks.mesh().is_weft() {
        return;
    }
    checks.check("there is a host outside the cluster", serve);
    for way in WAYS {
        check_calls(checks, way);
    }
    check_changes(checks);
    check_told(checks);
    checks.check("the nodes give its address back", |m| {
        on_nodes(m, &["ip", "address", "delete", &format!("{OUTSIDE}/32"), "dev", "lo"])
    });
}

fn on_nodes(m: &Mesh, program: &[&str]) -> Result<()> {
    ["node/node1", "node/node2"].into_iter().try_for_each(|node| m.run(node, program).map(drop))
}

/// Servers outside of every pod, with one certificate.
fn serve(m: &Mesh) -> Result<()> {
    let name = at("api");
    let make = format!(
        "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout - -out - -subj /CN=api -addext subjectAltName=DNS:{name} -addext basicConstraints=critical,CA:FALSE 2>/dev/null"
    );
    let pem = m.run(FROM, &["bash", "-c", &make])?;
    let certificate =
        pem.find("-----BEGIN CERTIFICATE").and_then(|at| pem.get(at..)).context("no certificate")?;
    let indented = certificate.trim().replace('\n', "\n    ");
    m.apply(
        "roots",
        &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: a}}\ndata:\n  ca.crt: |\n    {indented}\n---\n"),
    )?;
    let serve = format!(
        "ip address replace {OUTSIDE}/32 dev lo || exit 1; exec </dev/null >/dev/null 2>&1
{ECHO} --name outside --port 8080 &
openssl s_server -accept {OUTSIDE}:8443 -www -quiet -cert <(echo \"$0\") -key <(echo \"$0\") &"
    );
    on_nodes(m, &["bash", "-c", &serve, &pem])
}

fn check_calls(checks: &mut Checks<'_>, way: &'static str) {
    checks.check(&format!("{way}: it answers, under the name that the route says"), |m| {
        patiently(|| {
            let answer = ask(m, way, "/plain")?;
            answer.expect(200, "outside")?;
            ensure!(answer.received("host")? == ["plain.example"], "{answer:?}");
            Ok(())
        })
    });
    checks.soon(&format!("{way}: and by TLS, if it is who it should be"), |m| {
        let answer = ask(m, way, "/secure")?;
        ensure!(answer.status == 200 && answer.body.contains("TLSv1.3"), "{answer:?}");
        let answer = ask(m, way, "/impostor")?;
        ensure!(answer.status == 503 && answer.body.starts_with("weft: tls_failed: "), "{answer:?}");
        Ok(())
    });
    for (path, why) in [
        ("/inside", "has no address outside the cluster"),
        ("/metadata", "has no address outside the cluster"),
        ("/unknown", "unknown.example could not be looked up"),
    ] {
        checks.soon(&format!("{way}: other hosts are not called: {path}"), |m| {
            let answer = ask(m, way, path)?;
            ensure!(answer.status == 503 && answer.body.starts_with("weft: no_endpoints: "), "{answer:?}");
            ensure!(answer.body.contains(why), "{answer:?}");
            Ok(())
        });
    }
}

fn check_changes(checks: &mut Checks<'_>) {
    checks.check("a name is followed: to an address, and to one that is not called", |m| {
        for (address, status) in [(OUTSIDE, 200), (INSIDE, 503)] {
            m.apply("moving", &host("moving", address))?;
            for way in WAYS {
                patiently(|| {
                    let answer = ask(m, way, "/moving")?;
                    ensure!(answer.status == status, "{way}, {address}: {answer:?}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    });
}

fn check_told(checks: &mut Checks<'_>) {
    for name in ["plain", "inside"] {
        checks.soon(&format!("its status has the Service and the Gateway: {name}"), |m| {
            check_ancestors(m, name, ["True Accepted"; 2])
        });
    }
    checks.check("the access log says how it was reached", |m| {
        soon(|| {
            let lines = log_lines(&m.proxy_log("node1")?);
            for (path, security) in [("/plain", "plaintext"), ("/secure", "tls")] {
                let line = lines.iter().rfind(|line| line["path"] == path && line["code"] == 200);
                let line = line.cloned().unwrap_or_default();
                ensure!(line["security"] == security, "{path}: {line}");
            }
            Ok(())
        })
    });
}

fn ask(m: &Mesh, way: &str, path: &str) -> Result<Answer> {
    m.curl(FROM, &[&format!("http://{way}{path}")])
}
