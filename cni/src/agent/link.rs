//! The connection to the proxy: numbered requests with descriptors, and their answers.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use weft_api::node::{EnrolledPod, Intent, RemoveCause, ToProxy};
use weft_model::Text;
use weft_runtime::fd::SeqPacket;

/// A request to the proxy was not confirmed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// It refused.
    #[error("the proxy refused the pod: {0}")]
    Refused(String),
    /// It said nothing in time.
    #[error("the proxy did not confirm within {0:?}")]
    Late(Duration),
    /// It is gone.
    #[error("the connection to the proxy ended")]
    Gone,
    /// Sending failed.
    #[error("sending to the proxy: {0}")]
    Send(#[from] io::Error),
}

impl LinkError {
    /// In words for a status: a refusal in the proxy's own.
    pub(super) fn told(self) -> String {
        match self {
            Self::Refused(why) => why,
            other => other.to_string(),
        }
    }
}

/// The proxy that is connected now.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) packets: SeqPacket,
    next: AtomicU64,
    /// `None` once the connection has ended.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Option<String>>>>>,
    may_be_succeeded: AtomicBool,
}

impl Link {
    pub(super) fn new(packets: SeqPacket) -> Self {
        let pending = Mutex::new(Some(HashMap::new()));
        Self { packets, next: AtomicU64::new(1), pending, may_be_succeeded: AtomicBool::new(false) }
    }

    /// Whether the proxy understands that another has taken its place.
    pub(super) fn set_may_be_succeeded(&self, may: bool) {
        self.may_be_succeeded.store(may, Ordering::Relaxed);
    }

    /// Another proxy has taken this one's place.
    pub(super) async fn succeeded(&self) -> io::Result<()> {
        if self.may_be_succeeded.load(Ordering::Relaxed) {
            self.say(&ToProxy::Succeeded, &[]).await?;
        }
        Ok(())
    }

    /// Has the proxy serve a pod. Doing so again is no error.
    pub(super) async fn add(
        &self,
        pod: EnrolledPod,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), LinkError> {
        self.ask(|id| ToProxy::Add { id, pod }, descriptors, limit).await
    }

    /// Has the proxy close what it has of a pod.
    pub(super) async fn remove(
        &self,
        uid: Text,
        cause: RemoveCause,
        limit: Duration,
    ) -> Result<(), LinkError> {
        self.ask(|id| ToProxy::Remove { id, uid, cause }, &[], limit).await
    }

    /// Whether something may be done with a running pod now; refused: what is still missing.
    pub(super) async fn may(&self, uid: Text, intent: Intent, limit: Duration) -> Result<(), LinkError> {
        self.ask(|id| ToProxy::May { id, uid, intent }, &[], limit).await
    }

    async fn ask(
        &self,
        message: impl FnOnce(u64) -> ToProxy,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), LinkError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        match self.pending.lock().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(LinkError::Gone),
        };
        let exchange = async {
            self.say(&message(id), descriptors).await?;
            match answer.await {
                Ok(None) => Ok(()),
                Ok(Some(problem)) => Err(LinkError::Refused(problem)),
                Err(_) => Err(LinkError::Gone),
            }
        };
        let result = tokio::time::timeout(limit, exchange).await;
        if let Some(pending) = self.pending.lock().as_mut() {
            pending.remove(&id);
        }
        result.unwrap_or(Err(LinkError::Late(limit)))
    }

    /// Sends a message that is not answered.
    pub(super) async fn say(&self, message: &ToProxy, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.packets.send(&serde_json::to_vec(message)?, descriptors).await
    }

    /// An answer arrived.
    pub(super) fn answered(&self, id: u64, problem: Option<String>) {
        let waiting = self.pending.lock().as_mut().and_then(|pending| pending.remove(&id));
        match waiting {
            // The one who asked may have given up.
            Some(waiting) => drop(waiting.send(problem)),
            None => tracing::debug!(id, "the proxy answered a request that nobody waits for"),
        }
    }

    /// The connection ended: nobody waits for answers any longer.
    pub(super) fn end(&self) {
        self.pending.lock().take();
    }
}
