//! Bad input as users make it: each leaves a condition that says what to do, and harms nobody else.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::mesh::{
    Checks, HTTP_PORTS as HTTP, Mesh, echo, http_route, namespace, patiently, route, rule, service, sleeper,
};

/// The routes of one Service that are there at once.
const MANY: usize = 1000;
/// About the size of the large route, in bytes; etcd takes a little more.
const LARGE: usize = 1000 * 1000;
const DEFINITION: &str = "customresourcedefinition/httproutes.gateway.networking.k8s.io";
const RELEASE: &str = "gateway.networking.k8s.io/bundle-version";

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("b", true);
    yaml += &sleeper("a", "near", "node1");
    for (name, node) in [("v1", "node1"), ("v2", "node2")] {
        yaml += &(echo("a", name, node, &[]) + &service("a", name, name, HTTP));
    }
    yaml += &service("b", "other", "other", HTTP);
    yaml + &http_route("good", &rule("{path: {value: /}}", "v2"))
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    if !checks.mesh().is_weft() {
        return;
    }
    labels(checks);
    references(checks);
    sizes(checks);
    checks.check("definitions of an older release are told of at the GatewayClass", older_definitions);
    checks.check("none of it has harmed a good route", good_is_served);
}

fn good_is_served(mesh: &Mesh) -> Result<()> {
    mesh.curl("a/near", &["http://good/"])?.expect(200, "v2")
}

/// A condition of an object: status, reason and message.
fn told(object: &Value, path: &str, kind: &str) -> Result<(String, String)> {
    let all = object.pointer(path).and_then(Value::as_array).context("no conditions")?;
    let one = all.iter().find(|one| one["type"] == kind).with_context(|| format!("no {kind} in {all:?}"))?;
    let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Ok((format!("{} {}", text("status"), text("reason")), text("message")))
}

/// Waits until an object's condition is this, and its message has these words.
fn says(mesh: &Mesh, what: [&str; 3], path: &str, kind: &str, wanted: (&str, &str)) -> Result<()> {
    patiently(|| {
        let object = mesh.object(what[0], what[1], what[2])?;
        let (state, message) = told(&object, path, kind)?;
        ensure!(state == wanted.0 && message.contains(wanted.1), "{kind} is {state}: {message}");
        Ok(())
    })
}

fn labels(checks: &mut Checks<'_>) {
    for (label, words) in [
        ("weft-mesh.dev/mesh: enable", "write enabled or disabled"),
        ("weft-mesh.dev/mtls: permisive", "write strict or permissive"),
        ("weft-mesh.dev/mehs: enabled", "means nothing here"),
    ] {
        checks.check(
            &format!("a namespace with the label {label} is told that it is not in the mesh, and why"),
            |m| {
                let object = format!(
                    "apiVersion: v1\nkind: Namespace\nmetadata: {{name: typo, labels: {{{label}}}}}\n"
                );
                m.apply("typo", &object)?;
                let typo = ["namespace", "typo", "typo"];
                says(m, typo, "/status/conditions", "weft-mesh.dev/Enrolled", ("False InvalidLabel", words))
            },
        );
    }
    checks.check("once the label is right nothing of that is left", |m| {
        m.apply("typo", &namespace("typo", false))?;
        patiently(|| {
            let object = m.object("namespace", "typo", "typo")?;
            ensure!(!object["status"].to_string().contains("weft-mesh.dev"), "{object}");
            Ok(())
        })
    });
}

/// An HTTPRoute of namespace `a` with one parent and one backend, in flow style.
fn one(name: &str, parent: &str, backend: &str) -> String {
    route(
        "HTTPRoute",
        "a",
        name,
        &format!("[{{{parent}}}]"),
        &format!("rules: [{{backendRefs: [{{{backend}}}]}}]"),
    )
}

/// A route with one mistake.
struct Mistake {
    what: &'static str,
    /// Of the route.
    name: &'static str,
    /// In flow style, like the backend.
    parent: &'static str,
    backend: &'static str,
    /// The condition that tells, its status and reason, and words of its message.
    told: (&'static str, &'static str, &'static str),
}

const AT_V1: &str = "group: \"\", kind: Service, name: v1, port: 80";
const TO_V1: &str = "name: v1, port: 80";
const MISTAKES: [Mistake; 6] = [
    Mistake {
        what: "a parent that does not exist",
        name: "no-parent",
        parent: "group: \"\", kind: Service, name: nowhere",
        backend: TO_V1,
        told: ("Accepted", "False NoMatchingParent", "does not exist"),
    },
    Mistake {
        what: "a port that the parent does not have",
        name: "no-port",
        parent: "group: \"\", kind: Service, name: v1, port: 99",
        backend: TO_V1,
        told: ("Accepted", "False NoMatchingParent", "80 (http)"),
    },
    Mistake {
        what: "a backend that does not exist",
        name: "no-backend",
        parent: AT_V1,
        backend: "name: nowhere, port: 80",
        told: ("ResolvedRefs", "False BackendNotFound", "nowhere"),
    },
    Mistake {
        what: "a port that the backend does not have",
        name: "no-backend-port",
        parent: AT_V1,
        backend: "name: v2, port: 99",
        told: ("ResolvedRefs", "False BackendNotFound", "99"),
    },
    Mistake {
        what: "a listener that the Gateway does not have",
        name: "no-listener",
        parent: "name: front, sectionName: nowhere",
        backend: TO_V1,
        told: ("Accepted", "False NoMatchingParent", "nowhere"),
    },
    Mistake {
        what: "a backend in another namespace, at a Gateway, without a ReferenceGrant",
        name: "no-grant",
        parent: "name: front",
        backend: "namespace: b, name: other, port: 80",
        told: ("ResolvedRefs", "False RefNotPermitted", "ReferenceGrant"),
    },
];

fn references(checks: &mut Checks<'_>) {
    checks.check("a Gateway for them is there", |m| {
        let front = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: front, namespace: a}\nspec: {gatewayClassName: weft, listeners: [{name: http, port: 80, protocol: HTTP}]}\n";
        m.apply("front", front)
    });
    for Mistake { what, name, parent, backend, told } in MISTAKES {
        checks.check(&format!("{what} is named in the route's status"), |m| {
            m.apply(name, &one(name, parent, backend))?;
            let (kind, state, words) = told;
            let route = ["HTTPRoute", "a", name];
            says(m, route, "/status/parents/0/conditions", kind, (state, words))?;
            // Two at one Service are one table: the next is to find it as this one did.
            m.delete(name)
        });
    }
}

/// A route with as much in its header matches as the API server takes.
fn large() -> Value {
    let header = |n: usize| json!({"name": format!("x-{n}"), "value": "x".repeat(4000)});
    let matches = |rule: usize| {
        let headers: Vec<Value> = (0..16).map(header).collect();
        json!([{"path": {"type": "PathPrefix", "value": format!("/{rule}")}, "headers": headers}])
    };
    let rules = LARGE / (16 * 4000);
    let mut all: Vec<Value> = (0..rules)
        .map(|n| json!({"matches": matches(n), "backendRefs": [{"name": "v1", "port": 80}]}))
        .collect();
    all.push(json!({"backendRefs": [{"name": "v2", "port": 80}]}));
    route_object("large", "large", &all)
}

fn route_object(name: &str, parent: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "a"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": parent}], "rules": rules},
    })
}

/// Many routes for one Service, each for a path of its own, as one list.
pub(crate) fn many_routes(parent: &str, count: usize, backend: &str) -> Value {
    let item = |n: usize| {
        let rule = json!({
            "matches": [{"path": {"type": "Exact", "value": format!("/many/{n}")}}],
            "backendRefs": [{"name": backend, "port": 80}],
        });
        route_object(&format!("many-{n}"), parent, &[rule])
    };
    json!({"apiVersion": "v1", "kind": "List", "items": (0..count).map(item).collect::<Vec<_>>()})
}

fn sizes(checks: &mut Checks<'_>) {
    checks.check("a route of nearly 1 MiB is accepted, said to be, and obeyed", |m| {
        m.apply("large-service", &service("a", "large", "v1", HTTP))?;
        let route = large().to_string();
        ensure!(route.len() > 900_000, "only {} bytes", route.len());
        m.kubectl(&["create", "--filename=-"], &route)?;
        says(
            m,
            ["HTTPRoute", "a", "large"],
            "/status/parents/0/conditions",
            "Accepted",
            ("True Accepted", ""),
        )?;
        patiently(|| m.curl("a/near", &["http://large/3"])?.expect(200, "v2"))?;
        m.kubectl(&["delete", "httproute", "large", "--namespace=a"], "").map(drop)
    });
    checks.check(&format!("{MANY} routes of one Service are all accepted, and obeyed"), |m| {
        m.apply("many-service", &service("a", "many", "v1", HTTP))?;
        m.kubectl(&["create", "--filename=-"], &many_routes("many", MANY, "v2").to_string())?;
        patiently(|| {
            let last = format!("http://many/many/{}", MANY - 1);
            m.curl("a/near", &[&last])?.expect(200, "v2")
        })?;
        patiently(|| {
            let path = "--output=jsonpath={range .items[*]}{.status.parents[0].conditions[?(@.type==\"Accepted\")].status}{\"\\n\"}{end}";
            let all = m.kubectl(&["get", "httproutes", "--namespace=a", path], "")?;
            let accepted = all.lines().filter(|line| *line == "True").count();
            // And the good one.
            ensure!(accepted == MANY + 1, "{accepted} are accepted");
            Ok(())
        })?;
        m.curl("a/near", &["http://many/elsewhere"])?.expect(404, "")?;
        good_is_served(m)
    });
}

/// The definition says that it is of another release, as one would that somebody's installer put back.
fn older_definitions(mesh: &Mesh) -> Result<()> {
    let path = format!("--output=jsonpath={{.metadata.annotations.{}}}", RELEASE.replace('.', "\\."));
    let release = mesh.kubectl(&["get", DEFINITION, &path], "")?;
    let annotate = |release: &str| {
        mesh.kubectl(&["annotate", "--overwrite", DEFINITION, &format!("{RELEASE}={release}")], "").map(drop)
    };
    let class = ["gatewayclasses.gateway.networking.k8s.io", "default", "weft"];
    let conditions = "/status/conditions";
    annotate("v1.5.0")?;
    let older = says(mesh, class, conditions, "SupportedVersion", ("False UnsupportedVersion", "v1.5.0"));
    annotate(&release)?;
    older?;
    says(mesh, class, conditions, "SupportedVersion", ("True SupportedVersion", ""))
}
