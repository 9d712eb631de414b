//! Gateways that obey the routes of the Services that they send to (`serviceRoutes: obey`), beside one that does not and
//! beside a pod's own calls.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use anyhow::{Result, ensure};

use crate::mesh::{
    Answer, Checks, HTTP_LISTENER, HTTP_PORTS, Mesh, echo, gateway, namespace, parameters, patiently, route,
    service, sleeper,
};

const FROM: &str = "a/near";
const OBEYING: &str = "obeying-weft";
const PLAIN: &str = "plain-weft";
const ON_V1: &str = "[{group: \"\", kind: Service, name: v1, port: 80}]";
const VERSION_2: [&str; 2] = ["-H", "x-version: 2"];

fn settings(value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: obeying, namespace: a}}\ndata: {{serviceRoutes: {value}}}\n---\n"
    )
}

/// Adds to the request, so that it can be counted how often the filter ran.
fn marking(name: &str) -> String {
    format!(
        "filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: {name}, value: once}}]}}}}]"
    )
}

fn own() -> String {
    let rule = |matches: &str, backend: &str| {
        format!(
            "{{matches: [{matches}], {}, backendRefs: [{{name: {backend}, port: 80}}]}}",
            marking("x-own")
        )
    };
    let [version, itself] =
        [rule("{headers: [{name: x-version, value: '2'}]}", "v2"), rule("{path: {value: /itself}}", "v1")];
    let gone = "{matches: [{path: {value: /gone}}], backendRefs: [{name: nosuch, port: 80}]}";
    route("HTTPRoute", "a", "own", ON_V1, &format!("rules: [{version}, {itself}, {gone}]"))
}

/// The objects, but for the setting.
pub fn topology() -> String {
    let parents = "[{name: obeying}, {name: plain}]";
    let front = format!("rules: [{{{}, backendRefs: [{{name: v1, port: 80}}]}}]", marking("x-front"));
    let on_v2 = ON_V1.replace("v1", "v2");
    [
        namespace("a", true),
        sleeper("a", "near", "node1"),
        echo("a", "v1", "node1", &[]),
        echo("a", "v2", "node2", &[]),
        service("a", "v1", "v1", HTTP_PORTS),
        service("a", "v2", "v2", HTTP_PORTS),
        gateway("a", "obeying", &format!("{}, {HTTP_LISTENER}", parameters("obeying"))),
        gateway("a", "plain", HTTP_LISTENER),
        route("HTTPRoute", "a", "front", parents, &front),
        own(),
        // Whoever asks the routes of a Service that a Service's route has chosen gets 500.
        route("HTTPRoute", "a", "further", &on_v2, "rules: [{backendRefs: []}]"),
    ]
    .concat()
}

fn ask(m: &Mesh, way: &str, path: &str, more: &[&str]) -> Result<Answer> {
    m.curl(FROM, &[more, &["-m", "20", &format!("http://{way}{path}")]].concat())
}

/// Which filters the application has seen, and how often.
fn marks(answer: &Answer) -> Result<[Vec<String>; 2]> {
    Ok([answer.received("x-front")?, answer.received("x-own")?])
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    if !checks.mesh().is_weft() {
        return;
    }
    checks.check("the Gateway's setting is given", |m| m.apply("settings", &settings("obey")));
    for way in [OBEYING, PLAIN] {
        checks.check(&format!("{way}: the route is in force"), |m| {
            patiently(|| ask(m, way, "/itself", &[])?.expect(200, "v1"))
        });
    }
    checks.soon("a Gateway that obeys them goes by a Service's own routes, as pods do", |m| {
        for way in [OBEYING, "v1"] {
            let answer = ask(m, way, "/", &VERSION_2)?;
            answer.expect(200, "v2")?;
            ensure!(marks(&answer)?[1] == ["once"], "{answer:?}");
        }
        Ok(())
    });
    checks.check("one that does not sends to the Service's endpoints", |m| {
        let answer = ask(m, PLAIN, "/", &VERSION_2)?;
        answer.expect(200, "v1")?;
        ensure!(marks(&answer)? == [vec!["once".to_owned()], vec![]], "{answer:?}");
        Ok(())
    });
    checks.check("each filter of both routes runs once, and what is chosen is final", |m| {
        for (path, more, name) in [("/", &VERSION_2[..], "v2"), ("/itself", &[], "v1")] {
            let answer = ask(m, OBEYING, path, more)?;
            answer.expect(200, name)?;
            ensure!(marks(&answer)?.iter().all(|mark| *mark == ["once"]), "{answer:?}");
        }
        Ok(())
    });
    checks.check("what the Service's routes do not match, or cannot send, is answered as in the mesh", |m| {
        for (path, status, reason) in [("/", 404, "no_route_match"), ("/gone", 500, "invalid_backend")] {
            for way in [OBEYING, "v1"] {
                let answer = ask(m, way, path, &[])?;
                ensure!(answer.status == status, "{way}: {answer:?}");
                ensure!(answer.body.starts_with(&format!("weft: {reason}: ")), "{way}: {answer:?}");
            }
            ask(m, PLAIN, path, &[])?.expect(200, "v1")?;
        }
        Ok(())
    });
    changes(checks);
}

fn changes(checks: &mut Checks<'_>) {
    checks.check("a Gateway whose setting is not understood serves nothing and says so", |m| {
        m.apply("settings", &settings("obay"))?;
        patiently(|| {
            let status = m.object("Gateway", "a", "obeying")?["status"].to_string();
            ensure!(status.contains("InvalidParameters") && status.contains("serviceRoutes"), "{status}");
            let answer = ask(m, OBEYING, "/itself", &[]);
            ensure!(answer.is_err() || answer.as_ref().is_ok_and(|it| it.status >= 500), "{answer:?}");
            Ok(())
        })
    });
    checks.check("the setting may change at any time", |m| {
        for (value, name) in [("ignore", "v1"), ("obey", "v2")] {
            m.apply("settings", &settings(value))?;
            patiently(|| ask(m, OBEYING, "/", &VERSION_2)?.expect(200, name))?;
        }
        Ok(())
    });
}
