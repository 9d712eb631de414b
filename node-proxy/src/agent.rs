//! The client of the agent's socket: takes pods over with their listeners, gives them up again, and tries for ever to
//! be connected. What it holds outlives the connection, so that either side may restart.

mod held;
pub mod link;
mod may;
mod refusals;
mod talk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_api::node::{PROTOCOL_VERSION, RemoveCause, Standing, ToAgent, ToProxy};
use weft_model::Text;
use weft_runtime::backoff::Backoff;
use weft_runtime::fd::SeqPacket;

use self::held::Held;
use self::link::Question;
use self::talk::Talk;
use crate::served::Report;
use crate::worker::{Crew, Shared};

/// How soon sockets for datagrams that could not be opened are tried again: the proxy before this one may have them.
const DATAGRAMS: Duration = Duration::from_secs(1);
/// How long a session must have lasted for the next failure to count as the first.
const STABLE: Duration = Duration::from_secs(10);
/// How often it is looked whether a pod that is no longer served has connections left.
const PARTING: Duration = Duration::from_secs(1);

/// The longest pause between two attempts to reach the agent. An agent that has restarted resets what waits for a proxy
/// after its `hold`, which is 5 s by default, and connecting costs nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The client and the pods it holds.
pub struct Agent {
    shared: Arc<Shared>,
    crew: Arc<Crew>,
    held: HashMap<Text, Held>,
    /// What the agent said last of pods that cannot be enrolled.
    unserved: BTreeMap<Text, String>,
    /// The home worker of the next pod.
    next_home: usize,
    /// All pods the agent enrolled have been seen since the start.
    synced: Arc<AtomicBool>,
    /// What workers ask.
    questions: mpsc::Receiver<Question>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// The agent closed the connection.
    #[error("the agent closed the connection")]
    Closed,
    /// A message that cannot be read.
    #[error("a message of the agent cannot be read: {0}")]
    Message(#[from] serde_json::Error),
    /// The agent speaks another version.
    #[error(
        "the agent speaks version {0} of the protocol, this proxy {PROTOCOL_VERSION}: install one release of both"
    )]
    Version(u32),
    /// The agent is another node's.
    #[error("the agent serves node {0}, this proxy was told another: check --node")]
    Node(Text),
}

impl Agent {
    /// A client that holds nothing yet.
    pub fn new(shared: Arc<Shared>, crew: Arc<Crew>) -> Self {
        let synced = Arc::default();
        // Only the first client of a process has anybody to answer.
        let questions = shared.agent.take_questions().unwrap_or_else(|| mpsc::channel(1).1);
        let (held, unserved) = (HashMap::new(), BTreeMap::new());
        Self { shared, crew, held, unserved, next_home: 0, synced, questions }
    }

    /// Becomes true with the agent's first whole list of pods.
    pub fn synced(&self) -> Arc<AtomicBool> {
        self.synced.clone()
    }

    /// Connects and serves the agent for ever.
    pub async fn run(mut self) {
        let path = self.shared.config.agent_socket.clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_PAUSE);
        loop {
            let begun = Instant::now();
            let result = match SeqPacket::connect(&path) {
                Ok(socket) => self.serve(&socket).await,
                Err(error) => Err(error.into()),
            };
            if begun.elapsed() > STABLE {
                backoff.reset();
            }
            if self.shared.ends.draining.is_cancelled() {
                // A new agent has nothing for it.
                return std::future::pending().await;
            }
            if let Err(error) = result {
                let delay = backoff.next_delay();
                tracing::warn!(socket = %path.display(), %error, ?delay, "no agent; trying again");
                tokio::time::sleep(delay).await;
            }
        }
    }

    /// One session.
    ///
    /// # Errors
    /// Always ends with the reason why it could not go on.
    pub async fn serve(&mut self, socket: &SeqPacket) -> Result<(), AgentError> {
        if let Err(error) = self.greet(socket).await {
            // An agent of another version says so and closes, perhaps in the middle of our greeting.
            return Err(refused_greeting(socket).await.unwrap_or(error));
        }
        // Removals take their time; their acks come through here.
        let (acks, mut finished) = mpsc::unbounded_channel();
        let mut configurations = self.shared.snapshot.changes();
        let mut talk = Talk::default();
        loop {
            let wake = self.tell(socket, &mut talk).await?.into_iter().chain(self.report()).min();
            tokio::select! {
                ack = finished.recv() => if let Some(ack) = ack { send(socket, &ack, &[]).await? },
                message = socket.receive() => {
                    let (bytes, descriptors) = message?.ok_or(AgentError::Closed)?;
                    self.take(serde_json::from_slice(&bytes)?, descriptors, &acks, &mut talk)?;
                }
                Some(question) = self.questions.recv() => send(socket, &talk.ask(question), &[]).await?,
                _ = configurations.changed() => {}
                () = self.shared.agent.somebody_refused() => {}
                () = self.shared.ends.draining.cancelled(), if !talk.is_draining() => {}
                () = until(wake) => {}
            }
        }
    }

    /// Opens the sockets for datagrams of pods that may need them, where they are not open. Returns when to try again.
    fn serve_datagrams(&mut self) -> Option<Instant> {
        let mut again = None;
        for held in self.held.values_mut() {
            match held.datagrams() {
                Ok(sockets) => {
                    for socket in sockets {
                        self.crew.serve_captured(self.next_home, socket);
                    }
                }
                Err(error) => {
                    let pod = &held.pod.enrolled.pod;
                    tracing::warn!(%pod, %error, "no socket for datagrams; those with a route are dropped until there is one");
                    again = Some(Instant::now() + DATAGRAMS);
                }
            }
        }
        again
    }

    /// Says what is news: what this proxy can do, which ports admit callers in plaintext, and who was refused. Returns when
    /// it is time again.
    async fn tell(&mut self, socket: &SeqPacket, talk: &mut Talk) -> Result<Option<Instant>, AgentError> {
        let snapshot = self.shared.snapshot.load_full();
        let plaintext = talk.plaintext(self.held.keys(), &snapshot);
        let pods = self.held.iter().map(|(uid, held)| (uid, &held.pod.enrolled.pod.namespace));
        let destinations = talk.destinations(pods, &snapshot);
        // Before the rules that lead there.
        let again = if talk.wants_datagrams() { self.serve_datagrams() } else { None };
        let (refusals, wake) = self.shared.agent.refusals_due(Instant::now());
        let standing = talk.standing(self.standing());
        for message in standing.into_iter().chain(plaintext).chain(destinations).chain(refusals) {
            send(socket, &message, &[]).await?;
        }
        Ok(wake.into_iter().chain(again).min())
    }

    fn standing(&self) -> Standing {
        if self.shared.ends.draining.is_cancelled() {
            Standing::Draining
        } else if self.shared.snapshot.load().is_configured() {
            Standing::Ready
        } else {
            Standing::Starting
        }
    }

    async fn greet(&self, socket: &SeqPacket) -> Result<(), AgentError> {
        send(socket, &ToAgent::Hello { version: PROTOCOL_VERSION, may_be_succeeded: true }, &[]).await?;
        for held in self.held.values() {
            let descriptors = held.descriptors()?;
            let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
            send(socket, &ToAgent::Held { pod: held.pod.enrolled.clone() }, &borrowed).await?;
        }
        send(socket, &ToAgent::HeldEnd, &[]).await
    }

    fn take(
        &mut self,
        message: ToProxy,
        descriptors: Vec<OwnedFd>,
        acks: &mpsc::UnboundedSender<ToAgent>,
        talk: &mut Talk,
    ) -> Result<(), AgentError> {
        match message {
            ToProxy::Hello { version, .. } if version != PROTOCOL_VERSION => {
                return Err(AgentError::Version(version));
            }
            ToProxy::Hello { node, .. } if *node != *self.shared.config.node => {
                return Err(AgentError::Node(node));
            }
            ToProxy::Hello { .. } => {
                self.unserved.clear();
                tracing::info!(pods = self.held.len(), "connected to the agent");
            }
            ToProxy::SnapshotEnd => {
                tracing::info!(pods = self.held.len(), "the agent has sent every pod");
                self.synced.store(true, Ordering::Relaxed);
            }
            ToProxy::Add { id, pod } => {
                let name = pod.pod.clone();
                let error = self.add(pod, descriptors).err().map(|error| error.to_string());
                match &error {
                    None => tracing::info!(pod = %name, "serving"),
                    Some(error) => tracing::warn!(pod = %name, %error, "cannot serve"),
                }
                let _ = acks.send(ToAgent::Ack { id, error });
            }
            ToProxy::Remove { id, uid, cause } => {
                let removal = self.remove(&uid, cause);
                let acks = acks.clone();
                tokio::spawn(async move {
                    let error = removal.await.err();
                    let _ = acks.send(ToAgent::Ack { id, error });
                });
            }
            ToProxy::NodeAddresses { addresses } => self.shared.agent.set_addresses(addresses),
            ToProxy::Caller { id, caller } => talk.answered(id, caller),
            ToProxy::May { id, uid, intent } => {
                let error = may::may(&self.shared, &uid, intent).err();
                let _ = acks.send(ToAgent::Ack { id, error });
            }
            ToProxy::Unserved { pods } => self.unserved = pods,
            ToProxy::Succeeded => {
                tracing::info!("another proxy serves the node's pods from now on");
                self.shared.ends.succeeded.cancel();
            }
        }
        Ok(())
    }

    /// Tells the controller what is served, once that is known. Returns when to look again.
    fn report(&self) -> Option<Instant> {
        let served = self.held.keys().cloned().collect();
        let pods = self.shared.pods.load();
        let parting: BTreeSet<_> = pods.parting().map(|pod| pod.enrolled.uid.clone()).collect();
        let again = (!parting.is_empty()).then(|| Instant::now() + PARTING);
        let report = Report { served, parting, unserved: self.unserved.clone() };
        if self.synced.load(Ordering::Relaxed) && self.shared.served.report(report) {
            self.shared.certificates.pods_changed();
        }
        again
    }

    fn add(&mut self, pod: weft_api::node::EnrolledPod, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let received = held::Received::new(pod, descriptors)?;
        if self.held.get(&received.enrolled.uid).is_some_and(|held| held.is_same(&received)) {
            return Ok(());
        }
        let (held, listeners) = received.into_pod(&self.shared)?;
        for listener in listeners {
            self.crew.accept(self.next_home, listener);
        }
        self.next_home = self.next_home.wrapping_add(1);
        self.shared.pods.rcu(|pods| pods.with(held.pod.clone()));
        self.shared.certificates.pods_changed();
        if let Some(before) = self.held.insert(held.pod.enrolled.uid.clone(), held) {
            // Its connections go on; they know the namespace by a descriptor of their own.
            before.pod.scope.accepting.cancel();
        }
        Ok(())
    }

    /// Takes the pod out of service at once; the future completes when its sockets are closed.
    fn remove(&mut self, uid: &str, cause: RemoveCause) -> impl Future<Output = Result<(), String>> + use<> {
        let held = self.held.remove(uid);
        if let Some(held) = &held {
            tracing::info!(pod = %held.pod.enrolled.pod, ?cause, "no longer serving");
            held.pod.scope.accepting.cancel();
            self.shared.pods.rcu(|pods| pods.without(uid));
            self.shared.certificates.pods_changed();
        }
        let mut ending = Vec::new();
        match cause {
            RemoveCause::Unenrolled => {
                // What is in use ends well; idle tunnels would hold the pod's rules for as long as they are kept.
                held.iter().for_each(|held| held.pod.scope.release());
            }
            RemoveCause::PodEnd => {
                // The one that was held is among them by now.
                let pods = self.shared.pods.load();
                ending.extend(pods.retired().filter(|pod| *pod.enrolled.uid == *uid));
            }
        }
        async move {
            if let Some(held) = held {
                held.listeners_closed().await;
            }
            held::end(ending).await
        }
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("held", &self.held.keys()).finish_non_exhaustive()
    }
}

/// Whether an agent that has closed already spoke another version.
async fn refused_greeting(socket: &SeqPacket) -> Option<AgentError> {
    // The first read may bring the broken connection, and only the next one what was said before.
    for _ in 0..2 {
        if let Ok(Some((bytes, _))) = socket.receive().await {
            return match serde_json::from_slice(&bytes) {
                Ok(ToProxy::Hello { version, .. }) if version != PROTOCOL_VERSION => {
                    Some(AgentError::Version(version))
                }
                _ => None,
            };
        }
    }
    None
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn send(
    socket: &SeqPacket,
    message: &ToAgent,
    descriptors: &[std::os::fd::BorrowedFd<'_>],
) -> Result<(), AgentError> {
    Ok(socket.send(&serde_json::to_vec(message)?, descriptors).await?)
}

#[cfg(test)]
mod tests;
