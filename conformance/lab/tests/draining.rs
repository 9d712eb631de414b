//! Proxies that another one takes the place of, as in an upgrade: what is open ends well, slow clients included.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::time::{Duration, Instant};

use weft_conformance::load::{Load, none_failed};
use weft_conformance::objects::{namespace, nginx, shell};
use weft_conformance::{Checks, Lab};

const PATIENCE: Duration = Duration::from_secs(45);
/// Starts another proxy as the running one was started, in its network namespace.
const SUCCESSOR: &str = "
import os, sys
def parts(name):
    return open('/proc/%s/%s' % (sys.argv[1], name), 'rb').read().rstrip(b'\\0').split(b'\\0')
environment = dict(part.split(b'=', 1) for part in parts('environ') if b'=' in part)
environment[b'WEFT_ADMIN'] = b'127.0.0.1:15055'
command = parts('cmdline')
command = [part for part in command if not part.startswith(b'--admin')]
os.execvpe('nsenter', [b'nsenter', b'-n', b'-t', sys.argv[1].encode(), b'--'] + command, environment)
";

fn cluster() -> String {
    [
        namespace("app", "weft-mesh.dev/mesh: enabled"),
        nginx("app", "web", "node2"),
        nginx("app", "near", "node1"),
        shell("app", "caller", "node1"),
    ]
    .concat()
}

fn proxy(lab: &Lab, node: &str) -> Option<String> {
    let status = lab.status().unwrap();
    let name = format!("{node}/proxy");
    let daemons = status["daemons"].as_array().unwrap();
    daemons.iter().find(|d| d["name"] == name)?["pid"].as_i64().map(|pid| pid.to_string())
}

#[test]
fn a_proxy_that_is_succeeded_ends_its_connections_without_losing_a_request() {
    let lab = Lab::up(&cluster()).unwrap();
    let mut checks = Checks::default();
    for (node, role) in [("node1", "callers"), ("node2", "a callee")] {
        checks
            .check(&format!("no call fails while the proxy of {role} is replaced"), || replaced(&lab, node));
    }
    checks.finish();
}

/// What nobody takes the place of ends at once instead: new connections wait meanwhile.
#[test]
fn a_proxy_without_a_successor_does_not_wait_for_idle_connections() {
    let lab = Lab::up(&cluster()).unwrap();
    let idle = Load::start(&lab, "app/caller", "slow", "near.app", "80");
    std::thread::sleep(Duration::from_secs(2));
    let old = proxy(&lab, "node1").unwrap();
    let begun = Instant::now();
    lab.exec("node/node1", &["kill", "-TERM", &old]).unwrap().ok();
    lab.wait_until("another proxy", PATIENCE, |l| proxy(l, "node1").is_some_and(|pid| pid != old)).unwrap();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(idle.end());
}

fn replaced(lab: &Lab, node: &str) {
    let mut load = Vec::new();
    for host in ["web.app", "near.app"] {
        load.extend(["keep", "slow", "new"].map(|mode| Load::start(lab, "app/caller", mode, host, "80")));
    }
    std::thread::sleep(Duration::from_secs(3));
    let old = proxy(lab, node).unwrap();
    let at = format!("node/{node}");
    let mut successor = lab.exec_command(&at, &["python3", "-c", SUCCESSOR, &old]).spawn().unwrap();
    lab.wait_until("the successor is ready", PATIENCE, |l| {
        let url = "http://127.0.0.1:15055/readyz";
        l.exec(&at, &["nsenter", "-n", "-t", &old, "curl", "-sSf", "-m", "5", url]).unwrap().code == 0
    })
    .unwrap();
    lab.exec(&at, &["kill", "-TERM", &old]).unwrap().ok();
    lab.wait_until("the old one has ended", PATIENCE, |l| proxy(l, node).is_some_and(|pid| pid != old))
        .unwrap();
    std::thread::sleep(Duration::from_secs(4));
    none_failed(load, true);
    successor.kill().unwrap();
    successor.wait().unwrap();
}
