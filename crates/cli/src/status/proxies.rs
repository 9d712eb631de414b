//! What the proxies say of themselves, and what the controller that leads has heard of them, asked at their admin endpoints
//! through the API server.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use crate::check::part;
use crate::cluster::{Cluster, Fact, Unknown};
use crate::facts::HOME;
use crate::mesh::{age, is_ready, node_of};
use crate::output::count;

/// The admin port of proxies and controllers.
const ADMIN_PORT: u16 = 15000;
/// Proxies asked at a time.
const AT_A_TIME: usize = 16;

/// All that answered, by node, and why others did not.
#[derive(Debug, Default)]
pub(super) struct Views {
    by_node: BTreeMap<String, ProxyView>,
    acknowledged: BTreeMap<String, Acknowledged>,
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
    /// UIDs of the pods that are served, and the ports of each that are open to plaintext in a strict namespace.
    #[serde(skip)]
    serving: BTreeMap<String, BTreeSet<u16>>,
}

/// What the controller has heard of a node's proxy.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Acknowledged {
    /// The newest version that is wholly in force.
    #[serde(rename(serialize = "acknowledgedVersion"))]
    in_force: u64,
    /// The newest version that is on its way, or there.
    #[serde(rename(serialize = "sentVersion"))]
    sent: u64,
    /// When the proxy acknowledged something last.
    acknowledged: Option<Timestamp>,
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
#[serde(rename_all = "camelCase")]
struct Served {
    uid: String,
    plaintext_ports: Option<BTreeSet<u16>>,
}

impl Served {
    fn open(self) -> (String, BTreeSet<u16>) {
        (self.uid, self.plaintext_ports.unwrap_or_default())
    }
}

/// Asks every ready proxy, and the controller that leads.
pub(super) async fn ask(cluster: &Cluster, pods: &[Pod], lease: &Fact<Lease>) -> Views {
    use futures_util::StreamExt as _;
    let ready =
        part(pods, "weft-proxy").filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    let answers = futures_util::stream::iter(
        ready.map(|pod| async move { (node_of(pod).to_owned(), one(cluster, &pod.name_any()).await) }),
    );
    let mut views = Views::default();
    match leader(cluster, lease).await {
        Ok(acknowledged) => views.acknowledged = acknowledged,
        Err(error) => drop(views.problems.insert(format!("what the controller has heard of them: {error}"))),
    }
    let mut answers = answers.buffer_unordered(AT_A_TIME);
    while let Some((node, answer)) = answers.next().await {
        match answer {
            Ok(view) => drop(views.by_node.insert(node, view)),
            Err(error) => drop(views.problems.insert(error.to_string())),
        }
    }
    views
}

/// What the controller that leads has heard. The name in the Lease begins with its pod's.
async fn leader(cluster: &Cluster, lease: &Fact<Lease>) -> Fact<BTreeMap<String, Acknowledged>> {
    let lease = lease.as_ref().map_err(Clone::clone)?;
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    match holder.split_once('_') {
        Some((pod, _)) => cluster.of_pod(HOME, pod, ADMIN_PORT, "/nodes").await,
        None => Err(Unknown::Failed("no controller leads".to_owned())),
    }
}

async fn one(cluster: &Cluster, pod: &str) -> Fact<ProxyView> {
    let ask = |path| cluster.of_pod::<serde_json::Value>(HOME, pod, ADMIN_PORT, path);
    // No resource's name begins like this: the version alone is wanted.
    let (config, certificates, pods) =
        tokio::try_join!(ask("/config?-"), ask("/certificates"), ask("/pods"))?;
    let wrong = |error: serde_json::Error| {
        Unknown::Failed(format!("pod {pod} answers what this command cannot read: {error}"))
    };
    let config: Config = serde_json::from_value(config).map_err(wrong)?;
    let served: Vec<Served> = serde_json::from_value(pods).map_err(wrong)?;
    Ok(ProxyView {
        config_version: config.version,
        rejected: config.rejected.len(),
        certificates: serde_json::from_value(certificates).map_err(wrong)?,
        serving: served.into_iter().map(Served::open).collect(),
    })
}

impl Views {
    pub(super) fn of_node(&self, node: &str) -> Option<&ProxyView> {
        self.by_node.get(node)
    }

    /// What the controller has heard of a node's proxy.
    pub(super) fn acknowledged(&self, node: &str) -> Option<&Acknowledged> {
        self.acknowledged.get(node)
    }

    /// The ports of a pod that are open to plaintext.
    pub(super) fn open(&self, node: &str, uid: &str) -> Vec<u16> {
        let ports = self.of_node(node).and_then(|view| view.serving.get(uid));
        ports.into_iter().flatten().copied().collect()
    }

    #[cfg(test)]
    pub(super) fn with(node: &str, config: &str, certificates: &str, pods: &str, nodes: &str) -> Self {
        let config: Config = serde_json::from_str(config).unwrap();
        let served: Vec<Served> = serde_json::from_str(pods).unwrap();
        let view = ProxyView {
            config_version: config.version,
            rejected: config.rejected.len(),
            certificates: serde_json::from_str(certificates).unwrap(),
            serving: served.into_iter().map(Served::open).collect(),
        };
        let acknowledged = serde_json::from_str(nodes).unwrap();
        Self { by_node: [(node.to_owned(), view)].into(), acknowledged, problems: BTreeSet::new() }
    }
}

impl ProxyView {
    pub(super) fn serves(&self, uid: &str) -> bool {
        self.serving.contains_key(uid)
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

impl Acknowledged {
    /// `the newest, 4 s ago`, or `11 of 12, 4 s ago`.
    pub(super) fn text(&self, now: Timestamp) -> String {
        let version = match self.in_force == self.sent {
            true => "the newest".to_owned(),
            false => format!("{} of {}", self.in_force, self.sent),
        };
        match self.acknowledged {
            Some(at) => format!("{version}, {} ago", age(at, now)),
            None => "never".to_owned(),
        }
    }
}
