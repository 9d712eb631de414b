//! Routes attached to Services (GAMMA): whose route counts, for which port, and what happens when there is none.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use crate::mesh::{
    Checks, HTTP_PORTS as HTTP, Mesh, Port, echo, host, namespace, pod_address, route, service, sleeper,
};
use anyhow::{Result, ensure};

const TWO: &[Port] = &[Port("http", 80, 8080, "http"), Port("alt", 81, 8080, "http")];

fn parent(service: &str) -> String {
    format!("[{{group: \"\", kind: Service, namespace: a, name: {service}}}]")
}

fn parent_port(service: &str, more: &str) -> String {
    format!("[{{group: \"\", kind: Service, namespace: a, name: {service}, {more}}}]")
}

fn to(backend: &str) -> String {
    format!("rules: [{{backendRefs: [{{namespace: a, name: {backend}, port: 80}}]}}]")
}

/// An HTTPRoute of namespace `a` for a Service of the same name.
fn http(name: &str, rules: &str) -> String {
    route("HTTPRoute", "a", name, &parent(name), rules)
}

/// Services whose own endpoints are v1.
fn parents() -> String {
    let one = [
        "plain",
        "producer",
        "consumer",
        "both",
        "host",
        "merged",
        "kinds",
        "none",
        "share",
        "nobody",
        "zero",
        "zeros",
        "across",
        "headless",
        "slices",
        "first",
        "second",
        "edited",
        "broken",
        "undecodable",
        "foreign",
    ];
    let mut yaml: String = one.iter().map(|name| service("a", name, "v1", HTTP)).collect();
    for name in ["portless", "ported", "sectioned"] {
        yaml += &service("a", name, "v1", TWO);
    }
    yaml
}

fn backends() -> String {
    let mut yaml = service("a", "v1", "v1", HTTP) + &service("a", "v2", "v2", HTTP);
    yaml += &service("a", "empty", "nothing", HTTP);
    yaml += &service("b", "other", "other", HTTP);
    yaml += &service("a", "by-hand", "", HTTP);
    yaml += "apiVersion: v1\nkind: Service\nmetadata: {name: no-address, namespace: a}\nspec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {app: v2}, ports: [{name: http, port: 8080, appProtocol: http}]}\n---\n";
    yaml
}

fn routes() -> String {
    let mut yaml = http("producer", &to("v2"));
    yaml += &route("HTTPRoute", "b", "consumer", &parent("consumer"), &to("v2"));
    yaml += &http(
        "both",
        "rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: producer}]}}], backendRefs: [{name: v1, port: 80}]}]",
    );
    yaml += &route("HTTPRoute", "b", "both", &parent("both"), &to("v2"));
    yaml += &route(
        "HTTPRoute",
        "b",
        "foreign",
        &parent("foreign"),
        "rules: [{matches: [{path: {value: /only}}], backendRefs: [{namespace: a, name: v2, port: 80}]}]",
    );
    yaml += &http("foreign", &to("v2"));
    yaml += &http("portless", &to("v2"));
    yaml += &route("HTTPRoute", "a", "ported", &parent_port("ported", "port: 80"), &to("v2"));
    yaml += &route("HTTPRoute", "a", "sectioned", &parent_port("sectioned", "sectionName: alt"), &to("v2"));
    yaml += &http("host", &("hostnames: [never.example]\n  ".to_owned() + &to("v2")));
    yaml +=
        &http("none", "rules: [{matches: [{path: {value: /here}}], backendRefs: [{name: v2, port: 80}]}]");
    yaml += &http(
        "share",
        "rules: [{backendRefs: [{name: v1, port: 80, weight: 3}, {name: missing, port: 80, weight: 1}]}]",
    );
    yaml += &http("nobody", &to("empty"));
    yaml += &http(
        "zero",
        "rules: [{backendRefs: [{name: v1, port: 80, weight: 0}, {name: v2, port: 80, weight: 1}]}]",
    );
    yaml += &http("zeros", "rules: [{backendRefs: [{name: v1, port: 80, weight: 0}]}]");
    yaml += &http("across", "rules: [{backendRefs: [{namespace: b, name: other, port: 80}]}]");
    yaml += &http("headless", "rules: [{backendRefs: [{name: no-address, port: 8080}]}]");
    yaml += &http("slices", &to("by-hand"));
    yaml += &http("first", &to("second"));
    yaml += &http("second", &to("v2"));
    yaml += &http(
        "broken",
        "rules: [{matches: [{path: {type: RegularExpression, value: '/bad[0-9'}}], backendRefs: [{name: v2, port: 80}]}, {matches: [{path: {value: /good}}], backendRefs: [{name: v2, port: 80}]}]",
    );
    yaml += &http("undecodable", &to("v2"));
    yaml + &merged() + &kinds()
}

/// Three routes for one Service: they are one table.
fn merged() -> String {
    let rule = |name: &str, matches: &str, backend: &str| {
        let rules =
            format!("rules: [{{matches: [{matches}], backendRefs: [{{name: {backend}, port: 80}}]}}]");
        route("HTTPRoute", "a", name, &parent("merged"), &rules)
    };
    rule("merged-a", "{path: {value: /x}}, {path: {type: Exact, value: /tie}}", "v1")
        + &rule("merged-b", "{path: {value: /x/y}}, {path: {type: Exact, value: /tie}}", "v2")
        + &rule(
            "merged-c",
            "{path: {type: Exact, value: /x/y/z}}, {path: {value: /x}, headers: [{name: h, value: v}]}",
            "other-name",
        )
        + &service("a", "other-name", "v3", HTTP)
}

/// A GRPCRoute and an HTTPRoute for one Service port.
fn kinds() -> String {
    route("HTTPRoute", "a", "kinds-http", &parent("kinds"), &to("v2"))
        + &route(
            "GRPCRoute",
            "a",
            "kinds-grpc",
            &parent("kinds"),
            "rules: [{matches: [{method: {service: s.S}}], backendRefs: [{name: v2, port: 80}]}]",
        )
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("b", true);
    yaml +=
        &(sleeper("a", "near", "node1") + &sleeper("a", "far", "node2") + &sleeper("b", "client", "node1"));
    yaml +=
        &(echo("a", "v1", "node1", &[]) + &echo("a", "v2", "node2", &[]) + &echo("a", "v3", "node1", &[]));
    yaml += &(echo("b", "other", "node2", &[]) + &echo("a", "hand", "node1", &[]));
    yaml + &parents() + &backends() + &routes()
}

fn expect(mesh: &Mesh, pod: &str, url: &str, status: u16, name: &str) -> Result<()> {
    mesh.curl(pod, &[url])?.expect(status, name)
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    whose_route(checks);
    which_port(checks);
    which_rule(checks);
    which_backend(checks);
    changes(checks);
}

fn whose_route(checks: &mut Checks<'_>) {
    for family in ["-4", "-6"] {
        for pod in ["a/near", "a/far", "b/client"] {
            checks.check(&format!("a producer route holds for {pod} by {family}"), |m| {
                m.curl(pod, &[family, "http://producer.a/"])?.expect(200, "v2")
            });
            checks.check(&format!("a Service without routes is passed on for {pod} by {family}"), |m| {
                m.curl(pod, &[family, "http://plain.a/"])?.expect(200, "v1")
            });
        }
    }
    checks.check("a consumer route holds in its own namespace", |m| {
        expect(m, "b/client", "http://consumer.a/", 200, "v2")
    });
    checks.check("a consumer route does not hold in the Service's namespace", |m| {
        expect(m, "a/near", "http://consumer.a/", 200, "v1")
    });
    checks.check("a consumer route beats a producer route", |m| {
        let answer = m.curl("b/client", &["http://both.a/"])?;
        answer.expect(200, "v2")?;
        ensure!(answer.received("x-set")?.is_empty(), "the producer's filter ran too");
        Ok(())
    });
    checks.check("the producer route still holds for other namespaces", |m| {
        let answer = m.curl("a/near", &["http://both.a/"])?;
        answer.expect(200, "v1")?;
        ensure!(answer.received("x-set")? == ["producer"], "the producer's filter did not run");
        Ok(())
    });
    checks.check("consumer routes are a set of their own: none matching is 404, not the producer's", |m| {
        expect(m, "b/client", "http://foreign.a/elsewhere", 404, "")?;
        expect(m, "b/client", "http://foreign.a/only", 200, "v2")
    });
    checks.check("the Host header does not add a route", |m| {
        m.curl("a/near", &["-H", "Host: producer", "http://plain/"])?.expect(200, "v1")
    });
    checks.check("the Host header does not remove a route", |m| {
        m.curl("a/near", &["-H", "Host: plain", "http://producer/"])?.expect(200, "v2")
    });
    checks.check("a route's hostnames do not count", |m| expect(m, "a/near", "http://host/", 200, "v2"));
    for family in ["v4", "v6"] {
        checks.check(&format!("a pod's own {family} address is not routed"), |m| {
            let address = host(&pod_address(m, "a", "v1", family == "v6")?);
            m.curl("a/far", &["-H", "Host: producer", &format!("http://{address}:8080/")])?.expect(200, "v1")
        });
    }
}

fn which_port(checks: &mut Checks<'_>) {
    checks.check("a parentRef without port covers every port", |m| {
        expect(m, "a/near", "http://portless/", 200, "v2")?;
        expect(m, "a/near", "http://portless:81/", 200, "v2")
    });
    checks.check("a parentRef with port covers that port alone", |m| {
        expect(m, "a/near", "http://ported/", 200, "v2")?;
        expect(m, "a/near", "http://ported:81/", 200, "v1")
    });
    checks.check("a parentRef with sectionName covers the port of that name alone", |m| {
        expect(m, "a/near", "http://sectioned:81/", 200, "v2")?;
        expect(m, "a/near", "http://sectioned/", 200, "v1")
    });
}

fn which_rule(checks: &mut Checks<'_>) {
    for (path, header, name) in [
        ("/x", "o: o", "v1"),
        ("/x/y", "o: o", "v2"),
        ("/x/y/z", "o: o", "v3"),
        ("/x/q", "h: v", "v3"),
        ("/tie", "o: o", "v1"),
    ] {
        checks.check(
            &format!("routes of one Service are one table: {path} with {header} goes to {name}"),
            |m| m.curl("a/near", &["-H", header, &format!("http://merged{path}")])?.expect(200, name),
        );
    }
    checks.check("an HTTPRoute beside a GRPCRoute is refused as Conflicted", |m| {
        let told = m.condition("HTTPRoute", "a", "kinds-http", "Accepted")?;
        ensure!(told.starts_with("False"), "{told}");
        let told = m.condition("GRPCRoute", "a", "kinds-grpc", "Accepted")?;
        ensure!(told == "True Accepted", "{told}");
        Ok(())
    });
    checks.check("an HTTPRoute beside a GRPCRoute is not in force", |m| {
        expect(m, "a/near", "http://kinds/", 404, "")
    });
    checks.check("routes present and none matching is 404 that says why", |m| {
        let answer = m.curl("a/near", &["http://none/elsewhere"])?;
        answer.expect(404, "")?;
        ensure!(!m.is_weft() || answer.body.starts_with("weft: no_route_match"), "{}", answer.body);
        ensure!(
            answer.header("content-type").first().is_some_and(|t| t.starts_with("text/plain")),
            "{answer:?}"
        );
        Ok(())
    });
    checks.check("gRPC that no rule matches is UNIMPLEMENTED", |m| {
        let grpc = [
            "--http2-prior-knowledge",
            "-X",
            "POST",
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
        ];
        let answer = m.curl("a/near", &[&grpc[..], &["http://kinds/o.O/M"]].concat())?;
        ensure!(answer.status == 200 && answer.header("grpc-status") == ["12"], "{answer:?}");
        Ok(())
    });
}

fn which_backend(checks: &mut Checks<'_>) {
    checks.check("an invalid backend's share is 500, exactly by weight", |m| {
        let counts = m.many("a/near", 80, "http://share/", &[])?;
        ensure!(counts.get("200 v1") == Some(&60) && counts.get("500") == Some(&20), "{counts:?}");
        Ok(())
    });
    checks.check("the status names the invalid backend", |m| {
        let told = m.condition("HTTPRoute", "a", "share", "ResolvedRefs")?;
        ensure!(told == "False BackendNotFound", "{told}");
        Ok(())
    });
    checks.check("a backend without endpoints is 503", |m| {
        let answer = m.curl("a/near", &["http://nobody/"])?;
        answer.expect(503, "")?;
        ensure!(!m.is_weft() || answer.body.starts_with("weft: no_endpoints"), "{}", answer.body);
        Ok(())
    });
    checks.check("a backend of weight 0 gets nothing", |m| {
        let counts = m.many("a/near", 30, "http://zero/", &[])?;
        ensure!(counts.len() == 1 && counts.get("200 v2") == Some(&30), "{counts:?}");
        Ok(())
    });
    checks.check("a rule with only weight 0 is 500", |m| expect(m, "a/near", "http://zeros/", 500, ""));
    checks.check("a backend of another namespace needs no ReferenceGrant in a mesh", |m| {
        expect(m, "a/near", "http://across/", 200, "other")
    });
    checks
        .check("a headless Service can be a backend", |m| expect(m, "a/near", "http://headless/", 200, "v2"));
    checks.check("routes of a backend Service do not count: one level only", |m| {
        expect(m, "a/near", "http://first/", 200, "v1")?;
        expect(m, "a/near", "http://second/", 200, "v2")
    });
    checks.check("a backend without endpoints is 503 until an EndpointSlice is written by hand", |m| {
        expect(m, "a/near", "http://slices/", 503, "")
    });
    checks.check("the EndpointSlice is admitted", |m| {
        let address = pod_address(m, "a", "hand", false)?;
        m.apply("slice", &format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: by-hand, namespace: a, labels: {{kubernetes.io/service-name: by-hand}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: [\"{address}\"], conditions: {{ready: true}}}}]\n"))
    });
    checks.soon("a selectorless Service is reached by its EndpointSlices", |m| {
        expect(m, "a/near", "http://slices/", 200, "hand")
    });
}

fn changes(checks: &mut Checks<'_>) {
    checks.check("a Service without routes is passed on before its first route", |m| {
        expect(m, "a/near", "http://edited/", 200, "v1")?;
        m.apply("edited", &http("edited", &to("v2")))
    });
    checks.soon("a new route takes effect", |m| expect(m, "a/near", "http://edited/", 200, "v2"));
    checks.check("the route is edited", |m| m.apply("edited", &http("edited", &to("empty"))));
    checks.soon("an edited route takes effect", |m| expect(m, "a/near", "http://edited/", 503, ""));
    checks.check("the route is removed", |m| m.delete("edited"));
    checks.soon("a removed route takes no effect", |m| expect(m, "a/near", "http://edited/", 200, "v1"));
    checks.check("a rule that cannot be carried out refuses, and the others of its route hold", |m| {
        expect(m, "a/near", "http://broken/good", 200, "v2")?;
        let answer = m.curl("a/near", &["http://broken/bad1"])?;
        ensure!(answer.status >= 400, "{answer:?}");
        Ok(())
    });
    checks.check("a route arrives that does not decode", |m| {
        expect(m, "a/near", "http://undecodable/", 200, "v2")?;
        m.place().make_undecodable("HTTPRoute", "a", "undecodable")
    });
    checks.soon("a route that does not decode refuses", |m| {
        expect(m, "a/near", "http://undecodable/", 500, "")
    });
    checks.soon("its status says UnsupportedValue", |m| {
        let told = m.condition("HTTPRoute", "a", "undecodable", "Accepted")?;
        ensure!(told == "False UnsupportedValue", "{told}");
        Ok(())
    });
    checks.check("a route that does not decode disturbs no other", |m| {
        expect(m, "a/near", "http://producer/", 200, "v2")?;
        expect(m, "a/far", "http://plain/", 200, "v1")?;
        expect(m, "b/client", "http://both.a/", 200, "v2")
    });
}
