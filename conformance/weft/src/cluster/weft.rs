//! What only Weft can be asked: the logs and the admin server of its proxies.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Cluster;
use crate::mesh::Place;

/// Where Weft runs.
const NAMESPACE: &str = "weft-system";

impl Cluster {
    /// The name of the proxy's pod on a node.
    fn weft_proxy(&self, node: &str) -> Result<String> {
        let selector = "--selector=app.kubernetes.io/name=weft-proxy";
        let field = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        let pods = self.get(&["pods", "--namespace", NAMESPACE, selector, &field])?;
        let all: Vec<_> = pods["items"].as_array().into_iter().flatten().collect();
        // During a roll-out the newer one has taken over.
        let newest = all.iter().max_by_key(|pod| pod["metadata"]["creationTimestamp"].as_str());
        let name = newest.and_then(|pod| pod["metadata"]["name"].as_str());
        name.map(str::to_owned).with_context(|| format!("no weft-proxy runs on {node}"))
    }

    pub(super) fn weft_proxy_log(&self, node: &str) -> Result<String> {
        self.kubectl(&["logs", "--namespace", NAMESPACE, &self.weft_proxy(node)?], "")
    }

    pub(super) fn weft_admin(&self, node: &str, page: &str) -> Result<String> {
        let pod = self.weft_proxy(node)?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:15000/proxy/{page}");
        self.kubectl(&["get", "--raw", &path], "")
    }

    /// Until no proxy's configuration has changed for a while.
    pub(super) fn proxies_are_settled(&self) -> Result<()> {
        let view = || {
            ["node1", "node2"]
                .map(|node| self.weft_admin(node, "config"))
                .into_iter()
                .collect::<Result<Vec<_>>>()
        };
        let mut before = view()?;
        let mut quiet = 0;
        for _ in 0..500 {
            sleep(Duration::from_millis(200));
            let now = view()?;
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            if quiet == 3 {
                return Ok(());
            }
        }
        bail!("the proxies' configuration does not come to rest")
    }
}
