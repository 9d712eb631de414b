//! What can be seen on the wire by who taps a node: nothing of what pods in the mesh say to each other, in any protocol.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use anyhow::{Result, ensure};

use super::streams::greeter;
use crate::mesh::{Checks, HTTP_PORTS as HTTP, IMAGE, Mesh, Port, echo, namespace, pod, service, sleeper};

const PYTHON: &str = "/usr/bin/python3";
const SECRET: &str = "only-for-your-eyes";
const GRPC: &[Port] = &[Port("grpc", 7070, 7070, "kubernetes.io/h2c")];

/// A pod in a node's own network, which sees every interface of it.
fn tap(node: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {node}, namespace: tap}}
spec:
  nodeName: {node}
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, {IMAGE}, command: [sleep, infinity], securityContext: {{privileged: true}}}}]
---
"
    )
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("plain", false) + &namespace("tap", false);
    yaml += &(tap("node1") + &tap("node2"));
    yaml += &(sleeper("a", "near", "node1") + &sleeper("plain", "client", "node1"));
    for (name, node) in [("web", "node1"), ("web2", "node2")] {
        yaml += &(echo("a", name, node, &[]) + &service("a", name, name, HTTP));
    }
    yaml += &(echo("plain", "open", "node2", &[]) + &service("plain", "open", "open", HTTP));
    let rpc = [PYTHON, "-c", include_str!("programs/grpc_server.py"), "rpc"];
    yaml += &(pod("a", "rpc", "node2", "rpc", Some(7070), &rpc) + &service("a", "rpc", "rpc", GRPC));
    yaml + &greeter("bytes", "node2")
}

/// How often the secret is seen on either node's interfaces while `calls` runs, and how many packets went to port 15008.
fn tapped(mesh: &Mesh, calls: impl FnOnce() -> Result<()>) -> Result<(u32, u32)> {
    let (mut secrets, mut tunnelled) = (0, 0);
    for node in ["tap/node1", "tap/node2"] {
        let begin = "rm -f /tmp/cap; tcpdump -i any -Z root -U -s 0 -w /tmp/cap >/tmp/told 2>&1 & echo $! > /tmp/pid; for i in $(seq 100); do [ -s /tmp/cap ] && exit 0; sleep 0.1; done; cat /tmp/told; exit 1";
        mesh.run(node, &["bash", "-c", begin])?;
    }
    let outcome = calls();
    for node in ["tap/node1", "tap/node2"] {
        // A moment for what is still on its way to the file.
        let end = format!(
            "sleep 0.5; kill -INT $(cat /tmp/pid); sleep 0.5; grep -a -c {SECRET} /tmp/cap; tcpdump -Z root -r /tmp/cap 'tcp port 15008' 2>/dev/null | wc -l"
        );
        let told = mesh.shell(node, &end)?;
        let mut numbers = told.lines().filter_map(|line| line.trim().parse::<u32>().ok());
        secrets += numbers.next().unwrap_or(0);
        tunnelled += numbers.next().unwrap_or(0);
    }
    outcome.map(|()| (secrets, tunnelled))
}

/// One call in each protocol that carries the secret and brings it back.
fn calls(mesh: &Mesh) -> Result<()> {
    let header = format!("x-secret: {SECRET}");
    for url in ["http://web2/", "http://web/"] {
        mesh.curl("a/near", &["-H", &header, "-d", SECRET, url])?.expect(200, "")?;
    }
    let metadata = format!("x-secret={SECRET}");
    let client = [
        PYTHON,
        "-c",
        include_str!("programs/grpc_client.py"),
        "rpc:7070",
        "unary",
        "/shop.Orders/Get",
        "1",
        &metadata,
    ];
    let told = mesh.run("a/near", &client)?;
    ensure!(told.contains(SECRET), "{told}");
    let told = mesh.shell("a/near", &format!("echo {SECRET} | socat -t5 - TCP:bytes:90"))?;
    ensure!(told.contains(SECRET), "{told}");
    Ok(())
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    checks.check("the tap sees what is not encrypted", |m| {
        let (secrets, _) =
            tapped(m, || m.curl("plain/client", &["-d", SECRET, "http://open/"])?.expect(200, "open"))?;
        ensure!(secrets > 0, "the tap is deaf");
        Ok(())
    });
    checks.check(
        "nothing that pods in the mesh say is to be seen, in any protocol, in a node or between nodes",
        |m| {
            let (secrets, tunnelled) = tapped(m, || calls(m))?;
            ensure!(secrets == 0, "seen {secrets} times");
            ensure!(!m.is_weft() || tunnelled > 0, "no packet to port 15008");
            Ok(())
        },
    );
}
