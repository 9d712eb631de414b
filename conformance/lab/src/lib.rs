//! What the lab's conformance tests share: named checks over one lab, and a look at what the
//! proxies counted and logged. Needs what `weft lab` needs, and `cargo build --workspace --bins` first.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "only tests use this crate"
)]

pub mod mesh;
pub mod objects;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde_json::Value;
pub use weft_testkit::{Lab, Options, Output};

/// Named checks over one lab: all of them run, and the test fails at the end if any failed.
#[derive(Debug, Default)]
pub struct Checks {
    failed: Vec<String>,
    count: usize,
}

impl Checks {
    /// Runs one check; a panic inside is its failure.
    #[allow(clippy::disallowed_methods, reason = "tells how long a check took")]
    pub fn check(&mut self, claim: &str, body: impl FnOnce()) {
        self.count += 1;
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(body));
        let word = if outcome.is_ok() { "holds" } else { "FAILS" };
        eprintln!("{word} {claim} ({:.1} s)", start.elapsed().as_secs_f32());
        if outcome.is_err() {
            self.failed.push(claim.to_owned());
        }
    }

    /// Ends the test.
    ///
    /// # Panics
    /// When a check failed.
    #[track_caller]
    pub fn finish(self) {
        let failed = self.failed;
        assert!(
            failed.is_empty(),
            "{} of {} checks failed:\n  {}",
            failed.len(),
            self.count,
            failed.join("\n  ")
        );
    }
}

/// The sum of a proxy's metric over the series that have all these labels.
///
/// # Panics
/// When the node's proxy does not answer.
pub fn metric(lab: &Lab, node: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let text = admin(lab, node, "metrics");
    let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let series = text.lines().filter(|l| l.split(['{', ' ']).next() == Some(name));
    let chosen = series.filter(|l| wanted.iter().all(|w| l.contains(w.as_str())));
    chosen.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// What a node's proxy answers on its admin port.
///
/// # Panics
/// When it does not answer.
pub fn admin(lab: &Lab, node: &str, path: &str) -> String {
    let url = format!("http://127.0.0.1:15000/{path}");
    lab.exec(&format!("node/{node}"), &["curl", "-sSf", "-m", "5", &url]).unwrap().ok()
}

/// The access log of a node's proxy so far, a JSON object a line.
///
/// # Panics
/// When the log cannot be read.
pub fn access_log(lab: &Lab, node: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab.state().join(format!("logs/{node}/proxy.log"))).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line.get(line.find('{')?..)?).ok()).collect()
}

/// A pod's address in one family.
///
/// # Panics
/// When there is no such pod, or no such address.
pub fn address(lab: &Lab, namespace: &str, pod: &str, ipv6: bool) -> String {
    let pods = lab.pods(namespace, pod).unwrap();
    let all = pods[0]["addresses"].as_array().unwrap();
    all.iter().filter_map(Value::as_str).find(|a| a.contains(':') == ipv6).unwrap().to_owned()
}

/// `curl` in a pod with a deadline; `arguments` end with the URL.
///
/// # Panics
/// When curl cannot be started.
pub fn curl(lab: &Lab, pod: &str, arguments: &[&str]) -> Output {
    let mut all = vec!["curl", "-sS", "-m", "8"];
    all.extend(arguments);
    lab.exec(pod, &all).unwrap()
}

/// An address as it stands in a URL.
pub fn host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
