//! What the proxies say of themselves, asked at their admin endpoint through the API server.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use crate::check::part;
use crate::cluster::{Cluster, Fact};
use crate::facts::HOME;
use crate::mesh::{age, is_ready, node_of};
use crate::output::count;

/// The proxies' admin port.
const ADMIN_PORT: u16 = 15000;
/// Proxies asked at a time.
const AT_A_TIME: usize = 16;

/// All that answered, by node, and why others did not.
#[derive(Debug, Default)]
pub(super) struct Views {
    by_node: BTreeMap<String, ProxyView>,
    pub(super) problems: BTreeSet<String>,
}

/// One proxy's view.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProxyView {
    /// The configuration in force: its version, counted by the controller.
    config_version: u64,
    /// Resources that the proxy could not read and refuses.
    rejected: usize,
    certificates: Vec<Certificate>,
    #[serde(skip)]
    serving: BTreeSet<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    identity: serde_json::Value,
    not_before: Timestamp,
    not_after: Timestamp,
}

#[derive(Deserialize)]
struct Config {
    version: u64,
    #[serde(default)]
    rejected: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Served {
    uid: String,
}

/// Asks every ready proxy.
pub(super) async fn ask(cluster: &Cluster, pods: &[Pod]) -> Views {
    use futures_util::StreamExt as _;
    let ready =
        part(pods, "weft-proxy").filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    let answers = futures_util::stream::iter(
        ready.map(|pod| async move { (node_of(pod).to_owned(), one(cluster, &pod.name_any()).await) }),
    );
    let mut views = Views::default();
    let mut answers = answers.buffer_unordered(AT_A_TIME);
    while let Some((node, answer)) = answers.next().await {
        match answer {
            Ok(view) => drop(views.by_node.insert(node, view)),
            Err(error) => drop(views.problems.insert(error.to_string())),
        }
    }
    views
}

async fn one(cluster: &Cluster, pod: &str) -> Fact<ProxyView> {
    let ask = |path| cluster.of_pod::<serde_json::Value>(HOME, pod, ADMIN_PORT, path);
    // No resource's name begins like this: the version alone is wanted.
    let (config, certificates, pods) =
        tokio::try_join!(ask("/config?-"), ask("/certificates"), ask("/pods"))?;
    let wrong = |error: serde_json::Error| {
        crate::cluster::Unknown::Failed(format!("pod {pod} answers what this command cannot read: {error}"))
    };
    let config: Config = serde_json::from_value(config).map_err(wrong)?;
    let served: Vec<Served> = serde_json::from_value(pods).map_err(wrong)?;
    Ok(ProxyView {
        config_version: config.version,
        rejected: config.rejected.len(),
        certificates: serde_json::from_value(certificates).map_err(wrong)?,
        serving: served.into_iter().map(|pod| pod.uid).collect(),
    })
}

impl Views {
    pub(super) fn of_node(&self, node: &str) -> Option<&ProxyView> {
        self.by_node.get(node)
    }

    #[cfg(test)]
    pub(super) fn with(node: &str, config: &str, certificates: &str, serving: &[&str]) -> Self {
        let config: Config = serde_json::from_str(config).unwrap();
        let view = ProxyView {
            config_version: config.version,
            rejected: config.rejected.len(),
            certificates: serde_json::from_str(certificates).unwrap(),
            serving: serving.iter().map(|uid| (*uid).to_owned()).collect(),
        };
        Self { by_node: BTreeMap::from([(node.to_owned(), view)]), problems: BTreeSet::new() }
    }
}

impl ProxyView {
    pub(super) fn serves(&self, uid: &str) -> bool {
        self.serving.contains(uid)
    }

    /// `12`, or `12, 1 resource rejected`.
    pub(super) fn configuration(&self) -> String {
        match self.rejected {
            0 => self.config_version.to_string(),
            n => format!("{}, {} rejected", self.config_version, count(n, "resource")),
        }
    }

    /// `3, the oldest 2 h, the next ends in 22 h`.
    pub(super) fn certificates(&self, now: Timestamp) -> String {
        let oldest = self.certificates.iter().map(|certificate| certificate.not_before).min();
        let next = self.certificates.iter().map(|certificate| certificate.not_after).min();
        match (oldest, next) {
            (Some(oldest), Some(next)) => format!(
                "{}, the oldest {}, the next ends in {}",
                self.certificates.len(),
                age(oldest, now),
                age(now, next)
            ),
            _ => "none".to_owned(),
        }
    }
}
