//! Who calls: the caller's address reaches the application, a pod reaches itself through its own Service in every protocol,
//! and who is not in the mesh gets neither in nor routed.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use anyhow::{Result, ensure};

use super::streams::{greeter, tls_server};
use crate::mesh::{
    Checks, HTTP_PORTS as HTTP, Mesh, Port, echo, host, namespace, pod, pod_address, route, service, sleeper,
    soon,
};

const PYTHON: &str = "/usr/bin/python3";
const WEB: &[Port] = &[Port("http", 80, 8080, "http"), Port("h2c", 81, 8080, "kubernetes.io/h2c")];
const GRPC: &[Port] = &[Port("grpc", 7070, 7070, "kubernetes.io/h2c")];
/// A namespace in the mesh that still takes callers from outside of it.
const PERMISSIVE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: p, labels: {weft-mesh.dev/mesh: enabled, weft-mesh.dev/mtls: permissive}}\n---\n";

/// The objects. Servers are their own Services' only endpoints.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("out", false);
    yaml += &(sleeper("a", "near", "node1")
        + &sleeper("a", "far", "node2")
        + &sleeper("out", "stranger", "node1"));
    for (name, node) in [("web", "node1"), ("web2", "node2")] {
        yaml += &(echo("a", name, node, &[]) + &service("a", &format!("{name}-svc"), name, WEB));
        yaml += &(service("a", &format!("{name}-routed"), name, WEB)
            + &set_header("a", name, &format!("{name}-routed")));
    }
    let rpc = [PYTHON, "-c", include_str!("programs/grpc_server.py"), "rpc"];
    yaml += &(pod("a", "rpc", "node1", "rpc", Some(7070), &rpc) + &service("a", "rpc-svc", "rpc", GRPC));
    yaml += &route(
        "GRPCRoute",
        "a",
        "rpc-svc",
        "[{group: \"\", kind: Service, name: rpc-svc}]",
        "rules: [{backendRefs: [{name: rpc-svc, port: 7070}]}]",
    );
    yaml += &greeter("bytes", "node1");
    yaml += &tls_server(
        "tls",
        "node1",
        "exec openssl s_server -quiet -accept 8443 -cert cert.pem -key key.pem -www",
    );
    yaml
}

/// A route that says in the answer that it was there.
fn set_header(namespace: &str, backend: &str, name: &str) -> String {
    let filter =
        "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-routed, value: \"yes\"}]}}";
    let rules = format!("rules: [{{filters: [{filter}], backendRefs: [{{name: {backend}-svc, port: 80}}]}}]");
    route("HTTPRoute", namespace, name, &format!("[{{group: \"\", kind: Service, name: {name}}}]"), &rules)
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    addresses(checks);
    hairpin(checks);
    strangers(checks);
}

/// The address that the echo server saw.
fn seen(mesh: &Mesh, pod: &str, arguments: &[&str]) -> Result<String> {
    let answer = mesh.curl(pod, arguments)?;
    answer.expect(200, "")?;
    Ok(answer.echoed()?["from"].as_str().unwrap_or_default().to_owned())
}

fn addresses(checks: &mut Checks<'_>) {
    for (family, v6) in [("-4", false), ("-6", true)] {
        for caller in ["near", "far", "web", "web2"] {
            for server in ["web", "web2"] {
                checks.check(&format!("{server} sees the address of {caller} ({family})"), |m| {
                    let own = pod_address(m, "a", caller, v6)?;
                    for what in ["svc", "routed"] {
                        let url = format!("http://{server}-{what}.a/");
                        let from = seen(m, &format!("a/{caller}"), &[family, &url])?;
                        ensure!(from == own, "{url}: {from} instead of {own}");
                    }
                    Ok(())
                });
            }
        }
        checks.check(&format!("a pod's own address is called without a route ({family})"), |m| {
            let address = host(&pod_address(m, "a", "web2", v6)?);
            let answer = m.curl("a/near", &[&format!("http://{address}:8080/")])?;
            answer.expect(200, "web2")?;
            ensure!(answer.header("x-routed").is_empty(), "{answer:?}");
            Ok(())
        });
    }
}

fn hairpin(checks: &mut Checks<'_>) {
    for family in ["-4", "-6"] {
        checks.check(
            &format!("a pod reaches itself by HTTP/1.1 and by h2c, routed or not ({family})"),
            |m| {
                for url in ["http://web-svc/", "http://web-routed/"] {
                    let answer = m.curl("a/web", &[family, url])?;
                    answer.expect(200, "web")?;
                    let routed = !answer.header("x-routed").is_empty();
                    ensure!(routed == url.contains("routed"), "{url}: {answer:?}");
                }
                for url in ["http://web-svc:81/", "http://web-routed:81/"] {
                    m.curl("a/web", &[family, "--http2-prior-knowledge", url])?.expect(200, "web")?;
                }
                Ok(())
            },
        );
    }
    checks.check("a pod reaches itself by gRPC", |m| {
        let client = [
            PYTHON,
            "-c",
            include_str!("programs/grpc_client.py"),
            "rpc-svc:7070",
            "unary",
            "/shop.Orders/Get",
            "3",
        ];
        let told = m.run("a/rpc", &client)?;
        ensure!(told.lines().count() == 3 && told.lines().all(|line| line.starts_with("rpc ")), "{told}");
        Ok(())
    });
    for family in ["TCP4", "TCP6"] {
        checks.check(
            &format!("a pod reaches itself on a port where the server speaks first ({family})"),
            |m| {
                let told = m.shell("a/bytes", &format!("echo over | socat -t5 - {family}:bytes.a:90"))?;
                ensure!(told == "bytes\nover\n", "{told:?}");
                Ok(())
            },
        );
    }
    checks.check("a pod reaches itself by TLS of its own", |m| {
        let told = m.shell("a/tls", "curl -sSk https://tls.a/ | head -c 15")?;
        ensure!(told.contains("<HTML>"), "{told}");
        Ok(())
    });
}

fn strangers(checks: &mut Checks<'_>) {
    for family in ["-4", "-6"] {
        checks.check(
            &format!("who is not in the mesh does not get in, by Service or pod address ({family})"),
            |m| {
                for url in [
                    "http://web-svc.a/".to_owned(),
                    "http://web2-routed.a/".to_owned(),
                    pod_url(m, family == "-6")?,
                ] {
                    let told = m.shell(
                        "out/stranger",
                        &format!("curl -sS -m 8 {family} -o /dev/null -w '%{{http_code}}' {url}; true"),
                    )?;
                    ensure!(told.contains("000"), "{url}: {told}");
                }
                Ok(())
            },
        );
    }
    checks.check("who is in the mesh calls out of it as ever", |m| {
        m.apply("outside", &(echo("out", "plain", "node2", &[]) + &service("out", "plain", "plain", HTTP)))?;
        soon(|| m.curl("a/near", &["http://plain.out/"])?.expect(200, "plain"))
    });
    checks.own("who is not in the mesh gets into a permissive namespace, but no route", |m| {
        let objects = PERMISSIVE.to_owned()
            + &echo("p", "open", "node2", &[])
            + &service("p", "open-svc", "open", WEB)
            + &set_header("p", "open", "open-svc")
            + &sleeper("p", "in", "node1");
        m.apply("permissive", &objects)?;
        m.settle()?;
        soon(|| {
            let inside = m.curl("p/in", &["http://open-svc.p/"])?;
            inside.expect(200, "open")?;
            ensure!(inside.header("x-routed") == ["yes"], "{inside:?}");
            let outside = m.curl("out/stranger", &["http://open-svc.p/"])?;
            outside.expect(200, "open")?;
            ensure!(outside.header("x-routed").is_empty(), "{outside:?}");
            Ok(())
        })
    });
}

fn pod_url(mesh: &Mesh, v6: bool) -> Result<String> {
    Ok(format!("http://{}:8080/", host(&pod_address(mesh, "a", "web2", v6)?)))
}
