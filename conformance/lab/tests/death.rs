//! Processes that are killed while traffic flows: the node's proxy, the agent, the controller.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_conformance::objects::{shell, stranger, two_webs};
use weft_conformance::{Checks, Lab, Options, admin, curl};

const PATIENCE: Duration = Duration::from_secs(60);

/// New connections one after another until told to end; counts how they went.
struct Steady(Child);

impl Steady {
    /// A new connection every 20 ms or so, for the time, and on a slow machine until there have been enough.
    fn start(lab: &Lab, url: &str, seconds: u32) -> Self {
        let script = format!(
            "end=$(($(date +%s) + {seconds})); n=0; while [ $n -lt 25 ] || [ $(date +%s) -lt $end ]; do n=$((n + 1))
               curl -s -o /dev/null -m 9 -w '%{{http_code}} %{{exitcode}} %{{time_total}}\\n' {url}; sleep 0.02
             done"
        );
        let mut command = lab.exec_command("app/caller", &["sh", "-c", &script]);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// How often each outcome (`CODE EXIT`) was seen, and the longest time taken.
    fn end(mut self) -> (BTreeMap<String, u32>, f64) {
        let mut seen = BTreeMap::new();
        let mut longest = 0f64;
        for line in BufReader::new(self.0.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let (outcome, took) = line.rsplit_once(' ').unwrap();
            longest = longest.max(took.parse().unwrap());
            *seen.entry(outcome.to_owned()).or_default() += 1;
        }
        assert!(self.0.wait().unwrap().success());
        (seen, longest)
    }
}

/// All were served, and not few.
fn all_served(seen: &BTreeMap<String, u32>) {
    let keys: Vec<_> = seen.keys().map(String::as_str).collect();
    assert_eq!(keys, ["200 0"], "{seen:?}");
    assert!(seen["200 0"] > 20, "{seen:?}");
}

fn restarts(lab: &Lab, daemon: &str) -> u64 {
    let status = lab.status().unwrap();
    let all = status["daemons"].as_array().unwrap();
    let found = all.iter().find(|d| d["name"] == daemon).unwrap();
    if found["pid"].is_null() { 0 } else { found["restarts"].as_u64().unwrap() }
}

fn serials(lab: &Lab) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for node in ["node1", "node2"] {
        let told: Vec<Value> = serde_json::from_str(&admin(lab, node, "certificates")).unwrap();
        for one in told {
            all.insert(format!("{node} {}", one["identity"]), one["serial"].to_string());
        }
    }
    all
}

#[test]
fn traffic_survives_the_death_of_every_process() {
    // Leaves are dated back by 60 s: with 66 s they are renewed 3 to 28 s after their issue.
    let options =
        Options { environment: vec![("WEFT_LEAF_LIFETIME".into(), "66s".into())], ..Options::default() };
    let lab = Lab::up_with(&(two_webs() + &stranger()), &options).unwrap();
    let mut checks = Checks::default();
    let first = serials(&lab);
    for (node, url) in [("node1", "http://web2/"), ("node2", "http://web2/"), ("node1", "http://web1/")] {
        checks.check(&format!("no new connection to {url} fails when the proxy of {node} is killed"), || {
            proxy_killed(&lab, node, url);
        });
    }
    checks.check("those who call while a proxy does not run are served when it goes on", || {
        proxy_away(&lab);
    });
    checks.check("the agent may be killed: nothing fails, and new pods start when it is back", || {
        let steady = Steady::start(&lab, "http://web2/", 3);
        lab.kill_daemon("node1/agent").unwrap();
        lab.kill_daemon("node2/agent").unwrap();
        lab.apply("late", &shell("app", "late", "node1")).unwrap();
        all_served(&steady.end().0);
        lab.wait_until("new pod", PATIENCE, |l| l.pods("app", "late").unwrap()[0]["ready"] == true).unwrap();
        let got = curl(&lab, "app/late", &["http://web2/"]).ok();
        assert!(got.contains("caller=URI=spiffe://cluster.local/ns/app/sa/late"), "{got}");
    });
    checks.check(
        "without a controller traffic goes on, and edits made meanwhile are in force once it is back",
        || {
            controller_away(&lab);
        },
    );
    checks.check("the authority keeps its root when the controller starts again", || {
        let root = || std::fs::read(lab.state().join("ca/root.crt")).unwrap();
        let before = root();
        lab.kill_daemon("controller").unwrap();
        let steady = Steady::start(&lab, "http://web2/", 2);
        lab.wait_until("controller", PATIENCE, |l| restarts(l, "controller") >= 2).unwrap();
        all_served(&steady.end().0);
        assert_eq!(root(), before);
        lab.apply("fresh", &shell("app", "fresh", "node2")).unwrap();
        lab.wait_until("a pod with a certificate of the new controller", PATIENCE, |l| {
            l.pods("app", "fresh").unwrap().iter().any(|p| p["ready"] == true)
                && curl(l, "app/fresh", &["http://web1/"]).stdout.contains("sa/fresh")
        })
        .unwrap();
    });
    checks.check("every certificate is renewed before its end, and no request fails meanwhile", || {
        let steady = Steady::start(&lab, "http://web2/", 5);
        lab.wait_until("new serials", Duration::from_secs(40), |l| {
            let now = serials(l);
            first.iter().all(|(name, serial)| now.get(name).is_some_and(|s| s != serial))
        })
        .unwrap();
        all_served(&steady.end().0);
    });
    checks.finish();
}

fn proxy_killed(lab: &Lab, node: &str, url: &str) {
    let daemon = format!("{node}/proxy");
    let before = restarts(lab, &daemon);
    let steady = Steady::start(lab, url, 4);
    std::thread::sleep(Duration::from_millis(700));
    lab.kill_daemon(&daemon).unwrap();
    let (seen, longest) = steady.end();
    assert!(restarts(lab, &daemon) > before);
    assert!(longest < 5.0, "{longest}");
    // One connection may have been in the proxy's hands: that one is reset with it. All others wait.
    let failed: u32 = seen.iter().filter(|(k, _)| *k != "200 0").map(|(_, n)| n).sum();
    assert!(failed <= 1, "{seen:?}");
    assert!(!seen.contains_key("000 7"), "refused: {seen:?}");
    assert!(seen["200 0"] > 20, "{seen:?}");
}

/// The process stops, so that the lab does not start another; its sockets stay open.
fn proxy_away(lab: &Lab) {
    let status = lab.status().unwrap();
    let daemons = status["daemons"].as_array().unwrap();
    let pid = daemons.iter().find(|d| d["name"] == "node1/proxy").unwrap()["pid"].to_string();
    lab.exec("node/node1", &["kill", "-STOP", &pid]).unwrap().ok();
    let waiting = ["http://web2/", "http://web1/"].map(|url| {
        let mut command = lab.exec_command("app/caller", &["curl", "-sS", "-m", "8", url]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    });
    std::thread::sleep(Duration::from_secs(2));
    lab.exec("node/node1", &["kill", "-CONT", &pid]).unwrap().ok();
    for child in waiting {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stdout).contains("sa/caller"), "{out:?}");
    }
}

fn controller_away(lab: &Lab) {
    let status = lab.status().unwrap();
    let daemons = status["daemons"].as_array().unwrap();
    let pid = daemons.iter().find(|d| d["name"] == "controller").unwrap()["pid"].to_string();
    // Stopped and then killed: away for seconds, as far as anybody can tell.
    lab.exec("node/node1", &["kill", "-STOP", &pid]).unwrap().ok();
    let steady = Steady::start(lab, "http://web2/", 4);
    lab.apply("route", ROUTE).unwrap();
    let (seen, longest) = steady.end();
    lab.exec("node/node1", &["kill", "-9", &pid]).unwrap().ok();
    all_served(&seen);
    assert!(longest < 1.0, "{longest}");
    lab.wait_until("the route is in force", PATIENCE, |l| {
        curl(l, "app/caller", &["-o", "/dev/null", "-w", "%{http_code}", "http://web2/moved"]).stdout == "302"
    })
    .unwrap();
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: moved, namespace: app }
spec:
  parentRefs: [{ group: '', kind: Service, name: web2 }]
  rules:
  - matches: [{ path: { value: /moved } }]
    filters: [{ type: RequestRedirect, requestRedirect: { path: { type: ReplaceFullPath, replaceFullPath: /new } } }]
  - backendRefs: [{ name: web2, port: 80 }]
";
