//! What nodes' proxies have taken in and what they serve: for the admin endpoint, and for enrolment.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use weft_api::proto;
use weft_model::{ObjectName, Text};

use crate::enrolment::NodeView;
use crate::publish::Peer;

/// The longest reason that is kept of one pod, in bytes.
const LONGEST_WHY: usize = 1024;

/// The progress of every node's and every Gateway's proxies, and word of changes.
#[derive(Debug, Default)]
pub struct Progress {
    peers: Mutex<BTreeMap<Peer, Node>>,
    changes: watch::Sender<Changes>,
}

/// How much has been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Reports of served pods that differed from the one before, and streams that ended.
    pub reports: u64,
    /// Versions that came into force in a proxy.
    pub acks: u64,
}

/// What a node's proxy has taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeProgress {
    /// How many streams the node has open: one, or two while a proxy replaces another.
    pub streams: usize,
    /// The newest version that is wholly in force in all of them.
    pub in_force: u64,
    /// The newest version that is on its way to any of them, or there.
    pub sent: u64,
    /// When one of them acknowledged something last.
    pub acknowledged: Option<Timestamp>,
    /// Resources that the proxy could not decode and refuses for, with its words.
    pub rejections: BTreeMap<String, String>,
    /// UIDs of the pods that are served; `None`: not reported yet.
    pub served: Option<BTreeSet<Text>>,
    /// UIDs of pods that are no longer served while connections of theirs go on.
    pub parting: BTreeSet<Text>,
    /// Pods that are to be served and are not, with the reason.
    pub unserved: BTreeMap<Text, String>,
}

/// What a Gateway's proxies have taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayProgress {
    /// How many streams its proxies have open.
    pub streams: usize,
    /// The newest version that is wholly in force in all of them that have any in force: one that has just come up
    /// takes nothing away from what the others serve. 0: none has been heard of.
    pub in_force: u64,
    /// What proxies cannot serve, with their words.
    pub rejections: BTreeMap<String, String>,
}

/// A node or a Gateway, by its streams; what the last one said stays when it is gone.
#[derive(Debug, Default)]
struct Node {
    next: u64,
    streams: BTreeMap<u64, Said>,
    last: Said,
}

/// What one stream said.
#[derive(Clone, Debug, Default)]
struct Said {
    in_force: u64,
    sent: u64,
    acknowledged: Option<Timestamp>,
    rejections: BTreeMap<String, String>,
    report: Option<Report>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    served: BTreeSet<Text>,
    parting: BTreeSet<Text>,
    unserved: BTreeMap<Text, String>,
}

/// One stream's place; given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    progress: std::sync::Arc<Progress>,
    peer: Peer,
    number: u64,
}

impl Progress {
    /// A copy for showing.
    pub fn by_node(&self) -> BTreeMap<Text, NodeProgress> {
        let peers = self.peers.lock();
        peers.iter().filter_map(|(peer, node)| Some((peer.node()?.clone(), node.shown()))).collect()
    }

    /// What enrolment is judged by.
    pub fn views(&self) -> BTreeMap<Text, NodeView> {
        let view = |node: &Node| {
            let NodeProgress { in_force, served, parting, unserved, .. } = node.shown();
            NodeView { served, parting, unserved, in_force }
        };
        let peers = self.peers.lock();
        peers.iter().filter_map(|(peer, node)| Some((peer.node()?.clone(), view(node)))).collect()
    }

    /// What every Gateway's proxies have taken in.
    pub fn by_gateway(&self) -> BTreeMap<ObjectName, GatewayProgress> {
        let peers = self.peers.lock();
        let of = |(peer, node): (&Peer, &Node)| match peer {
            Peer::Gateway(gateway) => Some((gateway.clone(), node.as_gateway())),
            Peer::Node(_) => None,
        };
        peers.iter().filter_map(of).collect()
    }

    /// Told of every acknowledgement and report.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }

    /// Forgets nodes whose proxies are gone and that no pod is bound to any more.
    pub fn retain(&self, has_pods: impl Fn(&str) -> bool) {
        self.peers
            .lock()
            .retain(|peer, node| !node.streams.is_empty() || peer.node().is_none_or(|it| has_pods(it)));
    }

    /// Begins anew with the nodes' streams that there are: what was said before may be long past.
    pub fn forget(&self) {
        self.peers.lock().retain(|peer, node| {
            let is_node = peer.node().is_some();
            if is_node {
                node.last = Said::default();
            }
            !is_node || !node.streams.is_empty()
        });
    }

    /// A stream begins.
    pub(crate) fn open(self: &std::sync::Arc<Self>, peer: Peer) -> Place {
        let mut peers = self.peers.lock();
        let known = peers.entry(peer.clone()).or_default();
        let number = known.next;
        known.next += 1;
        known.streams.insert(number, Said::default());
        drop(peers);
        Place { progress: self.clone(), peer, number }
    }

    fn reported(&self) {
        self.changes.send_modify(|changes| changes.reports = changes.reports.wrapping_add(1));
    }

    fn acked(&self) {
        self.changes.send_modify(|changes| changes.acks = changes.acks.wrapping_add(1));
    }
}

impl Node {
    fn as_gateway(&self) -> GatewayProgress {
        let said = || self.streams.values();
        let serving = said().map(|said| said.in_force).filter(|version| *version != 0);
        GatewayProgress {
            streams: self.streams.len(),
            in_force: serving.min().unwrap_or(self.last.in_force),
            rejections: said().flat_map(|said| said.rejections.clone()).collect(),
        }
    }

    fn shown(&self) -> NodeProgress {
        let said = || self.streams.values();
        let last = &self.last;
        let in_force = said().map(|said| said.in_force).min().unwrap_or(last.in_force);
        let mut reports: Vec<&Report> = said().filter_map(|said| said.report.as_ref()).collect();
        if reports.is_empty() {
            reports.extend(&last.report);
        }
        let served = reports.iter().flat_map(|report| report.served.iter().cloned()).collect();
        let unserved: BTreeMap<_, _> = reports.iter().flat_map(|report| report.unserved.clone()).collect();
        NodeProgress {
            streams: self.streams.len(),
            in_force,
            sent: said().map(|said| said.sent).max().unwrap_or(last.sent),
            acknowledged: said().map(|said| said.acknowledged).max().unwrap_or(last.acknowledged),
            rejections: said().flat_map(|said| said.rejections.clone()).collect(),
            unserved,
            parting: reports.iter().flat_map(|report| report.parting.iter().cloned()).collect(),
            served: (!reports.is_empty()).then_some(served),
        }
    }
}

impl Place {
    /// A version is wholly in force.
    pub(crate) fn in_force(&self, version: u64) {
        let changed = self.update(|said| std::mem::replace(&mut said.in_force, version) != version);
        if changed == Some(true) {
            self.progress.acked();
        }
    }

    /// A version is on its way.
    pub(super) fn sent(&self, version: u64) {
        self.update(|said| said.sent = version);
    }

    /// The proxy acknowledged something.
    pub(super) fn acknowledged(&self, now: Timestamp) {
        self.update(|said| said.acknowledged = Some(now));
    }

    /// What the proxy refuses for; returns whether that is news.
    pub(super) fn rejects(&self, rejections: &BTreeMap<String, String>) -> bool {
        let changed = self.update(|said| {
            let changed = said.rejections != *rejections;
            said.rejections.clone_from(rejections);
            changed
        });
        if changed == Some(true) {
            self.progress.acked();
        }
        changed == Some(true)
    }

    /// What the proxy serves.
    pub(super) fn serves(&self, served: proto::Served) {
        let unserved = served.unserved.into_iter().map(|one| (one.pod_uid.into(), shortened(one.why)));
        let report = Report {
            unserved: unserved.collect(),
            served: served.pod_uids.into_iter().map(Text::from).collect(),
            parting: served.parting_pod_uids.into_iter().map(Text::from).collect(),
        };
        let changed = self.update(|said| {
            let changed = said.report.as_ref() != Some(&report);
            said.report = Some(report);
            changed
        });
        if changed == Some(true) {
            self.progress.reported();
        }
    }

    fn update<T>(&self, change: impl FnOnce(&mut Said) -> T) -> Option<T> {
        let mut peers = self.progress.peers.lock();
        peers.get_mut(&self.peer)?.streams.get_mut(&self.number).map(change)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.progress.peers.lock();
        if let Some(node) = peers.get_mut(&self.peer)
            && let Some(said) = node.streams.remove(&self.number)
        {
            let report = said.report.clone().or_else(|| node.last.report.take());
            // What was in force in a proxy stays in force there, or the proxy is gone and serves nobody.
            node.last = Said { report, ..said };
        }
        drop(peers);
        self.progress.reported();
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST_WHY {
        let end = (0..=LONGEST_WHY).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn serves(uids: &[&str]) -> proto::Served {
        proto::Served { pod_uids: uids.iter().map(ToString::to_string).collect(), ..proto::Served::default() }
    }

    #[test]
    fn what_a_node_said_stays_when_its_stream_is_gone_and_until_the_next_says_more() {
        let progress = Arc::new(Progress::default());
        let shown = || progress.by_node()["n"].clone();
        let first = progress.open(Peer::Node("n".into()));
        assert_eq!(shown().served, None);
        first.in_force(7);
        first.serves(serves(&["a"]));
        drop(first);
        assert_eq!((shown().streams, shown().in_force), (0, 7));
        assert!(shown().served.unwrap().contains("a"));
        let second = progress.open(Peer::Node("n".into()));
        assert_eq!(shown().in_force, 0, "what is in force in a new process has to be heard");
        assert!(shown().served.unwrap().contains("a"));
        second.serves(serves(&["b"]));
        assert_eq!(shown().served.unwrap(), BTreeSet::from(["b".into()]));
    }

    #[test]
    fn of_two_proxies_the_slower_one_counts_and_both_serve() {
        let progress = Arc::new(Progress::default());
        let (old, new) = (progress.open(Peer::Node("n".into())), progress.open(Peer::Node("n".into())));
        old.in_force(3);
        new.in_force(9);
        old.serves(serves(&["a"]));
        new.serves(serves(&["b"]));
        let shown = progress.by_node()["n"].clone();
        assert_eq!((shown.in_force, shown.served.unwrap().len()), (3, 2));
    }
}
