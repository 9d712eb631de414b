//! Which endpoint of a Service is called, by what the Service and its EndpointSlices say: affinity, traffic policies, hints,
//! endpoints that end or are not ready. Three nodes, of which two are in one zone.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use weft_conformance::objects::{namespace, shell};
use weft_conformance::{Checks, Lab, Options, access_log};

const PATIENCE: Duration = Duration::from_secs(60);

/// A pod that answers each connection with its name. It goes on serving while it ends.
fn server(name: &str, node: &str, labels: &str, probe: &str) -> String {
    let serve = "socat TCP6-LISTEN:80,ipv6only=0,backlog=128,fork,reuseaddr SYSTEM:\"hostname; sleep 0.3\"";
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: app, labels: {{ {labels} }} }}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 600
  containers:
  - name: main
    image: local
    command: [sh, -c, 'trap \"\" TERM; {serve}']
    readinessProbe: {probe}
---
"
    )
}

fn service(name: &str, selector: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: app }}
spec: {{ ipFamilyPolicy: PreferDualStack, selector: {{ {selector} }}, ports: [{{ port: 80 }}]{more} }}
---
"
    )
}

/// Those that can be taken away again.
const ENDING: [&str; 2] = ["ending1", "ending2"];

fn cluster(ending: &[&str]) -> String {
    let ready = "{ tcpSocket: { port: 80 }, periodSeconds: 1 }";
    let mut all = namespace("app", "weft-mesh.dev/mesh: enabled");
    for n in 1..=3 {
        let node = format!("node{n}");
        let side = if n == 2 { "inner" } else { "outer" };
        all += &server(&format!("web{n}"), &node, &format!("app: web, side: {side}"), ready);
        all += &shell("app", &format!("caller{n}"), &node);
    }
    for (n, name) in ENDING.iter().enumerate().filter(|(_, name)| ending.contains(name)) {
        all += &server(name, &format!("node{}", n + 1), "app: ending", ready);
    }
    let affine = ", sessionAffinity: ClientIP, sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } }";
    all + &[
        service("any", "app: web", ""),
        service("affine", "app: web", affine),
        service("local", "app: web", ", internalTrafficPolicy: Local"),
        service("outer-local", "side: outer", ", internalTrafficPolicy: Local"),
        service("close", "app: web", ", trafficDistribution: PreferClose"),
        service("same-zone", "app: web", ", trafficDistribution: PreferSameZone"),
        service("same-node", "app: web", ", trafficDistribution: PreferSameNode"),
        service("outer-node", "side: outer", ", trafficDistribution: PreferSameNode"),
        service("ending", "app: ending", ""),
        service("unready", "app: unready", ""),
        service("unready-too", "app: unready", ", publishNotReadyAddresses: true"),
    ]
    .concat()
}

/// Who answers that many calls of the Service, all at a time, so that no endpoint is so much faster that it alone is
/// called; an empty line for a call without an answer.
fn answers(lab: &Lab, caller: &str, service: &str, calls: u32) -> Vec<String> {
    let service = lab.object("Service", "app", service).unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let call = format!("socat -T 10 -u TCP:{address}:80,connect-timeout=10 -");
    let script = format!("for i in $(seq {calls}); do echo \"$({call})\" & done 2>/dev/null; wait");
    let told = lab.exec(&format!("app/{caller}"), &["sh", "-c", &script]).unwrap().ok();
    told.lines().map(str::to_owned).collect()
}

fn called(lab: &Lab, caller: &str, service: &str) -> BTreeSet<String> {
    answers(lab, caller, service, 24).into_iter().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn endpoints_are_chosen_as_kube_proxy_would() {
    let three = Options { arguments: vec!["--nodes".to_owned(), "3".to_owned()], ..Options::default() };
    let lab = Lab::up_with(&cluster(&ENDING), &three).unwrap();
    let mut checks = Checks::default();
    checks.check("without a word all endpoints are called", || {
        assert_eq!(called(&lab, "caller1", "any"), set(&["web1", "web2", "web3"]));
    });
    affinity(&lab, &mut checks);
    near(&lab, &mut checks);
    readiness(&lab, &mut checks);
    checks.finish();
}

fn affinity(lab: &Lab, checks: &mut Checks) {
    checks.check(
        "sessionAffinity: ClientIP keeps a client at one endpoint, over all workers of the proxy",
        || {
            for caller in ["caller1", "caller2", "caller3"] {
                let called = called(lab, caller, "affine");
                assert!(called.len() == 1 && !called.contains(""), "{caller}: {called:?}");
            }
        },
    );
}

fn near(lab: &Lab, checks: &mut Checks) {
    checks.check("internalTrafficPolicy: Local calls endpoints of the caller's node only", || {
        for n in 1..=3 {
            assert_eq!(called(lab, &format!("caller{n}"), "local"), set(&[&format!("web{n}")]));
        }
    });
    checks.check("where the node has none, it refuses", || {
        assert_eq!(called(lab, "caller1", "outer-local"), set(&["web1"]));
        assert_eq!(answers(lab, "caller2", "outer-local", 3), ["", "", ""]);
        let told = || access_log(lab, "node2").into_iter().rfind(|line| line["reason"] == "no_endpoints");
        lab.wait_until("the reason in the log", PATIENCE, |_| told().is_some()).unwrap();
        let line = told().unwrap().to_string();
        assert!(line.contains("internalTrafficPolicy"), "{line}");
    });
    for service in ["close", "same-zone"] {
        checks.check(&format!("trafficDistribution keeps calls in the zone ({service})"), || {
            assert_eq!(called(lab, "caller1", service), set(&["web1", "web2"]));
            assert_eq!(called(lab, "caller3", service), set(&["web3"]));
        });
    }
    checks.check("trafficDistribution PreferSameNode: the node, else the zone", || {
        for n in 1..=3 {
            assert_eq!(called(lab, &format!("caller{n}"), "same-node"), set(&[&format!("web{n}")]));
        }
        assert_eq!(called(lab, "caller2", "outer-node"), set(&["web1"]));
    });
}

fn readiness(lab: &Lab, checks: &mut Checks) {
    checks.check(
        "an endpoint that is not ready is called only where its Service publishes it all the same",
        || {
            let never = "{ exec: { command: ['false'] }, periodSeconds: 1 }";
            lab.apply("unready", &server("unready", "node2", "app: unready", never)).unwrap();
            lab.wait_until("it is published", PATIENCE, |l| {
                called(l, "caller1", "unready-too") == set(&["unready"])
            })
            .unwrap();
            assert_eq!(answers(lab, "caller1", "unready", 2), ["", ""]);
            assert_eq!(called(lab, "caller1", "unready-too"), set(&["unready"]));
        },
    );
    checks.check("one that ends is not called while another is ready", || {
        assert_eq!(called(lab, "caller1", "ending"), set(&ENDING));
        lab.apply("main", &cluster(&["ending2"])).unwrap();
        lab.wait_until("ending1 ends", PATIENCE, |l| {
            called(l, "caller1", "ending") == set(&["ending2"])
                && l.pods("app", "ending1").unwrap().len() == 1
        })
        .unwrap();
    });
    checks.check("where all end, those that still serve are called", || {
        lab.apply("main", &cluster(&[])).unwrap();
        lab.wait_until("both are called", PATIENCE, |l| called(l, "caller1", "ending") == set(&ENDING))
            .unwrap();
    });
}
