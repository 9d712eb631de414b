//! What one session with the agent has said and asked so far.

use std::collections::HashMap;

use tokio::sync::oneshot;
use weft_api::node::{CallerKind, Destinations, Standing, ToAgent};
use weft_model::Text;
use weft_model::workload::MtlsMode;

use super::link::Question;
use crate::state::Snapshot;

/// Questions under way, and what the agent knows of plaintext.
#[derive(Debug, Default)]
pub(super) struct Talk {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<CallerKind>>,
    said: HashMap<Text, Option<Vec<u16>>>,
    /// What is to be captured of pods of a namespace, as of a version of the configuration.
    captured: (u64, HashMap<Text, Destinations>),
    captured_of: HashMap<Text, Destinations>,
    stood: Option<Standing>,
}

impl Talk {
    /// The message that asks a question.
    pub(super) fn ask(&mut self, question: Question) -> ToAgent {
        // Who asked may have given up.
        self.waiting.retain(|_, waiting| !waiting.is_closed());
        self.next += 1;
        self.waiting.insert(self.next, question.answer);
        ToAgent::WhoCalls { id: self.next, from: question.from, to: question.to }
    }

    /// An answer came.
    pub(super) fn answered(&mut self, id: u64, caller: CallerKind) {
        if let Some(waiting) = self.waiting.remove(&id) {
            let _ = waiting.send(caller);
        }
    }

    /// What is to be captured of each of these pods of which that is news; by UID and namespace.
    pub(super) fn destinations<'a>(
        &mut self,
        pods: impl Iterator<Item = (&'a Text, &'a Text)>,
        snapshot: &Snapshot,
    ) -> Vec<ToAgent> {
        if !snapshot.is_configured() {
            return Vec::new();
        }
        if self.captured.0 != snapshot.version {
            self.captured = (snapshot.version, HashMap::new());
        }
        let mut messages = Vec::new();
        let mut said = HashMap::new();
        for (uid, namespace) in pods {
            let of_namespace = self.captured.1.entry(namespace.clone());
            let now = of_namespace.or_insert_with(|| captured(snapshot, namespace));
            let before = self.captured_of.remove(uid);
            if before.as_ref() != Some(now) {
                messages.push(ToAgent::Destinations { uid: uid.clone(), destinations: now.clone() });
            }
            said.insert(uid.clone(), now.clone());
        }
        self.captured_of = said;
        messages
    }

    /// Whether datagrams of any pod are to be captured.
    pub(super) fn wants_datagrams(&self) -> bool {
        let mut captured = self.captured_of.values();
        captured.any(|of| !(of.udp.is_empty() && of.udp_node_ports.is_empty()))
    }

    /// It has been said that this proxy drains.
    pub(super) fn is_draining(&self) -> bool {
        self.stood == Some(Standing::Draining)
    }

    /// What this proxy can do, if that is news.
    pub(super) fn standing(&mut self, now: Standing) -> Option<ToAgent> {
        let before = self.stood.replace(now);
        (before != Some(now)).then_some(ToAgent::Standing { standing: now })
    }

    /// Which ports admit callers in plaintext, for each of these pods of which that is news. Nothing is said of a pod
    /// that the configuration does not know.
    pub(super) fn plaintext<'a>(
        &mut self,
        pods: impl Iterator<Item = &'a Text>,
        snapshot: &Snapshot,
    ) -> Vec<ToAgent> {
        let mut messages = Vec::new();
        let mut said = HashMap::new();
        for uid in pods {
            let before = self.said.remove(uid);
            let now = snapshot.workload(uid).map(|workload| match workload.mtls {
                MtlsMode::Permissive => None,
                MtlsMode::Strict => Some(workload.plaintext_ports.iter().copied().collect()),
            });
            if now.is_some()
                && now != before
                && let Some(ports) = &now
            {
                messages.push(ToAgent::Plaintext { uid: uid.clone(), ports: ports.clone() });
            }
            said.extend(now.or(before).map(|ports: Option<Vec<u16>>| (uid.clone(), ports)));
        }
        self.said = said;
        messages
    }
}

fn captured(snapshot: &Snapshot, namespace: &str) -> Destinations {
    let (destinations, more) = snapshot.captured(namespace);
    if more > 0 {
        tracing::warn!(
            namespace,
            more,
            "too many Service addresses outside the cluster's ranges, node ports and routed UDP ports: the others are not captured"
        );
    }
    destinations
}
