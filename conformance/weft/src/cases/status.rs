//! What routes say about their parents: every state that a Service parent can be in, in the API's own reasons, one entry for
//! each parent, kept up with each edit.
#![allow(clippy::indexing_slicing, clippy::too_many_lines, reason = "tables of checks")]

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::mesh::{Checks, HTTP_PORTS as HTTP, Mesh, Port, echo, namespace, route, service, sleeper, soon};

const TWO: &[Port] = &[Port("http", 80, 8080, "http"), Port("alt", 81, 8080, "http")];
const TO_V1: &str = "rules: [{backendRefs: [{namespace: a, name: v1, port: 80}]}]";

fn http(namespace: &str, name: &str, parents: &str, rules: &str) -> String {
    route("HTTPRoute", namespace, name, parents, rules)
}

/// A route of namespace `a` with one parent, given in flow style without group and kind.
fn one(name: &str, parent: &str) -> String {
    http("a", name, &format!("[{{group: \"\", kind: Service, {parent}}}]"), TO_V1)
}

fn to(backend: &str) -> String {
    format!("rules: [{{backendRefs: [{backend}]}}]")
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("b", true) + &namespace("c", false);
    yaml +=
        &(sleeper("a", "near", "node1") + &sleeper("b", "client", "node2") + &sleeper("c", "out", "node1"));
    yaml +=
        &(echo("a", "v1", "node1", &[]) + &service("a", "v1", "v1", HTTP) + &service("a", "two", "v1", TWO));
    yaml += "apiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: a}\nspec: {clusterIP: None, selector: {app: v1}, ports: [{name: http, port: 80, targetPort: 8080}]}\n---\n";
    yaml += "apiVersion: v1\nkind: Service\nmetadata: {name: external, namespace: a}\nspec: {type: ExternalName, externalName: outside.example}\n---\n";
    yaml += "apiVersion: v1\nkind: Service\nmetadata: {name: by-hand, namespace: a}\nspec: {ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}\n---\n";
    for (name, parent) in [
        ("good", "name: two"),
        ("port", "name: two, port: 81"),
        ("section", "name: two, sectionName: alt"),
        ("agreeing", "name: two, sectionName: alt, port: 81"),
        ("no-service", "name: missing"),
        ("no-port", "name: two, port: 99"),
        ("no-section", "name: two, sectionName: missing"),
        ("disagreeing", "name: two, sectionName: alt, port: 80"),
        ("to-headless", "name: headless"),
        ("to-external", "name: external"),
        ("selectorless", "name: by-hand"),
    ] {
        yaml += &one(name, parent);
    }
    let parent = "[{group: \"\", kind: Service, name: v1}]";
    for (name, backend) in [
        ("no-backend", "{name: missing, port: 80}"),
        ("no-backend-port", "{name: v1, port: 99}"),
        ("odd-backend", "{group: example.org, kind: Bucket, name: v1}"),
    ] {
        yaml += &http("a", name, parent, &to(backend));
    }
    yaml += &http("b", "consumer", "[{group: \"\", kind: Service, namespace: a, name: v1}]", TO_V1);
    yaml += &http("c", "nobody", "[{group: \"\", kind: Service, namespace: a, name: v1}]", TO_V1);
    yaml += &http(
        "a",
        "several",
        "[{group: \"\", kind: Service, name: two, port: 80}, {group: \"\", kind: Service, name: two, port: 81}, {group: \"\", kind: Service, name: missing}]",
        TO_V1,
    );
    yaml + &http("a", "gateway", "[{name: nowhere}, {group: \"\", kind: Service, name: v1}]", TO_V1)
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    for (name, accepted) in [
        ("good", "True Accepted"),
        ("port", "True Accepted"),
        ("section", "True Accepted"),
        ("agreeing", "True Accepted"),
        ("selectorless", "True Accepted"),
        ("no-service", "False NoMatchingParent"),
        ("no-port", "False NoMatchingParent"),
        ("no-section", "False NoMatchingParent"),
        ("disagreeing", "False NoMatchingParent"),
        ("to-headless", "False NoMatchingParent"),
        ("to-external", "False NoMatchingParent"),
    ] {
        checks.soon(&format!("Accepted of {name} is {accepted}"), |m| {
            let told = m.condition("HTTPRoute", "a", name, "Accepted")?;
            ensure!(told == accepted, "{told}");
            Ok(())
        });
    }
    for (name, resolved) in [
        ("good", "True ResolvedRefs"),
        ("no-backend", "False BackendNotFound"),
        ("no-backend-port", "False BackendNotFound"),
        ("odd-backend", "False InvalidKind"),
    ] {
        checks.soon(&format!("ResolvedRefs of {name} is {resolved}, and the route is Accepted"), |m| {
            let told = m.condition("HTTPRoute", "a", name, "ResolvedRefs")?;
            ensure!(told == resolved, "{told}");
            let told = m.condition("HTTPRoute", "a", name, "Accepted")?;
            ensure!(told == "True Accepted", "{told}");
            Ok(())
        });
    }
    entries(checks);
    clients(checks);
    edits(checks);
}

/// This mesh's entries in a route's status.
fn own(mesh: &Mesh, namespace: &str, name: &str) -> Result<Vec<Value>> {
    let object = mesh.object("HTTPRoute", namespace, name)?;
    let parents = object.pointer("/status/parents").and_then(Value::as_array).cloned().unwrap_or_default();
    let is_own = |entry: &Value| entry["controllerName"] == mesh.place().controller_name();
    Ok(parents.into_iter().filter(is_own).collect())
}

fn entries(checks: &mut Checks<'_>) {
    checks.soon(
        "each parent has one entry, which names group, kind and namespace, and the port as the spec does",
        |m| {
            let refs: Vec<Value> =
                own(m, "a", "several")?.iter().map(|entry| entry["parentRef"].clone()).collect();
            let parent = |name: &str| json!({"group": "", "kind": "Service", "namespace": "a", "name": name});
            let mut wanted = [parent("two"), parent("two"), parent("missing")];
            wanted[0]["port"] = 80.into();
            wanted[1]["port"] = 81.into();
            ensure!(refs.len() == 3 && wanted.iter().all(|w| refs.contains(w)), "{refs:?}");
            Ok(())
        },
    );
    checks.check("a Gateway that does not exist gets no entry from a mesh", |m| {
        let entries = own(m, "a", "gateway")?;
        ensure!(entries.len() == 1 && entries[0]["parentRef"]["kind"] == "Service", "{entries:?}");
        Ok(())
    });
    checks.check("every condition has a reason, a message and a time, and is of this generation", |m| {
        for name in ["good", "no-service", "no-backend", "several"] {
            let generation = m.object("HTTPRoute", "a", name)?["metadata"]["generation"].clone();
            for condition in
                own(m, "a", name)?.iter().flat_map(|e| e["conditions"].as_array().into_iter().flatten())
            {
                let said = |field: &str| condition[field].as_str().is_some_and(|text| !text.is_empty());
                ensure!(
                    said("reason") && said("message") && said("lastTransitionTime"),
                    "{name}: {condition}"
                );
                ensure!(condition["observedGeneration"] == generation, "{name}: {condition} of {generation}");
            }
        }
        Ok(())
    });
}

/// The message of a route's Accepted.
fn message(mesh: &Mesh, namespace: &str, name: &str) -> Result<String> {
    let entries = own(mesh, namespace, name)?;
    let conditions = entries.first().and_then(|e| e["conditions"].as_array()).context("no entry")?;
    let accepted = conditions.iter().find(|c| c["type"] == "Accepted").context("no Accepted")?;
    Ok(accepted["message"].as_str().unwrap_or_default().to_owned())
}

fn clients(checks: &mut Checks<'_>) {
    checks.check("a consumer route is Accepted", |m| {
        let told = m.condition("HTTPRoute", "b", "consumer", "Accepted")?;
        ensure!(told == "True Accepted", "{told}");
        Ok(())
    });
    checks.own("a consumer route in whose namespace nobody is enrolled is Accepted and says so", |m| {
        let told = m.condition("HTTPRoute", "c", "nobody", "Accepted")?;
        ensure!(told == "True Accepted", "{told}");
        let (without, with) = (message(m, "c", "nobody")?, message(m, "b", "consumer")?);
        ensure!(without.contains("enrolled") && !with.contains("enrolled"), "{without} / {with}");
        Ok(())
    });
    checks.own("what does not hold says what to do", |m| {
        for (name, words) in
            [("no-port", "80 (http)"), ("to-headless", "ClusterIP"), ("no-service", "does not exist")]
        {
            let told = message(m, "a", name)?;
            ensure!(told.contains(words), "{name}: {told}");
        }
        Ok(())
    });
}

fn edits(checks: &mut Checks<'_>) {
    checks.check("a new route is Accepted", |m| {
        m.apply("edited", &one("edited", "name: v1"))?;
        soon(|| {
            let told = m.condition("HTTPRoute", "a", "edited", "Accepted")?;
            ensure!(told == "True Accepted", "{told}");
            Ok(())
        })
    });
    checks.check("an edit makes a route unfit", |m| {
        let away = "[{group: \"\", kind: Service, name: missing}]";
        m.apply("edited", &http("a", "edited", away, TO_V1))?;
        soon(|| {
            let told = m.condition("HTTPRoute", "a", "edited", "Accepted")?;
            ensure!(told == "False NoMatchingParent", "{told}");
            let entries = own(m, "a", "edited")?;
            ensure!(entries.len() == 1, "the entry of the parent that was left is still there: {entries:?}");
            Ok(())
        })
    });
    checks.check("the parent appears and the route is Accepted", |m| {
        m.apply("missing", &service("a", "missing", "v1", HTTP))?;
        for name in ["edited", "no-service"] {
            soon(|| {
                let told = m.condition("HTTPRoute", "a", name, "Accepted")?;
                ensure!(told == "True Accepted", "{told}");
                Ok(())
            })?;
        }
        soon(|| m.curl("a/near", &["http://missing/"])?.expect(200, "v1"))
    });
    checks.check("the parent goes and the route says so", |m| {
        m.delete("missing")?;
        soon(|| {
            let told = m.condition("HTTPRoute", "a", "edited", "Accepted")?;
            ensure!(told == "False NoMatchingParent", "{told}");
            Ok(())
        })
    });
    checks.check("a route without parents in this mesh keeps no entry", |m| {
        m.apply("edited", &http("a", "edited", "[{name: nowhere}]", TO_V1))?;
        soon(|| {
            let entries = own(m, "a", "edited")?;
            ensure!(entries.is_empty(), "{entries:?}");
            Ok(())
        })
    });
}
