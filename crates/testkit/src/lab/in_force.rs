//! Waits until the proxies of a lab that has just started know every endpoint that it has. A lab is up when its pods are
//! ready; its controller and proxies hear of that a moment later, and a test that calls at once must not meet the moment.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Lab;

/// Changes are in force within milliseconds; a machine that has much else to do may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for it on each node whose proxy serves pods: the others need no endpoints.
pub(super) fn wait(lab: &Lab) -> Result<()> {
    let status = lab.status()?;
    let daemons = list(&status, "daemons").filter_map(|daemon| daemon.get("name")?.as_str());
    for node in daemons.filter_map(|name| name.strip_suffix("/proxy")) {
        let what = format!("the proxy of {node} knows all endpoints");
        lab.wait_until(&what, PATIENCE, |lab| {
            told(lab, node, "pods").is_some_and(|pods| pods.trim() == "[]")
                || told(lab, node, "config?Endpoints/")
                    .is_some_and(|known| ready_addresses(lab).iter().all(|ready| known.contains(ready)))
        })?;
    }
    Ok(())
}

fn told(lab: &Lab, node: &str, path: &str) -> Option<String> {
    lab.admin(node, path).ok().filter(|out| out.code == 0).map(|out| out.stdout)
}

/// The addresses of ready endpoints as they begin in what a proxy shows.
fn ready_addresses(lab: &Lab) -> Vec<String> {
    let slices = lab.objects("EndpointSlice");
    let with_ports = slices.iter().filter(|slice| list(slice, "ports").next().is_some());
    let endpoints = with_ports.flat_map(|slice| list(slice, "endpoints"));
    let is_ready = |of: &&Value| of.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
    let addresses = endpoints.filter(is_ready).flat_map(|endpoint| list(endpoint, "addresses"));
    addresses.filter_map(Value::as_str).map(shown).collect()
}

fn shown(address: &str) -> String {
    if address.contains(':') { format!("\"[{address}]:") } else { format!("\"{address}:") }
}

fn list<'a>(of: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    of.get(field).and_then(Value::as_array).into_iter().flatten()
}
