//! What one session with the agent has said and asked so far.

use std::collections::HashMap;

use tokio::sync::oneshot;
use weft_api::node::{CallerKind, ToAgent};
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
