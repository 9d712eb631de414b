//! What is counted and logged after known requests: exactly these, with the right labels, at both ends.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_conformance::mesh::{
    Checks, HTTP_PORTS, Mesh, Port, echo, http_route, namespace, pod, service, sleeper, soon,
};

const FROM: &str = "a/near";
const IDENTITY: &str = "spiffe://cluster.local/ns/a/sa/default";

fn topology() -> String {
    let mut yaml = namespace("a", true) + &sleeper("a", "near", "node1");
    for (name, node) in [("v1", "node1"), ("v2", "node2")] {
        yaml += &(echo("a", name, node, &[]) + &service("a", name, name, HTTP_PORTS));
    }
    yaml += &pod(
        "a",
        "bytes",
        "node2",
        "bytes",
        Some(9000),
        &["socat", "TCP6-LISTEN:9000,fork,reuseaddr,ipv6only=0", "SYSTEM:read line; echo 12345678"],
    );
    yaml += &service("a", "bytes", "bytes", &[Port("bytes", 90, 9000, "")]);
    yaml += &service("a", "plain", "v2", HTTP_PORTS);
    yaml + &http_route(
        "routed",
        "{name: there, matches: [{path: {value: /v2}}], backendRefs: [{name: v2, port: 80}]},
         {matches: [{path: {value: /v1}}], backendRefs: [{name: v1, port: 80}]},
         {name: broken, matches: [{path: {value: /broken}}], backendRefs: [{name: missing, port: 80}]}",
    )
}

#[test]
fn telemetry() {
    let mesh = weft_conformance::place::up(&topology());
    let mut checks = Checks::new(&mesh);
    checks.check("the requests are answered as they should be", make_requests);
    check_counters(&mut checks);
    check_log(&mut checks);
    check_admin(&mut checks);
    checks.finish();
}

fn make_requests(mesh: &Mesh) -> Result<()> {
    for (count, url, wanted) in [
        (7, "http://routed/v2", "200 v2"),
        (5, "http://routed/v1", "200 v1"),
        (4, "http://plain/", "200 v2"),
        (3, "http://routed/nothing", "404"),
        (2, "http://routed/broken", "500"),
    ] {
        let counts = mesh.many(FROM, count, url, &[])?;
        ensure!(counts.get(wanted) == Some(&count), "{url}: {counts:?}");
    }
    for _ in 0..3 {
        let told = mesh.shell(FROM, "echo hello | timeout 5 socat -t3 - TCP:bytes:90")?;
        ensure!(told == "12345678\n", "{told}");
    }
    mesh.curl(FROM, &["--data-binary", "0123456789", "http://routed/v2/post?logged"])?.expect(200, "v2")
}

/// The series of a metric that have a value, as labels and value.
fn series(mesh: &Mesh, node: &str, metric: &str) -> Result<Vec<(BTreeMap<String, String>, f64)>> {
    let text = mesh.admin(node, "metrics")?;
    let of = text.lines().filter_map(|l| l.strip_prefix(metric)?.strip_prefix('{')?.rsplit_once("} "));
    let labels = |text: &str| {
        let pairs = text.split("\",").filter_map(|pair| pair.split_once("=\""));
        pairs.map(|(k, v)| (k.to_owned(), v.trim_end_matches('"').to_owned())).collect()
    };
    of.map(|(text, value)| Ok((labels(text), value.parse()?))).collect()
}

/// Exactly one series of the metric has all these labels, and this value.
fn expect_one(mesh: &Mesh, node: &str, metric: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
    soon(|| {
        let all = series(mesh, node, metric)?;
        let has =
            |l: &BTreeMap<String, String>| labels.iter().all(|(k, v)| l.get(*k).is_some_and(|x| x == v));
        let found: Vec<_> = all.iter().filter(|(l, _)| has(l)).collect();
        ensure!(found.len() == 1, "{} series have {labels:?}: {found:#?} of {all:#?}", found.len());
        ensure!(found[0].1 == value, "{} instead of {value}: {found:?}", found[0].1);
        Ok(())
    })
}

fn check_counters(checks: &mut Checks<'_>) {
    let caller = [
        ("reporter", "source"),
        ("source_namespace", "a"),
        ("source_workload", "near"),
        ("destination_service", "a/routed"),
        ("destination_port", "80"),
        ("protocol", "http1"),
    ];
    let routed = [&caller[..], &[("route", "HTTPRoute/a/routed")]].concat();
    for (claim, labels, value) in [
        (
            "requests by a named rule to the other node",
            &[
                ("rule", "there"),
                ("backend", "a/v2:80"),
                ("destination_namespace", "a"),
                ("destination_workload", "v2"),
                ("security", "mtls"),
                ("code", "200"),
                ("reason", "ok"),
            ][..],
            8.0,
        ),
        (
            "requests by an unnamed rule on the same node",
            &[
                ("rule", "1"),
                ("backend", "a/v1:80"),
                ("destination_workload", "v1"),
                ("security", "same_node"),
                ("code", "200"),
                ("reason", "ok"),
            ],
            5.0,
        ),
        (
            "requests to an invalid backend",
            &[("rule", "broken"), ("security", "none"), ("code", "500"), ("reason", "invalid_backend")],
            2.0,
        ),
    ] {
        let labels = [&routed[..], labels].concat();
        checks.check(&format!("the caller's proxy counts {value} {claim}"), |m| {
            expect_one(m, "node1", "weft_requests_total", &labels, value)
        });
    }
    checks.check("the caller's proxy counts 3 requests that no rule matched, without a rule", |m| {
        let labels = [&caller[..], &[("code", "404"), ("reason", "no_route_match"), ("rule", "")]].concat();
        expect_one(m, "node1", "weft_requests_total", &labels, 3.0)
    });
    checks.check("the caller's proxy counts 4 requests to a Service without routes", |m| {
        let labels = [
            ("reporter", "source"),
            ("destination_service", "a/plain"),
            ("route", ""),
            ("code", "200"),
            ("destination_workload", "v2"),
        ];
        expect_one(m, "node1", "weft_requests_total", &labels, 4.0)
    });
    let callee = [
        ("reporter", "destination"),
        ("source_namespace", "a"),
        ("source_workload", "near"),
        ("code", "200"),
        ("reason", "ok"),
    ];
    checks.check("the callee's proxy counts what came over its tunnel, by the caller's word", |m| {
        for (service, value) in [("a/routed", 8.0), ("a/plain", 4.0)] {
            let more =
                [("destination_workload", "v2"), ("destination_service", service), ("security", "mtls")];
            expect_one(m, "node2", "weft_requests_total", &[&callee[..], &more].concat(), value)?;
        }
        Ok(())
    });
    checks.check("the callee's side on the caller's node counts its own", |m| {
        let more = [("destination_workload", "v1"), ("security", "same_node")];
        expect_one(m, "node1", "weft_requests_total", &[&callee[..], &more].concat(), 5.0)
    });
    checks.check("the callee's proxy counts no request twice and none of others", |m| {
        let total: f64 = series(m, "node2", "weft_requests_total")?.iter().map(|(_, v)| v).sum();
        ensure!(total == 12.0, "{total} requests");
        let total: f64 = series(m, "node1", "weft_requests_total")?.iter().map(|(_, v)| v).sum();
        ensure!(total == 8.0 + 5.0 + 5.0 + 2.0 + 3.0 + 4.0, "{total} requests");
        Ok(())
    });
    for (node, reporter) in [("node1", "source"), ("node2", "destination")] {
        checks.check(&format!("byte streams are counted as connections by the {reporter}"), |m| {
            let labels = [
                ("reporter", reporter),
                ("source_workload", "near"),
                ("destination_workload", "bytes"),
                ("protocol", "tcp"),
                ("reason", "ok"),
            ];
            expect_one(m, node, "weft_connections_total", &labels, 3.0)?;
            let labels = &labels[..4];
            expect_one(m, node, "weft_request_bytes_total", labels, 18.0)?;
            expect_one(m, node, "weft_response_bytes_total", labels, 27.0)
        });
    }
    checks.check("the request's bytes are counted", |m| {
        let labels = [("reporter", "source"), ("rule", "there")];
        expect_one(m, "node1", "weft_request_bytes_total", &labels, 10.0)
    });
    checks.check("every request is in one bucket of its duration", |m| {
        let labels = [("reporter", "source"), ("rule", "there")];
        expect_one(m, "node1", "weft_request_duration_seconds_count", &labels, 8.0)
    });
}

fn check_log(checks: &mut Checks<'_>) {
    let line = |m: &Mesh, node: &str, what: &str| -> Result<Value> {
        let mut found = Value::Null;
        soon(|| {
            let text = m.proxy_log(node)?;
            let log = weft_conformance::log_lines(&text);
            let lines: Vec<&Value> = log.iter().filter(|l| l["path"] == what).collect();
            ensure!(lines.len() == 1, "{} lines for {what}", lines.len());
            found = lines[0].clone();
            Ok(())
        })?;
        Ok(found)
    };
    let expect = |line: &Value, fields: Value| -> Result<()> {
        for (key, value) in fields.as_object().context("fields")? {
            ensure!(&line[key] == value, "{key} is {} instead of {value}: {line}", line[key]);
        }
        Ok(())
    };
    checks.check("the caller's access log tells the whole of a request", |m| {
        let line = line(m, "node1", "/v2/post?logged")?;
        let response = line["response_bytes"].as_u64().unwrap_or_default();
        ensure!(response > 200, "{line}");
        ensure!(line["source"].as_str().is_some_and(|s| !s.ends_with(":0")), "{line}");
        ensure!(line["destination"].as_str().is_some_and(|s| s.ends_with(":8080")), "{line}");
        ensure!(line["duration_ms"].as_f64().is_some_and(|d| d > 0.0 && d < 5000.0), "{line}");
        ensure!(line["time"].as_str().is_some_and(|t| t.ends_with('Z')), "{line}");
        expect(
            &line,
            serde_json::json!({
                "reporter": "source", "source_pod": "a/near", "source_workload": "near", "source_identity": IDENTITY,
                "destination_pod": "a/v2", "destination_workload": "v2", "destination_identity": IDENTITY,
                "service": "a/routed", "port": 80, "route": "HTTPRoute/a/routed", "rule": "there", "backend": "a/v2:80",
                "security": "mtls", "protocol": "http1", "method": "POST", "authority": "routed", "code": 200,
                "reason": "ok", "attempts": 1, "request_bytes": 10,
            }),
        )
    });
    checks.check("the callee's access log tells the same request", |m| {
        let line = line(m, "node2", "/v2/post?logged")?;
        expect(
            &line,
            serde_json::json!({
                "reporter": "destination", "source_pod": "a/near", "source_identity": IDENTITY, "destination_pod": "a/v2",
                "security": "mtls", "method": "POST", "authority": "routed", "code": 200, "reason": "ok", "request_bytes": 10,
                "service": "a/routed", "route": "HTTPRoute/a/routed/there",
            }),
        )
    });
    checks.check("a refusal's line says why", |m| {
        let line = line(m, "node1", "/nothing?n=1")?;
        expect(&line, serde_json::json!({"code": 404, "reason": "no_route_match", "attempts": 0, "service": "a/routed", "security": "none"}))
    });
}

fn check_admin(checks: &mut Checks<'_>) {
    checks.check("/config shows the route in force", |m| {
        let text = m.admin("node1", "config?Route/HTTPRoute/a/routed")?;
        let config: Value = serde_json::from_str(&text)?;
        let resources = config["resources"].as_array().context(text.clone())?;
        ensure!(resources.len() == 1, "{text}");
        ensure!(resources[0]["name"] == "Route/HTTPRoute/a/routed", "{text}");
        ensure!(text.contains("\"there\"") && text.contains("a/v2"), "{text}");
        Ok(())
    });
    checks.check("/config rejects nothing", |m| {
        let config: Value = serde_json::from_str(&m.admin("node2", "config")?)?;
        ensure!(config["rejected"].as_array().is_none_or(Vec::is_empty), "{}", config["rejected"]);
        Ok(())
    });
    checks.check("/certificates shows the pods' identity, and no key", |m| {
        let text = m.admin("node1", "certificates")?;
        ensure!(text.contains(IDENTITY) && !text.to_ascii_lowercase().contains("private"), "{text}");
        Ok(())
    });
    checks.check("/healthz answers", |m| m.admin("node1", "healthz").map(drop));
    // An agent that has just begun gives proxies two seconds to find it before it tells one of all pods.
    checks.soon("/readyz answers", |m| m.admin("node1", "readyz").map(drop));
}
