//! What routes and policies say about several endpoints of one backend, seen by curl from pods of both nodes and through a
//! Gateway: sessions that any proxy can make and read, budgets of retries, and what policies' statuses say.
#![allow(clippy::indexing_slicing, reason = "tables of checks")]

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use crate::mesh::{
    Answer, Checks, GATEWAYS, HTTP_LISTENER, HTTP_PORTS, Mesh, ancestors, echo, gateway, gateway_addresses,
    host, log_lines, namespace, patiently, service, sleeper, soon,
};

const KIND: &str = "XBackendTrafficPolicy";
/// Requests that would hardly all reach one of several endpoints by chance.
const MANY: usize = 20;
/// Retries that a policy allows each proxy for an hour.
const RETRIES: usize = 2;

/// Policies of two further Services with the same endpoints.
const POLICIES: &str = "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: flaky, namespace: a}
spec:
  targetRefs: [{group: '', kind: Service, name: flaky}]
  retryConstraint: {budget: {percent: 0, interval: 10s}, minRetryRate: {count: 2, interval: 1h}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: sticky, namespace: a}
spec:
  targetRefs: [{group: '', kind: Service, name: sticky}]
  sessionPersistence: {type: Header, header: {name: X-Sticky}}
---
";
/// Policies that come too late: for a Service that has one, and for one that there is not.
const LATE: &str = "apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: later, namespace: a}
spec:
  targetRefs: [{group: '', kind: Service, name: flaky}]
  retryConstraint: {budget: {percent: 100, interval: 10s}, minRetryRate: {count: 100, interval: 1s}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: lost, namespace: a}
spec:
  targetRefs: [{group: '', kind: Service, name: nosuch}]
  sessionPersistence: {cookie: {name: lost}}
---
";
/// One route on a Service and at the Gateway.
const ROUTED: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: a}
spec:
  parentRefs:
  - {name: front}
  - {group: '', kind: Service, name: web, port: 80}
  rules:
  - matches: [{path: {value: /cookie}}]
    sessionPersistence: {cookie: {name: web-id}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /header}}]
    sessionPersistence: {type: Header, header: {name: X-Web}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /flaky}}]
    retry: {codes: [500], attempts: 1, backoff: 1ms}
    backendRefs: [{name: flaky, port: 80}]
  - matches: [{path: {value: /sticky}}]
    backendRefs: [{name: sticky, port: 80}]
  - backendRefs: [{name: web, port: 80}]
---
";

/// An echo server of Service `web`.
fn replica(name: &str, node: &str) -> String {
    echo("a", name, node, &[]).replace(&format!("app: {name}"), "app: web")
}

/// The objects.
pub fn topology() -> String {
    let mut yaml = namespace("a", true) + &namespace("out", false);
    yaml += &(replica("web1", "node1") + &replica("web2", "node2"));
    for name in ["web", "flaky", "sticky"] {
        yaml += &service("a", name, "web", HTTP_PORTS);
    }
    yaml +=
        &(sleeper("a", "near", "node1") + &sleeper("a", "far", "node2") + &sleeper("out", "client", "node1"));
    yaml + &gateway("a", "front", HTTP_LISTENER) + POLICIES + ROUTED
}

/// Where to ask: a pod, and what it calls.
#[derive(Clone, Debug)]
struct Caller {
    pod: &'static str,
    host: String,
}

impl Caller {
    fn ask(&self, mesh: &Mesh, path: &str, fields: &[&str]) -> Result<Answer> {
        let fields: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
        mesh.curl(self.pod, &[&fields[..], &[&format!("http://{}{path}", self.host)]].concat())
    }

    /// The names that answer many requests with 200.
    fn many(&self, mesh: &Mesh, path: &str, fields: &[&str]) -> Result<BTreeSet<String>> {
        let fields: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
        let counts = mesh.many(self.pod, MANY, &format!("http://{}{path}", self.host), &fields)?;
        let name = |answer: &String| answer.strip_prefix("200 ").map(str::to_owned);
        counts.keys().map(|answer| name(answer).with_context(|| format!("{self:?}: {counts:?}"))).collect()
    }

    /// Fails unless the one of this name answers many requests.
    fn all_reach(&self, mesh: &Mesh, path: &str, field: &str, name: &str) -> Result<()> {
        let names = self.many(mesh, path, &[field])?;
        ensure!(names.iter().eq([name]), "{self:?}: {names:?} instead of {name}");
        Ok(())
    }
}

/// A pod of each node at the Service, and one outside the mesh at the Gateway: each has another proxy choose.
fn everywhere(mesh: &Mesh) -> Result<[Caller; 3]> {
    let gateway = host(&gateway_addresses(mesh, "a", "front")?[0]);
    let of = |pod, host: &str| Caller { pod, host: host.to_owned() };
    Ok([of("a/near", "web"), of("a/far", "web"), of("out/client", &gateway)])
}

/// The sentences.
pub fn run(checks: &mut Checks<'_>) {
    if !checks.mesh().is_weft() {
        return;
    }
    checks.check("the route is in force on the Service and at the Gateway", |m| {
        patiently(|| everywhere(m)?.iter().try_for_each(|from| from.ask(m, "/", &[])?.expect(200, "")))
    });
    checks
        .check("a session that one proxy has made is kept by every other, by cookie and by header", sessions);
    checks.check("without a session, and with one that nobody has made, requests are balanced", balanced);
    checks.check("a policy keeps sessions at its Service, for whichever rule leads there", |m| {
        let everywhere = everywhere(m)?;
        let answer = everywhere[0].ask(m, "/sticky", &[])?;
        let header = format!("x-sticky: {}", first(&answer, "x-sticky")?);
        let name = answer.name()?;
        everywhere.iter().try_for_each(|from| from.all_reach(m, "/sticky", &header, &name))
    });
    check_budgets(checks);
    checks.check("a session whose endpoint is gone goes on at another one", moved);
}

fn first(answer: &Answer, name: &str) -> Result<String> {
    let value = answer.header(name).first().map(|value| (*value).to_owned());
    value.with_context(|| format!("no {name}: {answer:?}"))
}

/// The cookie that an answer sets, as a client repeats it.
fn cookie_of(answer: &Answer) -> Result<String> {
    let set = answer.header("set-cookie");
    ensure!(set.len() == 1, "one cookie is set: {answer:?}");
    let wanted = ["; Path=/", "; HttpOnly", "; SameSite=Strict"].iter().all(|part| set[0].contains(part));
    let unwanted = ["Max-Age", "Expires", "Secure"].iter().any(|part| set[0].contains(part));
    ensure!(wanted && !unwanted, "{}", set[0]);
    Ok(format!("cookie: other=1; {}", set[0].split(';').next().unwrap_or_default()))
}

fn sessions(mesh: &Mesh) -> Result<()> {
    let everywhere = everywhere(mesh)?;
    for first_asked in &everywhere {
        let by_cookie = first_asked.ask(mesh, "/cookie", &[])?;
        let cookie = cookie_of(&by_cookie)?;
        let by_header = first_asked.ask(mesh, "/header", &[])?;
        let header = format!("X-Web: {}", first(&by_header, "x-web")?);
        for other in &everywhere {
            let again = other.ask(mesh, "/cookie", &[&cookie])?;
            ensure!(again.header("set-cookie").is_empty(), "{again:?}");
            other.all_reach(mesh, "/cookie", &cookie, &by_cookie.name()?)?;
            other.all_reach(mesh, "/header", &header, &by_header.name()?)?;
        }
    }
    Ok(())
}

fn balanced(mesh: &Mesh) -> Result<()> {
    for from in everywhere(mesh)? {
        for fields in [&[][..], &["cookie: web-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]] {
            soon(|| {
                let names = from.many(mesh, "/cookie", fields)?;
                ensure!(names.len() == 2, "{from:?}: {names:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn check_budgets(checks: &mut Checks<'_>) {
    checks.check("policies in force say so of their Services, and of the Gateways that send to these", |m| {
        let mesh = m.place().controller_name();
        for name in ["flaky", "sticky"] {
            let told = ancestors(m, KIND, "a", name)?;
            ensure!(
                told == [["Service", mesh, "True Accepted"], ["Gateway", GATEWAYS, "True Accepted"]],
                "{told:?}"
            );
        }
        Ok(())
    });
    checks.check("a policy that comes second is Conflicted, and one for no Service has found none", |m| {
        m.apply("late", LATE)?;
        patiently(|| {
            for (name, reason) in [("later", "False Conflicted"), ("lost", "False TargetNotFound")] {
                let told = ancestors(m, KIND, "a", name)?;
                ensure!(!told.is_empty() && told.iter().all(|entry| entry[2] == reason), "{name}: {told:?}");
            }
            let first = ancestors(m, KIND, "a", "flaky")?;
            ensure!(first.iter().all(|entry| entry[2] == "True Accepted"), "{first:?}");
            Ok(())
        })
    });
    checks.check("the first policy's budget bounds the retries of each proxy", |m| {
        for from in everywhere(m)? {
            for turn in 0..RETRIES + 3 {
                let answer = from.ask(m, "/flaky?status=500", &[])?;
                // Tried twice, as long as the budget lasts.
                answer.expect(if turn < RETRIES { 500 } else { 503 }, "")?;
                let refused = answer.body.starts_with("weft: retry_budget: ");
                ensure!(refused == (turn >= RETRIES), "{from:?} {turn}: {answer:?}");
            }
            from.ask(m, "/flaky", &[])?.expect(200, "").context("what needs no retry is carried")?;
        }
        Ok(())
    });
    checks.check("the access log says what was tried and what was not", |m| {
        soon(|| {
            let log = log_lines(&m.proxy_log("node1")?);
            let flaky = log.iter().filter(|line| {
                line["reporter"] == "source"
                    && line["path"].as_str().is_some_and(|path| path.starts_with("/flaky?"))
            });
            let flaky: Vec<_> =
                flaky.map(|line| (line["reason"].clone(), line["attempts"].as_u64().unwrap_or(1))).collect();
            let count =
                |reason: &str, tries| flaky.iter().filter(|one| one.0 == reason && one.1 == tries).count();
            ensure!((count("ok", 2), count("retry_budget", 1)) == (RETRIES, 3), "{flaky:?}");
            Ok(())
        })
    });
}

fn moved(mesh: &Mesh) -> Result<()> {
    mesh.apply("third", &replica("web3", "node2"))?;
    let [near, far, at_gateway] = &everywhere(mesh)?;
    let mut cookie = String::new();
    patiently(|| {
        let answer = near.ask(mesh, "/cookie", &[])?;
        cookie = cookie_of(&answer)?;
        answer.expect(200, "web3")
    })?;
    for from in [far, at_gateway] {
        patiently(|| from.ask(mesh, "/cookie", &[&cookie])?.expect(200, "web3"))?;
    }
    mesh.delete("third")?;
    let (mut name, mut new) = (String::new(), String::new());
    patiently(|| {
        let answer = at_gateway.ask(mesh, "/cookie", &[&cookie])?;
        answer.expect(200, "")?;
        name = answer.name()?;
        ensure!(name != "web3", "the session has not moved");
        new = cookie_of(&answer)?;
        Ok(())
    })?;
    far.all_reach(mesh, "/cookie", &new, &name)
}
