//! What a Service says about its endpoints and addresses, on a cluster: affinity, traffic policies, node ports, load balancers;
//! and UDPRoutes.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::mesh::{
    Checks, HTTP_PORTS as HTTP, Mesh, echo, host, namespace, patiently, pod, pod_address, route, service,
    sleeper, soon, tally,
};

/// A Service of the pods with `all: "yes"` that are echo servers, with further fields of its spec.
fn web(name: &str, selector: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: a}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{{selector}}}, ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]{more}}}
---
"
    )
}

/// Answers each datagram with its name and the sender's address.
pub(super) fn datagrams(name: &str, node: &str) -> String {
    let answer = format!("read asked; echo {name} $SOCAT_PEERADDR");
    let serve = ["socat", "UDP6-RECVFROM:5300,ipv6only=0,fork", &format!("SYSTEM:{answer}")];
    pod("a", name, node, name, None, &serve) + &udp_service(name, name, "")
}

pub(super) fn udp_service(name: &str, app: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: a}}
spec: {{ipFamilyPolicy: PreferDualStack, selector: {{app: {app}}}, ports: [{{name: udp, port: 53, targetPort: 5300, protocol: UDP}}]{more}}}
---
"
    )
}

fn udp_route(namespace: &str, backends: &str) -> String {
    let parent = "[{group: \"\", kind: Service, namespace: a, name: front}]";
    route("UDPRoute", namespace, "front", parent, &format!("rules: [{{backendRefs: [{backends}]}}]"))
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("b", true) + &namespace("out", false);
    for (name, node) in [("v1", "node1"), ("v2", "node2")] {
        yaml += &(echo("a", name, node, &[]) + &service("a", name, name, HTTP));
    }
    for (name, node) in [("u1", "node1"), ("u2", "node2")] {
        yaml += &datagrams(name, node);
    }
    yaml += &(sleeper("a", "near", "node1") + &sleeper("a", "far", "node2"));
    yaml += &(sleeper("b", "client", "node1") + &sleeper("out", "stranger", "node1"));
    let slices = "app: web-of-both";
    yaml += &web("any", slices, "");
    yaml += &web("affine", slices, ", sessionAffinity: ClientIP");
    yaml += &web("local", slices, ", internalTrafficPolicy: Local");
    yaml += &web("only-far", "app: v2", ", internalTrafficPolicy: Local");
    // The routed ones have addresses of every kind.
    yaml += &web("open", "app: v1", ", type: LoadBalancer");
    let filter =
        "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-routed, value: \"yes\"}]}}";
    yaml += &route(
        "HTTPRoute",
        "a",
        "open",
        "[{group: \"\", kind: Service, name: open}]",
        &format!("rules: [{{filters: [{filter}], backendRefs: [{{name: v2, port: 80}}]}}]"),
    );
    yaml += &udp_service("front", "u1", ", type: NodePort");
    // Two servers that one selector finds.
    for (name, node) in [("w1", "node1"), ("w2", "node2")] {
        yaml += &echo("a", name, node, &[]).replace(&format!("app: {name}"), "app: web-of-both");
    }
    yaml
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    endpoints(checks);
    addresses(checks);
    datagrams_are_routed(checks);
}

/// How often each server answers, each request on a connection of its own.
fn answered(mesh: &Mesh, pod: &str, host: &str) -> Result<BTreeMap<String, usize>> {
    mesh.many(pod, 24, &format!("http://{host}/"), &["-H", "Connection: close"])
}

fn only(counts: &BTreeMap<String, usize>, wanted: &[&str]) -> Result<()> {
    ensure!(counts.keys().eq(wanted.iter()), "{counts:?} instead of {wanted:?}");
    Ok(())
}

fn endpoints(checks: &mut Checks<'_>) {
    checks.check("without a word all endpoints are called", |m| {
        only(&answered(m, "a/near", "any")?, &["200 w1", "200 w2"])
    });
    checks.check("sessionAffinity: ClientIP keeps each client at one endpoint", |m| {
        for pod in ["a/near", "a/far", "b/client"] {
            let counts = answered(m, pod, "affine.a")?;
            ensure!(counts.len() == 1 && counts.values().sum::<usize>() == 24, "{pod}: {counts:?}");
        }
        Ok(())
    });
    checks.check("internalTrafficPolicy: Local calls endpoints of the caller's node only", |m| {
        only(&answered(m, "a/near", "local")?, &["200 w1"])?;
        only(&answered(m, "a/far", "local")?, &["200 w2"])
    });
    checks.check("where the node has none, it refuses", |m| {
        m.curl("a/far", &["http://only-far/"])?.expect(200, "v2")?;
        let answer = m.curl("a/near", &["http://only-far/"])?;
        answer.expect(503, "")?;
        ensure!(!m.is_weft() || answer.body.contains("internalTrafficPolicy"), "{}", answer.body);
        Ok(())
    });
}

/// The node port of a Service's first port.
fn node_port(mesh: &Mesh, service: &str) -> Result<u64> {
    let object = mesh.object("Service", "a", service)?;
    object["spec"]["ports"][0]["nodePort"].as_u64().with_context(|| format!("{service} has no node port"))
}

/// The address that a load balancer has given.
fn balancer(mesh: &Mesh, service: &str) -> Result<String> {
    let object = mesh.object("Service", "a", service)?;
    let ip = object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
    ip.map(str::to_owned).with_context(|| format!("{service} has no load balancer"))
}

/// The nodes' own addresses.
fn nodes(mesh: &Mesh) -> Result<Vec<String>> {
    let path = "--output=jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
    Ok(mesh.kubectl(&["get", "nodes", path], "")?.split_whitespace().map(str::to_owned).collect())
}

fn is_routed(mesh: &Mesh, pod: &str, url: &str) -> Result<bool> {
    let answer = mesh.curl(pod, &[url])?;
    answer.expect(200, "")?;
    let routed = !answer.header("x-routed").is_empty();
    ensure!(answer.name()? == if routed { "v2" } else { "v1" }, "{url}: {answer:?}");
    Ok(routed)
}

fn addresses(checks: &mut Checks<'_>) {
    checks.check("a route holds at node ports, of every node and family", |m| {
        let port = node_port(m, "open")?;
        let nodes = nodes(m)?;
        ensure!(nodes.len() >= 2, "{nodes:?}");
        for node in nodes {
            let url = format!("http://{}:{port}/", host(&node));
            soon(|| {
                ensure!(is_routed(m, "a/near", &url)?, "{url} is not routed");
                Ok(())
            })?;
        }
        Ok(())
    });
    checks.check("a route holds at the load balancer's address", |m| {
        let mut url = String::new();
        patiently(|| {
            url = format!("http://{}/", host(&balancer(m, "open")?));
            Ok(())
        })?;
        soon(|| {
            ensure!(is_routed(m, "a/near", &url)?, "{url} is not routed");
            Ok(())
        })
    });
}

/// What comes back for one datagram of each of so many flows: the names that answered, and the last sender's address seen.
pub(super) fn ask(mesh: &Mesh, pod: &str, at: &str, flows: u32) -> Result<(BTreeMap<String, usize>, String)> {
    let family = if at.starts_with('[') { "UDP6" } else { "UDP4" };
    let script = format!(
        "for i in $(seq {flows}); do echo hello | socat -T 3 -t 3 - {family}:{at},readbytes=45; done 2>/dev/null"
    );
    let told = mesh.shell(pod, &script)?;
    let names: Vec<&str> = told.lines().filter_map(|line| line.split(' ').next()).collect();
    let sender = told.lines().last().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    Ok((tally(&names.join("\n")), sender.to_owned()))
}

/// Fails unless the servers answered so often.
pub(super) fn shares(mesh: &Mesh, pod: &str, at: &str, wanted: [usize; 2]) -> Result<()> {
    let flows = u32::try_from(wanted[0] + wanted[1])?;
    let (counts, _) = ask(mesh, pod, at, flows)?;
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    ensure!([of("u1"), of("u2")] == wanted, "{at}: {counts:?} instead of {wanted:?}");
    Ok(())
}

/// The Service's address in a family, with its port.
fn front(mesh: &Mesh, v6: bool) -> Result<String> {
    let object = mesh.object("Service", "a", "front")?;
    let all = object["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let ip = all.into_iter().find(|ip| ip.contains(':') == v6).context("no address of this family")?;
    Ok(format!("{}:53", host(ip)))
}

fn datagrams_are_routed(checks: &mut Checks<'_>) {
    checks.check("without a route UDP is left to kube-proxy", |m| {
        shares(m, "a/near", &front(m, false)?, [4, 0])
    });
    checks.check("a UDPRoute takes effect", |m| {
        let quarter = "{name: u1, port: 53, weight: 1}, {name: u2, port: 53, weight: 3}";
        m.apply("udp", &udp_route("a", quarter))?;
        let at = front(m, false)?;
        patiently(|| {
            ensure!(ask(m, "a/near", &at, 4)?.0.contains_key("u2"), "not yet");
            Ok(())
        })
    });
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        checks.check(
            &format!("flows are shared out by weight, and servers see the caller's address ({family})"),
            |m| {
                let at = front(m, v6)?;
                shares(m, "a/near", &at, [2, 6])?;
                let (_, sender) = ask(m, "a/near", &at, 1)?;
                let own: std::net::IpAddr = pod_address(m, "a", "near", v6)?.parse()?;
                let seen: std::net::Ipv6Addr =
                    sender.trim_matches(['[', ']']).parse().context(sender.clone())?;
                ensure!(seen.to_canonical() == own, "{sender} instead of {own}");
                Ok(())
            },
        );
    }
    checks.check("a UDPRoute holds at node ports", |m| {
        let port = node_port(m, "front")?;
        let at = nodes(m)?.into_iter().find(|node| !node.contains(':')).context("no node")?;
        shares(m, "a/near", &format!("{at}:{port}"), [2, 6])
    });
    checks.check("a pod reaches itself through its own Service by UDP", |m| {
        m.apply("udp", &udp_route("a", "{name: u1, port: 53}"))?;
        let at = front(m, false)?;
        patiently(|| shares(m, "a/u1", &at, [3, 0]))
    });
    checks.check(
        "a consumer route holds for its own namespace alone, and for nobody outside the mesh",
        |m| {
            m.apply("udp-consumer", &udp_route("b", "{name: u2, namespace: a, port: 53}"))?;
            let at = front(m, false)?;
            patiently(|| shares(m, "b/client", &at, [0, 3]))?;
            shares(m, "a/near", &at, [3, 0])?;
            shares(m, "out/stranger", &at, [3, 0])
        },
    );
    checks.check("a backend that does not exist loses its share, and the status says so", |m| {
        m.apply("udp", &udp_route("a", "{name: u1, port: 53}, {name: missing, port: 53}"))?;
        let at = front(m, false)?;
        patiently(|| {
            let told = m.condition("UDPRoute", "a", "front", "ResolvedRefs")?;
            ensure!(told == "False BackendNotFound", "{told}");
            let (counts, _) = ask(m, "a/near", &at, 4)?;
            ensure!(counts == BTreeMap::from([("u1".to_owned(), 2)]), "{counts:?}");
            Ok(())
        })
    });
}
