//! XBackends of type ExternalHostname, on a Service and at a Gateway: hosts that are looked up and called in plaintext and by
//! TLS, and what is not called: hosts inside the cluster, hosts that nobody knows, hosts that are not who they should be.
#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "a panic is how a test fails")]

use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use weft_conformance::log_lines;
use weft_conformance::mesh::{
    Answer, Checks, HTTP_PORTS, Mesh, echo, namespace, patiently, route, service, sleeper, soon,
};
use weft_conformance::place::echo_program;

const FROM: &str = "a/near";
const PARENTS: &str = "[{name: front}, {group: \"\", kind: Service, name: web, port: 80}]";
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: a}
spec: {gatewayClassName: weft, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
";
const WAYS: [&str; 2] = ["web", "front-weft"];
/// An address that no node and no object of the cluster has.
const OUTSIDE: &str = "203.0.113.7";

fn xbackend(name: &str, host: &str, port: u16, more: &str) -> String {
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {{name: {name}, namespace: a}}
spec: {{type: ExternalHostname, externalHostname: {{hostname: {host}}}, port: {{number: {port}}}{more}}}
---
"
    )
}

/// A name in the cluster's DNS.
fn host(service: &str, name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {service}
  namespace: a
  annotations: {{external-dns.alpha.kubernetes.io/hostname: {name}, external-dns.alpha.kubernetes.io/target: \"{address}\"}}
spec: {{ports: [{{port: 80}}]}}
---
"
    )
}

/// A certificate with its key for a name, both PEM.
fn certified(name: &str) -> (String, String) {
    let make = format!(
        "openssl req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout - -out - -subj /CN={name} -addext subjectAltName=DNS:{name} -addext basicConstraints=critical,CA:FALSE"
    );
    let out = Command::new("bash").args(["-c", &make]).output().expect("bash and openssl");
    let text = String::from_utf8(out.stdout).expect("PEM");
    let at = text.find("-----BEGIN CERTIFICATE").expect("a certificate");
    (text[at..].to_owned(), text)
}

fn topology(root: &str) -> String {
    let tls = |host: &str| {
        format!(
            ", protocol: HTTP11, tls: {{mode: ServerOnly, validation: {{hostname: {host}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: roots}}]}}}}"
        )
    };
    let rule = |name: &str| {
        format!(
            "{{matches: [{{path: {{value: /{name}}}}}], filters: [{{type: URLRewrite, urlRewrite: {{hostname: {name}.example}}}}], backendRefs: [{{group: gateway.networking.x-k8s.io, kind: XBackend, name: {name}}}]}},"
        )
    };
    let names = ["plain", "secure", "impostor", "inside", "metadata", "unknown", "moving"];
    let indented = root.trim().replace('\n', "\n    ");
    [
        namespace("a", true),
        sleeper("a", "near", "node1"),
        echo("a", "own", "node2", &[]),
        service("a", "web", "own", HTTP_PORTS),
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: a}}\ndata:\n  ca.crt: |\n    {indented}\n---\n"),
        host("outside", "api.example", OUTSIDE),
        host("inside", "inside.example", "10.96.0.10"),
        host("metadata", "metadata.example", "169.254.169.254"),
        xbackend("plain", "api.example", 8080, ""),
        xbackend("secure", "api.example", 8443, &tls("api.example")),
        xbackend("impostor", "api.example", 8443, &tls("other.example")),
        xbackend("inside", "inside.example", 53, ""),
        xbackend("metadata", "metadata.example", 80, ""),
        xbackend("unknown", "unknown.example", 80, ""),
        xbackend("moving", "moving.example", 8080, ""),
        GATEWAY.to_owned(),
        route("HTTPRoute", "a", "web", PARENTS, &format!("rules: [{}]", names.map(rule).concat())),
    ]
    .concat()
}

/// Servers outside of every pod: each node has the address, so that it is reached from all pods.
struct Outside(Vec<Child>);

impl Outside {
    fn start(mesh: &Mesh, pem: &str) -> Self {
        let mut servers = Vec::new();
        for node in ["node/node1", "node/node2"] {
            mesh.run(node, &["ip", "address", "add", &format!("{OUTSIDE}/32"), "dev", "lo"])
                .expect("an address");
            let serve = format!(
                "{} --name outside --port 8080 & exec openssl s_server -accept {OUTSIDE}:8443 -www -quiet -cert <(echo \"$0\") -key <(echo \"$0\")",
                echo_program()
            );
            let mut command = mesh.place().exec_command(node, &["bash", "-c", &serve, pem]);
            let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            servers.push(command.spawn().expect("servers"));
        }
        Self(servers)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for server in &mut self.0 {
            // It may have ended.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[test]
fn external_host() {
    let (root, pem) = certified("api.example");
    let mesh = weft_conformance::place::up(&topology(&root));
    let _outside = Outside::start(&mesh, &pem);
    let mut checks = Checks::new(&mesh);
    for way in WAYS {
        check_calls(&mut checks, way);
    }
    check_changes(&mut checks);
    check_log(&mut checks);
    checks.finish();
}

fn check_calls(checks: &mut Checks<'_>, way: &'static str) {
    checks.soon(
        &format!("{way}: a host outside the cluster answers, under the name that the route says"),
        |m| {
            let answer = ask(m, way, "/plain")?;
            answer.expect(200, "outside")?;
            ensure!(answer.received("host")? == ["plain.example"], "{answer:?}");
            Ok(())
        },
    );
    checks.soon(&format!("{way}: and by TLS, if it is who it should be"), |m| {
        let answer = ask(m, way, "/secure")?;
        ensure!(answer.status == 200 && answer.body.contains("TLSv1.3"), "{answer:?}");
        let answer = ask(m, way, "/impostor")?;
        ensure!(answer.status == 503 && answer.body.starts_with("weft: tls_failed: "), "{answer:?}");
        Ok(())
    });
    for (path, why) in [
        ("/inside", "inside.example has no address outside the cluster"),
        ("/metadata", "metadata.example has no address outside the cluster"),
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
        for (address, status) in [(OUTSIDE, 200), ("10.96.0.10", 503)] {
            m.apply("moving", &host("moving", "moving.example", address))?;
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

fn check_log(checks: &mut Checks<'_>) {
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
