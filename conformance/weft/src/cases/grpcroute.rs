//! GRPCRoute with the stock Python implementation of gRPC on both sides, on Services and at a Gateway.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use std::collections::BTreeMap;

use crate::mesh::{
    Checks, GATEWAYS, HTTP_LISTENER, Mesh, Port, gateway, gateway_addresses, host, namespace, patiently, pod,
    route, service, sleeper, tally,
};
use anyhow::{Context, Result, ensure};

const FROM: &str = "a/near";
const PYTHON: &str = "/usr/bin/python3";
const GRPC: &[Port] = &[Port("grpc", 7070, 7070, "kubernetes.io/h2c")];
/// A client outside the mesh.
const OUTSIDE: &str = "out/client";

fn grpc_route(name: &str, rules: &str) -> String {
    let parents = format!("[{{group: \"\", kind: Service, name: {name}}}]");
    service("a", name, "v1", GRPC) + &route("GRPCRoute", "a", name, &parents, &format!("rules: [{rules}]"))
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &sleeper("a", "near", "node1");
    for (name, node) in [("v1", "node1"), ("v2", "node2")] {
        let program = [PYTHON, "-c", include_str!("programs/grpc_server.py"), name];
        yaml += &(pod("a", name, node, name, Some(7070), &program) + &service("a", name, name, GRPC));
    }
    yaml += &service("a", "empty", "nothing", GRPC);
    let rule = |matches: &str, rest: &str| format!("{{matches: [{matches}], {rest}}},");
    let to = |name: &str| format!("backendRefs: [{{name: {name}, port: 7070}}]");
    yaml += &grpc_route(
        "matched",
        &[
            rule("{method: {service: shop.Orders, method: Get}}", &to("v1")),
            rule("{method: {service: shop.Orders}}", &to("v2")),
            rule("{method: {method: Get}}", &to("v2")),
            rule(
                "{method: {type: RegularExpression, service: 'shop\\.S[a-z]+', method: 'P[a-z]+'}}",
                &to("v1"),
            ),
            rule("{headers: [{name: x-version, value: two}]}", &to("v2")),
            rule("{headers: [{name: x-version, type: RegularExpression, value: 'o.*'}]}", &to("v1")),
        ]
        .concat(),
    );
    let filters = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: by-route}], add: [{name: x-add, value: more}], remove: [x-remove]}}]";
    yaml += &grpc_route("filtered", &format!("{{{filters}, {}}},", to("v2")));
    yaml += &grpc_route(
        "weighted",
        "{backendRefs: [{name: v1, port: 7070, weight: 3}, {name: v2, port: 7070, weight: 1}]},",
    );
    yaml += &grpc_route("invalid", &format!("{{{}}},", to("missing")));
    yaml += &grpc_route("nobody", &format!("{{{}}},", to("empty")));
    let mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 7070}}}]";
    yaml += &grpc_route("copied", &format!("{{{mirror}, {}}},", to("v2")));
    yaml += &(namespace("out", false) + &sleeper("out", "client", "node1"));
    yaml += &gateway("a", "front", HTTP_LISTENER);
    let at_gateway = [
        rule("{method: {service: shop.Orders, method: Get}}", &format!("{filters}, {}", to("v1"))),
        rule(
            "{method: {service: shop.Orders}}",
            "backendRefs: [{name: v1, port: 7070, weight: 3}, {name: v2, port: 7070, weight: 1}]",
        ),
        rule("{method: {service: shop.Stock, method: Get}}", &to("empty")),
        rule("{method: {service: shop.Stock, method: Fail}}", &to("v2")),
    ];
    yaml + &route("GRPCRoute", "a", "front", "[{name: front}]", &format!("rules: [{}]", at_gateway.concat()))
}

fn call(mesh: &Mesh, host: &str, how: &str, method: &str, count: u32, metadata: &[&str]) -> Result<String> {
    call_at(mesh, [FROM, &format!("{host}:7070")], how, method, count, metadata)
}

/// Calls from a pod to a target.
fn call_at(
    mesh: &Mesh,
    [pod, target]: [&str; 2],
    how: &str,
    method: &str,
    count: u32,
    metadata: &[&str],
) -> Result<String> {
    let count = count.to_string();
    let program = [PYTHON, "-c", include_str!("programs/grpc_client.py"), target, how, method, &count];
    mesh.run(pod, &[&program[..], metadata].concat())
}

/// Calls a method of no arguments that does not answer in time; prints the status.
fn slow(mesh: &Mesh, pod: &str, target: &str) -> Result<()> {
    let program = format!(
        "import grpc\nwith grpc.insecure_channel('{target}') as c:\n  try: c.unary_unary('/shop.Orders/Slow')(b'', timeout=0.5)\n  except grpc.RpcError as e: print(e.code().name)"
    );
    let told = mesh.run(pod, &[PYTHON, "-c", &program])?;
    ensure!(told == "DEADLINE_EXCEEDED\n", "{told}");
    Ok(())
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    check_matches(checks);
    check_calls(checks);
    check_refusals(checks);
    if checks.mesh().is_weft() {
        check_gateway(checks);
    }
}

fn check_matches(checks: &mut Checks<'_>) {
    for (claim, method, metadata, name) in [
        ("service and method", "/shop.Orders/Get", &[][..], "v1"),
        ("service alone", "/shop.Orders/Put", &[], "v2"),
        ("method alone", "/shop.Stock/Get", &[], "v2"),
        ("expressions", "/shop.Stock/Put", &[], "v1"),
    ] {
        checks.check(&format!("match by {claim}: {method} goes to {name}"), |m| {
            let told = call(m, "matched", "unary", method, 1, metadata)?;
            ensure!(told.starts_with(&format!("{name} {name} ")), "{told}");
            Ok(())
        });
    }
    for (header, name) in [("x-version=two", "v2"), ("x-version=one", "v1")] {
        checks.check(&format!("match by header: {header} goes to {name}"), |m| {
            // No rule names this service's Fail, so only the header decides; the application's own status comes back.
            let told = call(m, "matched", "unary", "/shop.Stock/Fail", 1, &[header])?;
            ensure!(told == "FAILED_PRECONDITION told by the application\n", "{told}");
            let node = if name == "v1" {
                "\"destination_workload\":\"v1\""
            } else {
                "\"destination_workload\":\"v2\""
            };
            if !m.is_weft() {
                return Ok(());
            }
            crate::mesh::soon(|| {
                let log = m.proxy_log("node1")?;
                let line = log
                    .lines()
                    .rfind(|l| l.contains("/shop.Stock/Fail") && l.contains("\"reporter\":\"source\""));
                ensure!(line.is_some_and(|l| l.contains(node)), "{line:?}");
                Ok(())
            })
        });
    }
    checks.check("a header filter reaches the application", |m| {
        let told =
            call(m, "filtered", "unary", "/shop.Orders/Get", 1, &["x-remove=me", "x-set=mine", "x-keep=k"])?;
        ensure!(
            told == "v2 v2 {\"x-add\": \"more\", \"x-keep\": \"k\", \"x-set\": \"by-route\"}\n",
            "{told}"
        );
        Ok(())
    });
}

fn check_calls(checks: &mut Checks<'_>) {
    checks.check("weights hold for calls on one connection, exactly", |m| {
        let told = tally(&call(m, "weighted", "unary", "/shop.Orders/Get", 40, &[])?);
        let wanted: BTreeMap<String, usize> = [("v1 v1 ".to_owned(), 30), ("v2 v2 ".to_owned(), 10)].into();
        ensure!(told == wanted, "{told:?}");
        Ok(())
    });
    for host in ["v1", "v2"] {
        checks.check(&format!("{host}: a server's stream arrives whole"), |m| {
            let told = call(m, host, "count", "/shop.Orders/Count", 500, &[])?;
            let wanted: Vec<String> = (0..500).map(|n| n.to_string()).collect();
            ensure!(told.trim() == wanted.join(","), "{told}");
            Ok(())
        });
        checks.check(&format!("{host}: both sides stream in turns"), |m| {
            let told = call(m, host, "both", "/shop.Orders/Both", 20, &[])?;
            let wanted: String = (0..20).map(|n| format!("{n} from {host}\n")).collect();
            ensure!(told == wanted, "{told}");
            Ok(())
        });
        checks.check(&format!("{host}: a caller's deadline is DEADLINE_EXCEEDED"), |m| {
            slow(m, FROM, &format!("{host}:7070"))
        });
    }
    checks.check("a stream through a route goes to one backend as a whole", |m| {
        let told = call(m, "weighted", "both", "/shop.Orders/Both", 20, &[])?;
        let from =
            tally(&told.lines().filter_map(|l| l.split(" from ").nth(1)).collect::<Vec<_>>().join("\n"));
        ensure!(from.len() == 1 && from.values().sum::<usize>() == 20, "{from:?}");
        Ok(())
    });
    checks.check("calls that are copied are answered by the backend", |m| {
        let told = tally(&call(m, "copied", "unary", "/shop.Orders/Get", 20, &[])?);
        ensure!(told.get("v2 v2 ") == Some(&20), "{told:?}");
        Ok(())
    });
}

fn check_refusals(checks: &mut Checks<'_>) {
    for (claim, host, method, code) in [
        ("a method that no rule matches", "matched", "/shop.Other/Fail", "UNIMPLEMENTED"),
        ("an invalid backend", "invalid", "/shop.Orders/Get", "UNAVAILABLE"),
        ("a backend without endpoints", "nobody", "/shop.Orders/Get", "UNAVAILABLE"),
    ] {
        checks.check(&format!("{claim} is {code} that says why"), |m| {
            let told = call(m, host, "unary", method, 3, &[])?;
            let begin = if m.is_weft() { format!("{code} weft: ") } else { code.to_owned() };
            ensure!(told.lines().count() == 3 && told.lines().all(|l| l.starts_with(&begin)), "{told}");
            Ok(())
        });
    }
}

/// Where the Gateway is reached, in each family.
fn targets(mesh: &Mesh) -> Result<Vec<String>> {
    let all = gateway_addresses(mesh, "a", "front")?;
    ensure!(all.len() == 2, "{all:?}");
    Ok(all.iter().map(|address| format!("{}:80", host(address))).collect())
}

fn check_gateway(checks: &mut Checks<'_>) {
    checks.check(
        "at a Gateway the route is accepted, and a client outside reaches it in both families",
        |m| {
            patiently(|| {
                for (condition, wanted) in
                    [("Accepted", "True Accepted"), ("ResolvedRefs", "True ResolvedRefs")]
                {
                    let told = m.condition_by(GATEWAYS, ["GRPCRoute", "a", "front"], condition)?;
                    ensure!(told == wanted, "{told}");
                }
                for target in targets(m)? {
                    let sent = ["x-remove=me", "x-set=mine", "x-keep=k"];
                    let told = call_at(m, [OUTSIDE, &target], "unary", "/shop.Orders/Get", 1, &sent)?;
                    let fields = told.strip_prefix("v1 v1 ").context(told.clone())?;
                    let fields: serde_json::Value = serde_json::from_str(fields)?;
                    let of = |name: &str| fields[name].as_str().unwrap_or("-").to_owned();
                    let told = ["x-add", "x-keep", "x-set", "x-remove"].map(of);
                    ensure!(told == ["more", "k", "by-route", "-"], "{target}: {fields}");
                }
                Ok(())
            })
        },
    );
    checks.check("at a Gateway weights hold for calls on one connection, exactly", |m| {
        let told = tally(&call_at(m, [OUTSIDE, &targets(m)?[0]], "unary", "/shop.Orders/Put", 40, &[])?);
        let wanted: BTreeMap<String, usize> = [("v1 v1 ".to_owned(), 30), ("v2 v2 ".to_owned(), 10)].into();
        ensure!(told == wanted, "{told:?}");
        Ok(())
    });
    checks.check("at a Gateway streams arrive whole, from one backend, and deadlines hold", |m| {
        let target = &targets(m)?[0];
        let told = call_at(m, [OUTSIDE, target], "count", "/shop.Orders/Count", 500, &[])?;
        let wanted: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        ensure!(told.trim() == wanted.join(","), "{told}");
        let told = call_at(m, [OUTSIDE, target], "both", "/shop.Orders/Both", 20, &[])?;
        let from = |name: &str| (0..20).map(|n| format!("{n} from {name}\n")).collect::<String>();
        ensure!(told == from("v1") || told == from("v2"), "{told}");
        slow(m, OUTSIDE, target)
    });
    for (claim, method, begin) in [
        ("an application's own status", "/shop.Stock/Fail", "FAILED_PRECONDITION told by the application"),
        ("what no rule matches", "/shop.Other/Get", "UNIMPLEMENTED weft: "),
        ("a backend without endpoints", "/shop.Stock/Get", "UNAVAILABLE weft: "),
    ] {
        checks.check(&format!("at a Gateway {claim} is told by gRPC's status: {begin}"), |m| {
            let told = call_at(m, [OUTSIDE, &targets(m)?[0]], "unary", method, 3, &[])?;
            ensure!(told.lines().count() == 3 && told.lines().all(|line| line.starts_with(begin)), "{told}");
            Ok(())
        });
    }
}
