//! What routes and policies say about several endpoints of one backend, seen by curl from pods of both nodes and through a
//! Gateway: sessions that any proxy can make and read, and budgets of retries.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_conformance::mesh::Answer;
use weft_conformance::objects::{namespace, service, shell};
use weft_conformance::{Checks, Lab, access_log, curl, place};

const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that would hardly all reach one of three endpoints by chance.
const MANY: usize = 20;

/// Retries that a policy allows each proxy for an hour.
const RETRIES: usize = 2;

/// Policies of two further Services with the same endpoints.
const POLICIES: &str = "
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: { name: flaky, namespace: shop }
spec:
  targetRefs: [{ group: '', kind: Service, name: flaky }]
  retryConstraint: { budget: { percent: 0, interval: 10s }, minRetryRate: { count: 2, interval: 1h } }
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: { name: sticky, namespace: shop }
spec:
  targetRefs: [{ group: '', kind: Service, name: sticky }]
  sessionPersistence: { type: Header, header: { name: X-Sticky } }
---
";

/// One route on a Service and at a Gateway.
const ROUTED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: front, namespace: shop }
spec:
  gatewayClassName: weft
  listeners: [{ name: http, port: 80, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: web, namespace: shop }
spec:
  parentRefs:
  - { name: front }
  - { group: '', kind: Service, name: web, port: 80 }
  rules:
  - matches: [{ path: { value: /cookie } }]
    sessionPersistence: { cookie: { name: web-id } }
    backendRefs: [{ name: web, port: 80 }]
  - matches: [{ path: { value: /header } }]
    sessionPersistence: { type: Header, header: { name: X-Web } }
    backendRefs: [{ name: web, port: 80 }]
  - matches: [{ path: { value: /flaky } }]
    retry: { codes: [500], attempts: 1, backoff: 1ms }
    backendRefs: [{ name: flaky, port: 80 }]
  - matches: [{ path: { value: /sticky } }]
    backendRefs: [{ name: sticky, port: 80 }]
  - backendRefs: [{ name: web, port: 80 }]
---
";

/// An echo server of Service `web`.
fn replica(name: &str, node: &str) -> String {
    let echo = place::echo_program();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: shop, labels: {{ app: web }} }}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: local
    command: [{echo}, --name, {name}]
    readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
---
"
    )
}

fn cluster() -> String {
    [
        namespace("shop", "weft-mesh.dev/mesh: enabled"),
        replica("web1", "node1"),
        replica("web2", "node2"),
        service("shop", "web", "{ name: http, port: 80, targetPort: 8080, appProtocol: http }"),
        service("shop", "flaky", "{ name: http, port: 80, targetPort: 8080 }")
            .replace("app: flaky", "app: web"),
        service("shop", "sticky", "{ name: http, port: 80, targetPort: 8080 }")
            .replace("app: sticky", "app: web"),
        POLICIES.to_owned(),
        shell("shop", "near", "node1"),
        shell("shop", "far", "node2"),
        ROUTED.to_owned(),
    ]
    .concat()
}

/// Where to ask: a pod and the Service, or this machine and the Gateway.
#[derive(Clone, Debug)]
enum Caller {
    Pod(&'static str),
    Machine(String),
}

impl Caller {
    fn ask(&self, lab: &Lab, path: &str, fields: &[&str]) -> Answer {
        let fields: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
        let text = match self {
            Self::Pod(pod) => {
                let url = format!("http://web{path}");
                curl(lab, pod, &[&["-i"], &fields[..], &[&url]].concat()).ok()
            }
            Self::Machine(gateway) => {
                let url = format!("http://{gateway}{path}");
                let out = Command::new("curl")
                    .args(["-sS", "-m", "8", "-i"])
                    .args(fields)
                    .arg(url)
                    .stdin(Stdio::null())
                    .output()
                    .expect("curl");
                String::from_utf8(out.stdout).unwrap()
            }
        };
        Answer::read(&text).unwrap()
    }

    fn who(&self, lab: &Lab, path: &str, fields: &[&str]) -> String {
        let answer = self.ask(lab, path, fields);
        answer.expect(200, "").unwrap();
        answer.name().unwrap()
    }
}

/// The cookie that an answer sets, as a client repeats it.
fn cookie_of(answer: &Answer) -> String {
    let set = answer.header("set-cookie");
    let [one] = set[..] else { panic!("one cookie is set: {answer:?}") };
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Strict"] {
        assert!(one.contains(part), "{one}");
    }
    assert!(!one.contains("Max-Age") && !one.contains("Expires") && !one.contains("Secure"), "{one}");
    format!("cookie: other=1; {}", one.split(';').next().unwrap())
}

fn gateway(lab: &Lab) -> String {
    let address = || {
        let status = lab.object_status("Gateway", "shop", "front")?;
        let mut all = status["status"]["addresses"].as_array()?.iter().filter_map(|a| a["value"].as_str());
        all.find(|address| !address.contains(':')).map(str::to_owned)
    };
    lab.wait_until("the Gateway has an address", PATIENCE, |_| address().is_some()).unwrap();
    address().unwrap()
}

#[test]
fn traffic() {
    let lab = Lab::up(&cluster()).unwrap();
    let everywhere = [Caller::Pod("shop/near"), Caller::Pod("shop/far"), Caller::Machine(gateway(&lab))];
    let ready = |lab: &Lab| {
        let text = lab.status().unwrap_or_default();
        let pods = text["pods"].as_array().is_some_and(|pods| pods.iter().all(|pod| pod["ready"] == true));
        pods && text["waiting"].as_array().is_some_and(Vec::is_empty)
    };
    lab.wait_until("everything is ready", PATIENCE, ready).unwrap();
    let mut checks = Checks::default();

    checks.check("a session that one proxy has made is kept by every other, by cookie and by header", || {
        for first in &everywhere {
            let answer = first.ask(&lab, "/cookie", &[]);
            let cookie = cookie_of(&answer);
            let by_header = first.ask(&lab, "/header", &[]);
            let header = format!("X-Web: {}", by_header.header("x-web")[0]);
            for other in &everywhere {
                for _ in 0..MANY {
                    let again = other.ask(&lab, "/cookie", &[&cookie]);
                    assert_eq!(again.name().unwrap(), answer.name().unwrap(), "{first:?} {other:?}");
                    assert!(again.header("set-cookie").is_empty(), "{again:?}");
                    let who = other.who(&lab, "/header", &[&header]);
                    assert_eq!(who, by_header.name().unwrap(), "{first:?} {other:?}");
                }
            }
        }
    });
    checks.check("without a session, and with one that nobody has made, requests are balanced", || {
        for from in &everywhere {
            for fields in [&[][..], &["cookie: web-id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]] {
                let reached = |_: &Lab| {
                    let names: BTreeSet<_> = (0..MANY).map(|_| from.who(&lab, "/cookie", fields)).collect();
                    names.len() == 2
                };
                lab.wait_until("both endpoints answer", PATIENCE, reached).unwrap();
            }
        }
    });
    checks.check("a policy keeps sessions at its Service, for whichever rule leads there", || {
        let [near, far, at_gateway] = &everywhere;
        let answer = near.ask(&lab, "/sticky", &[]);
        let header = format!("x-sticky: {}", answer.header("x-sticky")[0]);
        for from in [near, far, at_gateway] {
            for _ in 0..MANY {
                assert_eq!(from.who(&lab, "/sticky", &[&header]), answer.name().unwrap(), "{from:?}");
            }
        }
    });
    checks.check(
        "a policy's budget bounds the retries of each proxy, and its status says that it is in force",
        || {
            for from in &everywhere {
                for turn in 0..RETRIES + 3 {
                    let answer = from.ask(&lab, "/flaky?status=500", &[]);
                    if turn < RETRIES {
                        assert_eq!(answer.status, 500, "tried twice: {answer:?}");
                    } else {
                        assert_eq!(answer.status, 503, "{answer:?}");
                        assert!(answer.body.starts_with("weft: retry_budget: "), "{answer:?}");
                    }
                }
                assert_eq!(from.ask(&lab, "/flaky", &[]).status, 200, "what needs no retry is carried");
            }
            let told = |lab: &Lab| {
                let log = access_log(lab, "node1");
                let tries = |line: &serde_json::Value| line["attempts"].as_u64().unwrap_or(1);
                let flaky = |line: &&serde_json::Value| {
                    line["reporter"] == "source"
                        && line["path"].as_str().is_some_and(|path| path.starts_with("/flaky?"))
                };
                let lines: Vec<_> =
                    log.iter().filter(flaky).map(|line| (line["reason"].clone(), tries(line))).collect();
                let spent =
                    lines.iter().filter(|(reason, tries)| reason == "retry_budget" && *tries == 1).count();
                let tried = lines.iter().filter(|(reason, tries)| reason == "ok" && *tries == 2).count();
                (tried, spent) == (RETRIES, 3)
            };
            lab.wait_until("the access log says so", PATIENCE, told).unwrap();
            let status = lab.object_status("XBackendTrafficPolicy", "shop", "flaky").unwrap();
            let ancestors = status["status"]["ancestors"].as_array().unwrap();
            let of = |entry: &serde_json::Value| {
                let condition = &entry["conditions"][0];
                let text = |of: &serde_json::Value| of.as_str().unwrap().to_owned();
                (text(&entry["ancestorRef"]["kind"]), text(&condition["type"]), text(&condition["status"]))
            };
            let entries: Vec<_> = ancestors.iter().map(of).collect();
            let accepted = |kind: &str| (kind.to_owned(), "Accepted".to_owned(), "True".to_owned());
            assert_eq!(entries, [accepted("Service"), accepted("Gateway")]);
        },
    );
    checks.check("a session whose endpoint is gone goes on at another one", || {
        lab.apply("third", &replica("web3", "node2")).unwrap();
        let [near, far, at_gateway] = &everywhere;
        let mut cookie = String::new();
        let chosen = |_: &Lab| {
            let answer = near.ask(&lab, "/cookie", &[]);
            cookie = cookie_of(&answer);
            answer.name().unwrap() == "web3"
        };
        lab.wait_until("the new endpoint is chosen", PATIENCE, chosen).unwrap();
        lab.wait_until("every proxy knows it", PATIENCE, |_| {
            [far, at_gateway].iter().all(|from| from.who(&lab, "/cookie", &[&cookie]) == "web3")
        })
        .unwrap();
        lab.delete("third").unwrap();
        let mut moved = None;
        lab.wait_until("the session has moved", PATIENCE, |_| {
            let answer = at_gateway.ask(&lab, "/cookie", &[&cookie]);
            let new = answer.status == 200 && answer.name().unwrap() != "web3";
            if new {
                moved = Some((cookie_of(&answer), answer.name().unwrap()));
            }
            new
        })
        .unwrap();
        let (cookie, name) = moved.unwrap();
        for _ in 0..MANY {
            assert_eq!(far.who(&lab, "/cookie", &[&cookie]), name);
        }
    });
    checks.finish();
}
