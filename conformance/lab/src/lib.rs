//! What the lab's conformance tests share: named checks over one lab, and a look at what the
//! proxies counted and logged. Needs what `weft lab` needs, and `cargo build --workspace --bins` first.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "only tests use this crate"
)]

pub mod hostile;
pub mod load;
pub mod objects;
pub mod place;

use serde_json::Value;
pub use weft_conformance_cases::mesh::log_lines;
pub use weft_conformance_cases::{Claims as Checks, cases, mesh};
pub use weft_testkit::{Lab, Options, Output};

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
    lab.admin(node, path).unwrap().ok()
}

/// The access log of a node's proxy so far, a JSON object a line.
///
/// # Panics
/// When the log cannot be read.
pub fn access_log(lab: &Lab, node: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab.state().join(format!("logs/{node}/proxy.log"))).unwrap();
    log_lines(&text)
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
