//! The nodes' networks as a container runtime keeps them: who is attached, whether pods may start (STATUS), and from
//! time to time GC and CHECK.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell, RwLock, RwLockWriteGuard};

use super::super::{Kubelet, News, PodSpec};
use super::{Chain, Since, addresses};
use crate::config::{LabConfig, Node};
use crate::files::write_atomic;
use crate::report::NetworkCheck;

/// How long upkeep waits before it asks for its turn again.
const TURN: Duration = Duration::from_millis(100);

/// Every node's network.
pub(crate) struct Networks(BTreeMap<Node, Network>);

/// One node's.
struct Network {
    chain: Chain,
    /// The runtime's memory, by container id.
    attachments: Mutex<BTreeMap<String, Attachment>>,
    /// ADD and DEL read, GC and CHECK write: no GC beside ADD and DEL (spec 1.1, "GC"), and no two operations on one
    /// container.
    turn: RwLock<()>,
    /// The first GC, which comes before the first ADD.
    started: OnceCell<()>,
}

#[derive(Clone)]
struct Attachment {
    spec: Arc<PodSpec>,
    /// None while ADD is under way, and after one that failed.
    result: Option<Value>,
    /// The pod has ended, but DEL has not succeeded.
    stale: bool,
}

impl Networks {
    pub(crate) fn of(config: &LabConfig) -> Self {
        let network = |node| Network {
            chain: Chain::of(config, node),
            attachments: Mutex::default(),
            turn: RwLock::default(),
            started: OnceCell::new(),
        };
        Self(config.all_nodes().map(|node| (node, network(node))).collect())
    }

    fn get(&self, node: Node) -> Result<&Network> {
        self.0.get(&node).ok_or_else(|| anyhow!("there is no {}", node.name()))
    }

    /// STATUS, then ADD; the pod's addresses.
    pub(crate) async fn attach(&self, kubelet: &Kubelet, spec: &Arc<PodSpec>) -> Result<Vec<IpAddr>> {
        let network = self.get(spec.node)?;
        network.chain.status(kubelet).await.context("the node's network is not ready")?;
        network.started.get_or_init(|| network.gc(kubelet)).await;
        let _turn = network.turn.read().await;
        network.remember(&kubelet.config, spec, None, false).await;
        let result = network.chain.add(kubelet, spec).await?;
        network.remember(&kubelet.config, spec, Some(result.clone()), false).await;
        addresses(&result)
    }

    /// DEL. What fails is left to GC; the pod ends anyway.
    pub(crate) async fn detach(&self, kubelet: &Kubelet, spec: &Arc<PodSpec>) {
        let Ok(network) = self.get(spec.node) else { return };
        let _turn = network.turn.read().await;
        if let Err(error) = network.end(kubelet, spec).await {
            tracing::warn!(pod = %spec.name, error = format!("{error:#}"), "CNI DEL failed");
        }
    }

    /// GC and CHECK, again and again.
    pub(crate) async fn keep_up(&self, kubelet: &Kubelet) {
        loop {
            tokio::time::sleep(kubelet.config.cni.upkeep()).await;
            for network in self.0.values().filter(|n| n.started.initialized()) {
                network.gc(kubelet).await;
                network.check(kubelet).await;
            }
        }
    }
}

fn result_file(config: &LabConfig, spec: &PodSpec) -> PathBuf {
    config.state.node(spec.node).join("attachments").join(format!("{}.json", spec.uid))
}

impl Network {
    async fn remember(&self, config: &LabConfig, spec: &Arc<PodSpec>, result: Option<Value>, stale: bool) {
        if let Some(result) = &result {
            // For whoever wants to know what the plugins said.
            let _ = write_atomic(&result_file(config, spec), result.to_string().as_bytes());
        }
        let attachment = Attachment { spec: Arc::clone(spec), result, stale };
        self.attachments.lock().await.insert(spec.uid.clone(), attachment);
    }

    async fn end(&self, kubelet: &Kubelet, spec: &Arc<PodSpec>) -> Result<()> {
        let known = self.attachments.lock().await.get(&spec.uid).cloned();
        let Some(known) = known else { return Ok(()) };
        let outcome = self.chain.del(kubelet, spec, known.result.as_ref()).await;
        if outcome.is_ok() {
            self.attachments.lock().await.remove(&spec.uid);
            let _ = std::fs::remove_file(result_file(&kubelet.config, spec));
        } else {
            self.remember(&kubelet.config, spec, known.result, true).await;
        }
        outcome
    }

    /// The lock for upkeep. It does not queue: a writer that waits for a slow ADD would hold up all other pods.
    async fn turn(&self) -> RwLockWriteGuard<'_, ()> {
        loop {
            match self.turn.try_write() {
                Ok(turn) => return turn,
                Err(_) => tokio::time::sleep(TURN).await,
            }
        }
    }

    /// DEL for what is stale, then GC with what is valid.
    async fn gc(&self, kubelet: &Kubelet) {
        let _turn = self.turn().await;
        let (stale, valid): (Vec<_>, Vec<_>) =
            self.attachments.lock().await.values().cloned().partition(|a| a.stale);
        for attachment in stale {
            if let Err(error) = self.end(kubelet, &attachment.spec).await {
                tracing::warn!(pod = %attachment.spec.name, error = format!("{error:#}"), "CNI DEL failed again");
            }
        }
        let valid: Vec<String> = valid.iter().map(|a| a.spec.uid.clone()).collect();
        if let Err(error) = self.chain.gc(kubelet, &valid).await {
            tracing::warn!(error = format!("{error:#}"), "CNI GC failed");
        }
    }

    /// CHECK for every pod; the outcome is in the pod's report.
    async fn check(&self, kubelet: &Kubelet) {
        if !self.chain.knows(Since::V0_4_0) {
            return;
        }
        let all: Vec<Attachment> = self.attachments.lock().await.values().cloned().collect();
        for Attachment { spec, .. } in all {
            let _turn = self.turn().await;
            // It may have ended meanwhile.
            let known = self.attachments.lock().await.get(&spec.uid).cloned();
            let Some(result) = known.filter(|a| !a.stale).and_then(|a| a.result) else { continue };
            let outcome = match self.chain.check(kubelet, &spec, &result).await {
                Ok(()) => NetworkCheck::Passed,
                Err(error) => NetworkCheck::Failed(format!("{error:#}")),
            };
            kubelet.tell(&spec.uid, News::Network(outcome));
        }
    }
}
