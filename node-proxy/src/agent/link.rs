//! What workers ask and tell the node's agent. The client takes it from here while it is connected.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use weft_api::node::{CallerKind, ToAgent};
use weft_model::Text;

use super::refusals::Refusals;

/// How long an answer is waited for. The kubelet's own default for a probe is as long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Questions that may wait at a time.
const WAITING: usize = 256;

/// The workers' side.
#[derive(Debug)]
pub struct AgentLink {
    addresses: ArcSwap<Vec<IpAddr>>,
    questions: mpsc::Sender<Question>,
    /// The client's end of `questions`, until it takes it.
    asked: Mutex<Option<mpsc::Receiver<Question>>>,
    refusals: Mutex<Refusals>,
    refused: Notify,
}

/// Who has the socket that a connection comes from?
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) answer: oneshot::Sender<CallerKind>,
}

impl Default for AgentLink {
    fn default() -> Self {
        let (questions, asked) = mpsc::channel(WAITING);
        Self {
            addresses: ArcSwap::default(),
            questions,
            asked: Mutex::new(Some(asked)),
            refusals: Mutex::default(),
            refused: Notify::new(),
        }
    }
}

impl AgentLink {
    /// Is this one of the node's own addresses? None is before the agent has told them.
    pub fn is_of_node(&self, address: IpAddr) -> bool {
        self.addresses.load().contains(&address.to_canonical())
    }

    /// Asks who calls. `None`: the agent did not answer in time.
    pub async fn who_calls(&self, from: SocketAddr, to: SocketAddr) -> Option<CallerKind> {
        let (answer, answered) = oneshot::channel();
        self.questions.try_send(Question { from, to, answer }).ok()?;
        tokio::time::timeout(PATIENCE, answered).await.ok()?.ok()
    }

    /// Says that a caller in plaintext was refused.
    pub fn refused(&self, uid: &Text, port: u16, from: SocketAddr) {
        self.refusals.lock().note(uid, port, from);
        self.refused.notify_one();
    }

    pub(crate) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.addresses.store(addresses.into());
    }

    pub(crate) fn take_questions(&self) -> Option<mpsc::Receiver<Question>> {
        self.asked.lock().take()
    }

    /// What there is to be said of refusals as of `now`, and when to ask again although nothing new happens.
    pub(crate) fn refusals_due(&self, now: Instant) -> (Vec<ToAgent>, Option<Instant>) {
        let mut refusals = self.refusals.lock();
        (refusals.due(now), refusals.next_due())
    }

    /// Completes when somebody was refused since the last time.
    pub(crate) async fn somebody_refused(&self) {
        self.refused.notified().await;
    }
}
