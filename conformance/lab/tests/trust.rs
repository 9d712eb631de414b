//! Connections that last longer than certificates: they live on while both ends renew theirs, and no longer.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use weft_conformance::objects::{namespace, pod, service, shell};
use weft_conformance::{Lab, Options, access_log, admin};

/// The shortest life that leaves some room: leaves are dated back by a minute.
const LIFE: &str = "66s";
const PATIENCE: Duration = Duration::from_secs(100);

fn lab() -> Lab {
    let environment = [("WEFT_LEAF_LIFETIME", LIFE), ("WEFT_ACCESS_LOG", "-")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    let yaml = [
        namespace("app", "weft-mesh.dev/mesh: enabled"),
        pod("app", "bytes", "node2", "[socat, 'TCP6-LISTEN:9000,fork,reuseaddr,ipv6only=0', 'EXEC:cat']"),
        service("app", "bytes", "{ name: bytes, port: 90, targetPort: 9000 }"),
        shell("app", "caller", "node1"),
    ]
    .concat();
    let lab = Lab::up_with(&yaml, &Options { environment, ..Options::default() }).unwrap();
    lab.wait_until("the server listens", PATIENCE, |l| {
        l.exec("app/bytes", &["ss", "-Hltn"]).unwrap().stdout.contains(":9000")
    })
    .unwrap();
    lab
}

/// One connection, on which a word goes forth and back every second: each comes out as a line; `ended` is the last.
fn stream(lab: &Lab) -> (Child, BufReader<ChildStdout>) {
    let script = "exec 3<>/dev/tcp/bytes/90; while echo ping >&3 && read -t 5 -u 3 line; do echo $line; sleep 1; done; echo ended";
    let mut command = lab.exec_command("app/caller", &["bash", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

fn next(lines: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line
}

/// Serial numbers of both nodes' certificates.
fn serials(lab: &Lab) -> Vec<String> {
    let of = |node| {
        let all: serde_json::Value = serde_json::from_str(&admin(lab, node, "certificates")).unwrap();
        all.as_array().unwrap().iter().map(|one| one["serial"].to_string()).collect::<Vec<_>>()
    };
    [of("node1"), of("node2")].concat()
}

#[test]
fn a_byte_stream_lives_on_while_both_certificates_are_renewed() {
    let lab = lab();
    let (mut child, mut lines) = stream(&lab);
    let mut generations = vec![serials(&lab)];
    // A line a second: longer than the certificates that it began with.
    for _ in 0..80 {
        assert_eq!(next(&mut lines), "ping\n");
        let now = serials(&lab);
        if generations.last() != Some(&now) {
            generations.push(now);
        }
    }
    assert!(generations.len() > 2, "{generations:?}");
    assert!(generations[0].iter().all(|serial| !generations.last().unwrap().contains(serial)));
    let log = [access_log(&lab, "node1"), access_log(&lab, "node2")].concat();
    assert!(!log.iter().any(|line| line["reason"] != "ok"), "{log:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_byte_stream_is_cut_with_a_reason_when_certificates_end_that_nobody_renewed() {
    let lab = lab();
    let (mut child, mut lines) = stream(&lab);
    assert_eq!(next(&mut lines), "ping\n");
    // Without a controller nobody signs.
    let status = lab.status().unwrap();
    let daemons = status["daemons"].as_array().unwrap();
    let pid = daemons.iter().find(|d| d["name"] == "controller").unwrap()["pid"].to_string();
    lab.exec("node/node1", &["kill", "-STOP", &pid]).unwrap().ok();
    let seen = (0..).find(|_| next(&mut lines) != "ping\n").unwrap();
    assert!(seen > 10, "it lived for {seen} s only");
    child.wait().unwrap();
    let told = |l: &Lab| {
        let log = [access_log(l, "node1"), access_log(l, "node2")].concat();
        log.iter().any(|line| {
            line["reason"] == "trust_ended" && line["message"].to_string().contains("certificate")
        })
    };
    lab.wait_until("the reason is told", PATIENCE, told).unwrap();
    lab.exec("node/node1", &["kill", "-CONT", &pid]).unwrap().ok();
}
