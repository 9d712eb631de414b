//! Requests that an authorization server decides about (`ExternalAuth`), on a Service and at a Gateway, by one and the
//! same route, and at a Gateway's listener: allowed, denied, not judged, with bodies, with fields that only the server may
//! set; and what statuses say of it.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::mesh::{
    Answer, Checks, GATEWAYS, HTTP_LISTENER, HTTP_PORTS, Mesh, Port, echo, gateway, log_lines, namespace,
    patiently, pod, route, service, sleeper, soon, standing,
};

const FROM: &str = "a/near";
const PYTHON: &str = "/usr/bin/python3";
const RESOLVED: &str = "True ResolvedRefs";
const NOT_PERMITTED: &str = "False RefNotPermitted";
/// Lets the route and the Gateways of `a` ask servers in `auth`.
const GRANT: &str = "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: from-a, namespace: auth}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}, {group: gateway.networking.k8s.io, kind: Gateway, namespace: a}], to: [{group: '', kind: Service}]}
---
";
const PARENTS: &str = "[{name: front}, {group: \"\", kind: Service, name: guarded, port: 80}]";
/// A listener that asks before a route is chosen.
const FENCED: &str = "listeners: [{name: http, port: 80, protocol: HTTP, filters: {requests: [
  {type: ExternalAuth, externalAuth: {protocol: HTTP, http: {allowedResponseHeaders: [x-user]}, backendRef: {namespace: auth, name: auth-near, port: 80}}},
  {type: ExternalAuth, externalAuth: {protocol: GRPC, grpc: {}, backendRef: {namespace: auth, name: auth, port: 90}}}]}}]";
/// What goes by what the servers add.
const OF_ANN: &str = "rules: [{matches: [{path: {value: /user}, headers: [{name: x-user, value: ann}]}], backendRefs: [{name: guarded, port: 80}]}]";
/// The ways that lead to the route.
const WAYS: [&str; 2] = ["guarded", "front-weft"];

/// The objects, but for the grant.
pub fn topology() -> String {
    let server = [PYTHON, "-c", include_str!("programs/authorizer.py")];
    let ports = [Port("http", 80, 8080, "http"), Port("grpc", 90, 9090, ""), Port("closed", 81, 9, "")];
    [
        namespace("a", true),
        namespace("auth", true),
        sleeper("a", "near", "node1"),
        echo("a", "v1", "node2", &[]),
        service("a", "guarded", "v1", HTTP_PORTS),
        pod("auth", "auth", "node2", "auth", Some(8080), &server),
        pod("auth", "auth-near", "node1", "auth-near", Some(8080), &server),
        service("auth", "auth", "auth", &ports),
        service("auth", "auth-near", "auth-near", &ports),
        gateway("a", "front", HTTP_LISTENER),
        gateway("a", "fenced", FENCED),
        route("HTTPRoute", "a", "guarded", PARENTS, &rules()),
        route("HTTPRoute", "a", "fenced", "[{name: fenced}]", OF_ANN),
    ]
    .concat()
}

fn rules() -> String {
    let http = "http: {path: /check, allowedHeaders: [x-shown, x-user], allowedResponseHeaders: [x-user, x-role, x-seen, x-count]}";
    let filter = |server: &str, port: u16, how: &str| {
        format!(
            "{{type: ExternalAuth, externalAuth: {{backendRef: {{namespace: auth, name: {server}, port: {port}}}, {how}}}}}"
        )
    };
    let by_http = |server: &str, port| {
        filter(server, port, &format!("protocol: HTTP, {http}, forwardBody: {{maxSize: 16}}"))
    };
    let rule = |path: &str, filter: &str, more: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], filters: [{filter}, {{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: x-filtered, value: once}}]}}}}], backendRefs: [{{name: guarded, port: 80}}]{more}}},"
        )
    };
    let of_backend = format!(
        "{{matches: [{{path: {{value: /backend}}}}], backendRefs: [{{name: guarded, port: 80, filters: [{}]}}]}},",
        by_http("auth", 80)
    );
    let rules = [
        rule("/http", &by_http("auth", 80), ""),
        rule("/near", &by_http("auth-near", 80), ""),
        rule("/closed", &by_http("auth", 81), ""),
        rule("/short", &by_http("auth", 80), ", timeouts: {request: 1s}"),
        rule("/grpc", &filter("auth", 90, "protocol: GRPC, grpc: {}, forwardBody: {maxSize: 16}"), ""),
        rule("/grpc-near", &filter("auth-near", 90, "protocol: GRPC, grpc: {allowedHeaders: [x-shown]}"), ""),
        of_backend,
    ];
    format!("rules: [{}]", rules.concat())
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    if !checks.mesh().is_weft() {
        return;
    }
    check_leave(checks);
    for way in WAYS {
        checks.check(&format!("{way}: the route is in force"), |m| {
            patiently(|| ask(m, way, "/http/begin", &[])?.expect(200, "v1"))
        });
        check_allowed(checks, way);
        check_denied(checks, way);
        check_unjudged(checks, way);
        check_bodies(checks, way);
        check_grpc(checks, way);
    }
    check_listener(checks);
    check_log(checks);
    checks.check("a grant that is taken back holds no longer", |m| {
        m.delete("grant")?;
        patiently(|| without_grant(m))
    });
}

/// What the route says of its parents, on the Service and at the Gateway, and what the Gateway says of its listener.
fn resolved(mesh: &Mesh) -> Result<[String; 3]> {
    let route = |controller| mesh.condition_by(controller, ["HTTPRoute", "a", "guarded"], "ResolvedRefs");
    let fenced = mesh.object("Gateway", "a", "fenced")?;
    let listener = standing(&fenced["status"]["listeners"][0], &fenced, "ResolvedRefs")?;
    Ok([route(mesh.place().controller_name())?, route(GATEWAYS)?, listener])
}

fn without_grant(mesh: &Mesh) -> Result<()> {
    let told = resolved(mesh)?;
    ensure!(told == [RESOLVED, NOT_PERMITTED, NOT_PERMITTED], "{told:?}");
    ask(mesh, "guarded", "/http/leave", &[])?.expect(200, "v1")?;
    ask(mesh, "front-weft", "/http/leave", &[])?.expect(500, "")?;
    ask(mesh, "fenced-weft", "/user/leave", &["-H", "X-User: ann"])?.expect(500, "")
}

/// Servers in another namespace: on Services no grant is needed, at Gateways nothing passes without one.
fn check_leave(checks: &mut Checks<'_>) {
    checks.check(
        "without a grant Gateways ask no server of another namespace, let nothing pass and say so",
        |m| patiently(|| without_grant(m)),
    );
    checks.check("with a grant they do, and every status says that all is in force", |m| {
        m.apply("grant", GRANT)?;
        patiently(|| {
            let told = resolved(m)?;
            ensure!(told == [RESOLVED; 3], "{told:?}");
            for controller in [m.place().controller_name(), GATEWAYS] {
                let told = m.condition_by(controller, ["HTTPRoute", "a", "guarded"], "Accepted")?;
                ensure!(told == "True Accepted", "{controller}: {told}");
            }
            let fenced = m.object("Gateway", "a", "fenced")?;
            for condition in ["Accepted", "Programmed"] {
                let told = standing(&fenced["status"]["listeners"][0], &fenced, condition)?;
                ensure!(told == format!("True {condition}"), "{told}");
            }
            Ok(())
        })
    });
}

fn ask(m: &Mesh, way: &str, path: &str, more: &[&str]) -> Result<Answer> {
    m.curl(FROM, &[more, &[&format!("http://{way}{path}")]].concat())
}

/// What the server was asked about a request that passed.
fn seen(answer: &Answer) -> Result<Value> {
    Ok(serde_json::from_str(&answer.received("x-seen")?.concat())?)
}

fn check_allowed(checks: &mut Checks<'_>, way: &'static str) {
    for (how, path) in [("another node's", "/http"), ("its own node's", "/near"), ("a backend's", "/backend")]
    {
        checks.check(
            &format!("{way}: {how} server is asked once, and what it adds reaches the application"),
            |m| {
                let path = format!("{path}/{way}/a?b=c");
                let sent = ["-H", "Authorization: Bearer 1", "-H", "X-Shown: 1", "-H", "X-Hidden: 1"];
                let answer = ask(m, way, &path, &sent)?;
                answer.expect(200, "v1")?;
                ensure!(answer.path()? == path, "{answer:?}");
                ensure!(
                    answer.received("x-user")? == ["ann"] && answer.received("x-count")? == ["1"],
                    "{answer:?}"
                );
                let seen = seen(&answer)?;
                ensure!(seen["method"] == "GET" && seen["path"] == format!("/check{path}"), "{seen}");
                let field = |name: &str| seen["headers"][name].as_str().unwrap_or("-").to_owned();
                ensure!(field("host") == way && field("authorization") == "Bearer 1", "{seen}");
                ensure!(field("x-shown") == "1" && field("x-hidden") == "-", "{seen}");
                ensure!(field("content-length") == "0", "{seen}");
                let caller = if way == "guarded" { "ns/a/sa/default" } else { "ns/a/sa/front-weft" };
                let told = field("x-forwarded-client-cert");
                ensure!(told == format!("URI=spiffe://cluster.local/{caller}"), "{told}");
                Ok(())
            },
        );
    }
    checks.check(&format!("{way}: fields that only the server may set never come from a caller"), |m| {
        let forged = ["-H", "X-User: root", "-H", "X-Role: admin", "-H", "x-seen: {}", "-H", "X-COUNT: 9"];
        let answer = ask(m, way, &format!("/http/{way}/forged"), &forged)?;
        answer.expect(200, "v1")?;
        ensure!(answer.received("x-user")? == ["ann"] && answer.received("x-role")?.is_empty(), "{answer:?}");
        ensure!(answer.received("x-count")? == ["1"], "{answer:?}");
        ensure!(seen(&answer)?["headers"]["x-user"] == "root", "the server is shown what the caller said");
        ensure!(answer.header("x-filtered") == ["once"], "{answer:?}");
        Ok(())
    });
}

fn check_denied(checks: &mut Checks<'_>, way: &'static str) {
    checks.check(&format!("{way}: a caller that is denied is told so by the server itself"), |m| {
        let answer = ask(m, way, &format!("/http/{way}/deny"), &[])?;
        ensure!(answer.status == 401 && answer.body == "who are you?\n", "{answer:?}");
        ensure!(answer.header("www-authenticate") == ["Basic realm=\"x\""], "{answer:?}");
        ensure!(answer.header("x-count") == ["1"] && answer.header("x-filtered") == ["once"], "{answer:?}");
        let answer = ask(m, way, &format!("/http/{way}/deny/head"), &["--head"])?;
        ensure!(answer.status == 401 && answer.body.is_empty(), "{answer:?}");
        Ok(())
    });
    checks.check(&format!("{way}: a caller is sent to where it can log in"), |m| {
        let answer = ask(m, way, &format!("/http/{way}/login"), &[])?;
        ensure!(answer.status == 302 && answer.header("location") == ["https://id.example/"], "{answer:?}");
        ensure!(answer.header("set-cookie") == ["state=1"], "{answer:?}");
        Ok(())
    });
}

fn check_unjudged(checks: &mut Checks<'_>, way: &'static str) {
    for (what, path, status, reason) in [
        ("cannot be reached", "/closed", 503, "auth_failed"),
        ("breaks off", "/http/broken", 503, "auth_failed"),
        ("fails", "/http/failed", 503, "auth_failed"),
        ("does not answer", "/http/silent", 503, "auth_failed"),
        ("does not answer within the rule's limit", "/short/silent", 504, "request_timeout"),
    ] {
        checks.check(&format!("{way}: nothing passes when the server {what}"), |m| {
            let answer = ask(m, way, path, &["-m", "60"])?;
            ensure!(answer.status == status, "{answer:?}");
            ensure!(answer.body.starts_with(&format!("weft: {reason}: ")), "{answer:?}");
            Ok(())
        });
    }
}

fn check_bodies(checks: &mut Checks<'_>, way: &'static str) {
    for (how, more) in [("with a length", &[][..]), ("chunked", &["-H", "Transfer-Encoding: chunked"])] {
        checks.check(
            &format!("{way}: a body {how} is shown to the server and reaches the application"),
            |m| {
                let path = format!("/http/{way}/{}", how.replace(' ', "-"));
                let answer = ask(m, way, &path, &[&["-d", "sixteen bytes !!"], more].concat())?;
                answer.expect(200, "v1")?;
                let seen = seen(&answer)?;
                ensure!(
                    seen["body"] == "sixteen bytes !!" && seen["headers"]["content-length"] == "16",
                    "{seen}"
                );
                ensure!(seen["method"] == "POST", "{seen}");
                ensure!(answer.echoed()?["body"] == "sixteen bytes !!", "{answer:?}");
                Ok(())
            },
        );
        checks.check(&format!("{way}: a longer body {how} is refused, not shown in part"), |m| {
            let path = format!("/http/{way}/longer");
            let answer = ask(m, way, &path, &[&["-d", "seventeen bytes !"], more].concat())?;
            ensure!(answer.status == 413 && answer.body.starts_with("weft: body_too_large: "), "{answer:?}");
            Ok(())
        });
    }
}

fn check_grpc(checks: &mut Checks<'_>, way: &'static str) {
    checks.check(&format!("{way}: a gRPC server is asked once, and its changes are made"), |m| {
        let path = format!("/grpc/{way}/a?b=c");
        let sent =
            ["-d", "hello", "-H", "X-User: root", "-H", "X-Role: admin", "-H", "X-Forwarded-Client-Cert: x"];
        let answer = ask(m, way, &path, &sent)?;
        answer.expect(200, "v1")?;
        ensure!(answer.received("x-user")? == ["ann"] && answer.received("x-count")? == ["1"], "{answer:?}");
        ensure!(answer.received("x-role")?.is_empty() && answer.received("host")? != ["evil"], "{answer:?}");
        ensure!(answer.header("x-added") == ["to-the-answer"], "{answer:?}");
        ensure!(answer.header("x-filtered") == ["once"], "{answer:?}");
        let seen = seen(&answer)?;
        ensure!(seen["by"] == "grpc" && seen["method"] == "POST" && seen["path"] == path, "{seen}");
        ensure!(seen["body"] == "hello" && seen["headers"]["x-role"] == "admin", "{seen}");
        ensure!(seen["headers"]["x-forwarded-client-cert"].is_null(), "{seen}");
        let caller = if way == "guarded" { "spiffe://cluster.local/ns/a/sa/default" } else { "" };
        ensure!(seen["principal"] == caller, "{seen}");
        Ok(())
    });
    checks.check(&format!("{way}: a gRPC server is shown the fields that are listed"), |m| {
        let sent = ["-H", "X-Shown: 1", "-H", "X-Hidden: 1"];
        let answer = ask(m, way, &format!("/grpc-near/{way}"), &sent)?;
        answer.expect(200, "v1")?;
        ensure!(seen(&answer)?["headers"] == serde_json::json!({"x-shown": "1"}), "{answer:?}");
        Ok(())
    });
    for (path, status, body) in [
        ("deny", 401, "who are you?\n"),
        ("plain-no", 403, ""),
        ("broken", 503, "weft: auth_failed: "),
        ("silent", 503, "weft: auth_failed: "),
    ] {
        checks.check(&format!("{way}: nothing passes that a gRPC server does not let pass: {path}"), |m| {
            let answer = ask(m, way, &format!("/grpc/{way}/{path}"), &["-m", "60"])?;
            ensure!(answer.status == status && answer.body.starts_with(body), "{answer:?}");
            Ok(())
        });
    }
}

fn check_listener(checks: &mut Checks<'_>) {
    checks.check("a listener asks before it chooses the route, which goes by what the servers say", |m| {
        patiently(|| {
            let answer = ask(m, "fenced-weft", "/user/begin", &["-H", "X-User: root"])?;
            answer.expect(200, "v1")?;
            ensure!(answer.received("x-user")? == ["ann"], "{answer:?}");
            Ok(())
        })
    });
    checks.check("each of a listener's servers is asked once, in their order", |m| {
        let answer = ask(m, "fenced-weft", "/user/once", &["-H", "X-User: root"])?;
        answer.expect(200, "v1")?;
        ensure!(answer.received("x-count")? == ["1"], "{answer:?}");
        let seen = seen(&answer)?;
        ensure!(seen["by"] == "grpc" && seen["headers"]["x-user"] == "ann", "{seen}");
        ensure!(answer.header("x-added") == ["to-the-answer"], "{answer:?}");
        Ok(())
    });
    for (path, status, body) in
        [("/deny", 401, "who are you?\n"), ("/nowhere", 404, "weft: no_route_match: ")]
    {
        checks.check(&format!("a listener asks about what no route matches too: {path}"), |m| {
            let answer = ask(m, "fenced-weft", path, &["-H", "X-User: ann"])?;
            ensure!(answer.status == status && answer.body.starts_with(body), "{answer:?}");
            Ok(())
        });
    }
}

fn check_log(checks: &mut Checks<'_>) {
    checks.check("the access log says why, and which server", |m| {
        soon(|| {
            let lines = log_lines(&m.proxy_log("node1")?);
            let about = |path: &str| {
                lines
                    .iter()
                    .rfind(|line| line["path"] == path && line["reporter"] == "source")
                    .cloned()
                    .unwrap_or_default()
            };
            let closed = about("/closed");
            ensure!(closed["reason"] == "auth_failed" && closed["code"] == 503, "{closed}");
            let message = closed["message"].as_str().unwrap_or_default();
            ensure!(message.starts_with("authorization server auth/auth:81: "), "{closed}");
            let denied = about("/http/guarded/deny");
            ensure!(denied["reason"] == "auth_denied" && denied["code"] == 401, "{denied}");
            ensure!(denied["rule"] == "0" && denied["attempts"] == 0, "{denied}");
            ensure!(about("/http/guarded/longer")["reason"] == "body_too_large");
            Ok(())
        })
    });
}
