//! What can be seen on the wire by who taps a node: nothing of what pods in the mesh say to each other, in any protocol.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use anyhow::{Context, Result, ensure};

use super::streams::greeter;
use crate::mesh::{
    Checks, HTTP_PORTS as HTTP, Mesh, Port, echo, namespace, nodes, patiently, pod, pod_address, service,
    sleeper,
};

const PYTHON: &str = "/usr/bin/python3";
const SECRET: &str = "only-for-your-eyes";
const GRPC: &[Port] = &[Port("grpc", 7070, 7070, "kubernetes.io/h2c")];

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("plain", false) + &nodes();
    yaml += &(sleeper("a", "near", "node1") + &sleeper("a", "other", "node1"));
    yaml += &sleeper("plain", "client", "node1");
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
    for node in ["node/node1", "node/node2"] {
        let begin = "rm -f /tmp/cap; tcpdump -i any -Z root -U -s 0 -w /tmp/cap >/tmp/told 2>&1 & echo $! > /tmp/pid; for i in $(seq 100); do [ -s /tmp/cap ] && exit 0; sleep 0.1; done; cat /tmp/told; exit 1";
        mesh.run(node, &["bash", "-c", begin])?;
    }
    let outcome = calls();
    for node in ["node/node1", "node/node2"] {
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

/// Runs a script in a pod whose output has the secret, and lets nothing of that leave the pod: what `kubectl exec` brings is
/// to be seen on its way inside the node.
fn told_the_secret(mesh: &Mesh, pod: &str, script: &str) -> Result<()> {
    let told = mesh.shell(pod, &format!("{{ {script}; }} >/tmp/told 2>&1; grep -c {SECRET} /tmp/told"))?;
    ensure!(
        told.trim().parse::<u32>().is_ok_and(|lines| lines > 0),
        "the secret did not come back: {script}"
    );
    Ok(())
}

/// One call in each protocol that carries the secret and brings it back.
fn calls(mesh: &Mesh) -> Result<()> {
    for host in ["web2", "web"] {
        let call = format!("curl -sS -m 15 -H 'x-secret: {SECRET}' -d {SECRET} http://{host}/");
        told_the_secret(mesh, "a/near", &call)?;
    }
    let client = include_str!("programs/grpc_client.py");
    mesh.pipe("a/near", &["bash", "-c", "cat > /tmp/grpc_client.py"], client.as_bytes())?;
    let call = format!("python3 /tmp/grpc_client.py rpc:7070 unary /shop.Orders/Get 1 x-secret={SECRET}");
    told_the_secret(mesh, "a/near", &call)?;
    told_the_secret(mesh, "a/near", &format!("echo {SECRET} | socat -t5 - TCP:bytes:90"))
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    checks.check("the tap sees what is not encrypted", |m| {
        let call = format!("curl -sS -m 15 -d {SECRET} http://open/");
        let (secrets, _) = tapped(m, || told_the_secret(m, "plain/client", &call))?;
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
    checks.check("a packet filter of the node sees who calls whom, by their own addresses", filtered);
    checks.own(
        "who connects to the tunnel's port is shown the pod's identity, and let in only with one",
        shown,
    );
}

/// Drops in the callers' node what it forwards from one pod to another, or drops it no more.
fn filter(mesh: &Mesh, rules: Option<(&str, &str)>) -> Result<()> {
    let rules = match rules {
        Some((from, to)) => format!(
            "table ip conformance {{ chain forward {{ type filter hook forward priority 0; ip saddr {from} ip daddr {to} counter reject with tcp reset; }}; }}"
        ),
        None => "delete table ip conformance".to_owned(),
    };
    mesh.run("node/node1", &["nft", &rules]).map(drop)
}

fn filtered(mesh: &Mesh) -> Result<()> {
    let [near, other, web2] = ["near", "other", "web2"].map(|name| pod_address(mesh, "a", name, false));
    let (near, other, web2) = (near?, other?, web2?);
    let call = |pod: &str| {
        mesh.curl(pod, &["-4", "-m", "5", "http://web2/"]).and_then(|told| told.expect(200, "web2"))
    };
    call("a/near")?;
    // Established connections are forwarded by the same rule: it is asked for each packet.
    filter(mesh, Some((&near, &web2)))?;
    let refused = call("a/near").is_err();
    let others = call("a/other");
    let counted = mesh.run("node/node1", &["nft", "list", "table", "ip", "conformance"]);
    filter(mesh, None)?;
    let counted = counted?;
    ensure!(
        refused && !counted.contains("packets 0"),
        "{near} is not stopped on its way to {web2}: {counted}"
    );
    others.with_context(|| format!("{other} is stopped as well"))?;
    patiently(|| call("a/near"))
}

fn shown(mesh: &Mesh) -> Result<()> {
    let address = pod_address(mesh, "a", "web2", false)?;
    let script = format!(
        "openssl s_client -connect {address}:15008 -alpn weft-h1 </dev/null >/tmp/shown 2>&1; openssl x509 -noout -ext subjectAltName </tmp/shown; (echo; sleep 1) | timeout 5 openssl s_client -quiet -connect {address}:15008 -alpn weft-h1 2>&1"
    );
    let told = mesh.shell("plain/client", &script)?;
    ensure!(told.contains("URI:spiffe://cluster.local/ns/a/sa/default"), "{told}");
    ensure!(told.contains("certificate required"), "{told}");
    Ok(())
}
