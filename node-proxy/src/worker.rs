//! The workers: N single-threaded runtimes that carry traffic. What one worker uses alone is in [`Worker`]
//! (no locks); what all share is in [`Shared`] (immutable snapshots and counters).

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::link::AgentLink;
use crate::certificates::Certificates;
use crate::config::Config;
use crate::gateway::{self, udp::DatagramPort};
use crate::listen::{self, Handed, PodListener};
use crate::memory::Memory;
use crate::outbound::balance::Balancer;
use crate::outbound::filter::mirror::Turns;
use crate::outbound::resilience::budget::RetryBudget;
use crate::outbound::udp::captured::{self, PodSocket};
use crate::pod::LocalPods;
use crate::scope::Ends;
use crate::send::Pools;
use crate::served::Served;
use crate::state::State;
use crate::telemetry::Telemetry;
use crate::tunnel::dial::Deadlines;
use crate::tunnel::proofs::Proofs;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The process's configuration.
    pub config: Config,
    /// What the controller published last.
    pub snapshot: State,
    /// The pods served here.
    pub pods: Arc<ArcSwap<LocalPods>>,
    /// Certificates of their identities, and the trust bundle.
    pub certificates: Certificates,
    /// What peers have shown of themselves last.
    pub(crate) proofs: Proofs,
    /// Counters and the access log.
    pub telemetry: Telemetry,
    /// What is asked and told of the node's agent.
    pub agent: AgentLink,
    /// What the controller is told of the pods served here.
    pub served: Served,
    /// How many retries the node may make.
    pub retries: RetryBudget,
    /// Whether there is memory for new work.
    pub memory: Memory,
    /// How the process ends.
    pub ends: Ends,
}

impl Shared {
    /// Another proxy serves the same pods while this one drains: it makes half as many retries, and lets idle
    /// connections go of pods that have more than half of theirs open. Its pools keep nothing by now.
    pub(crate) fn halve_budgets(&self) {
        self.retries.halve();
        let pods = self.pods.load();
        let carried = pods.iter().cloned().chain(pods.retired());
        carried.for_each(|pod| pod.scope.halve(self.config.max_connections_per_pod));
    }
}

/// What one worker uses alone. Cloned as `Rc<Worker>` into every task of its runtime.
#[derive(Debug)]
pub struct Worker {
    /// 0 to N-1.
    pub index: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Pooled connections to peers and applications.
    pub pools: Pools,
    /// What it knows of the endpoints it called.
    pub balancer: Balancer,
    /// Whose turn it is to be mirrored.
    pub mirrors: Turns,
}

/// How every task of a worker holds it.
pub type WorkerRef = Rc<Worker>;

impl Worker {
    /// A worker that has carried nothing yet.
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        Self {
            index,
            pools: Pools::new(Deadlines::connecting_within(shared.config.connect_timeout)),
            shared,
            balancer: Balancer::default(),
            mirrors: Turns::default(),
        }
    }
}

/// What a worker is told.
pub(crate) enum ToWorker {
    /// Accept on this listener from now on.
    Accept(PodListener),
    /// Serve a pod's captured datagrams.
    Captured(PodSocket),
    /// Carry this connection.
    Carry(Handed),
    /// Serve this UDP port.
    Datagrams(DatagramPort),
}

/// All workers, as those who hand them work see them.
#[derive(Debug)]
pub struct Crew {
    members: Vec<Member>,
    /// Ends the threads.
    stop: CancellationToken,
}

#[derive(Debug)]
struct Member {
    inbox: mpsc::UnboundedSender<ToWorker>,
    connections: Arc<AtomicUsize>,
}

/// A connection's place in its worker's load; given back on drop.
#[derive(Debug)]
pub(crate) struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crew {
    /// Starts as many threads as the configuration says.
    ///
    /// # Errors
    /// When the system gives no thread, or no descriptors for its event queue.
    pub fn start(shared: &Arc<Shared>) -> io::Result<(Arc<Self>, Vec<std::thread::JoinHandle<()>>)> {
        let stop = CancellationToken::new();
        let (mut members, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..shared.config.worker_count() {
            let (inbox, messages) = mpsc::unbounded_channel();
            members.push(Member { inbox, connections: Arc::default() });
            inboxes.push(messages);
        }
        let crew = Arc::new(Self { members, stop });
        let mut threads = Vec::new();
        for (index, messages) in inboxes.into_iter().enumerate() {
            let (shared, crew) = (shared.clone(), crew.clone());
            let (begun, begins) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || {
                // It belongs to the thread that makes it.
                match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => {
                        let _ = begun.send(Ok(()));
                        runtime.block_on(work(Rc::new(Worker::new(index, shared)), crew, messages));
                    }
                    Err(error) => drop(begun.send(Err(error))),
                }
            })?);
            begins.recv().map_err(io::Error::other)??;
        }
        Ok((crew, threads))
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Never so: there is always a worker.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Lets worker `home` accept on `listener`.
    pub(crate) fn accept(&self, home: usize, listener: PodListener) {
        if let Some(member) = self.members.get(home % self.members.len().max(1)) {
            // A worker that is gone is gone with the process.
            let _ = member.inbox.send(ToWorker::Accept(listener));
        }
    }

    /// Lets worker `index` serve its socket of a UDP port.
    pub(crate) fn serve_datagrams(&self, index: usize, port: DatagramPort) {
        if let Some(member) = self.members.get(index) {
            let _ = member.inbox.send(ToWorker::Datagrams(port));
        }
    }

    /// Lets worker `home` serve a pod's captured datagrams.
    pub(crate) fn serve_captured(&self, home: usize, socket: PodSocket) {
        if let Some(member) = self.members.get(home % self.members.len().max(1)) {
            let _ = member.inbox.send(ToWorker::Captured(socket));
        }
    }

    /// The worker with the fewest connections, `home` among equals: its number, and the place taken there.
    pub(crate) fn least_loaded(&self, home: usize) -> (usize, Load) {
        let load = |index: &usize| {
            let member = self.members.get(*index);
            (member.map_or(usize::MAX, |m| m.connections.load(Ordering::Relaxed)), *index != home)
        };
        let chosen = (0..self.members.len()).min_by_key(load).unwrap_or(home);
        let counter = self.members.get(chosen).map(|m| m.connections.clone()).unwrap_or_default();
        counter.fetch_add(1, Ordering::Relaxed);
        (chosen, Load(counter))
    }

    /// Gives a connection to worker `to`.
    pub(crate) fn carry(&self, to: usize, handed: Handed) {
        if let Some(member) = self.members.get(to) {
            let _ = member.inbox.send(ToWorker::Carry(handed));
        }
    }

    /// Connections carried now.
    pub fn connections(&self) -> usize {
        self.members.iter().map(|m| m.connections.load(Ordering::Relaxed)).sum()
    }

    /// Ends the threads; what they still carry is dropped.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// A worker's own loop: everything it does begins with a message.
async fn work(worker: WorkerRef, crew: Arc<Crew>, mut messages: mpsc::UnboundedReceiver<ToWorker>) {
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            () = crew.stop.cancelled() => None,
        };
        match message {
            None => return,
            Some(ToWorker::Accept(listener)) => {
                tokio::task::spawn_local(listen::accept(worker.clone(), crew.clone(), listener));
            }
            Some(ToWorker::Datagrams(port)) => {
                tokio::task::spawn_local(gateway::udp::serve(worker.clone(), port));
            }
            Some(ToWorker::Captured(socket)) => {
                tokio::task::spawn_local(captured::serve(worker.clone(), socket));
            }
            Some(ToWorker::Carry(handed)) => {
                tokio::task::spawn_local(listen::carry(worker.clone(), handed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_model::Identity;

    use super::*;
    use crate::pod::LocalPod;
    use crate::testing::{enrolled, shared};

    #[test]
    fn half_budgets_end_idle_connections_of_pods_with_more_than_half_of_theirs() {
        let shared = shared(&["--max-connections-per-pod", "4"]);
        let identity: Identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let pod =
            |uid| Arc::new(LocalPod::own(enrolled(uid, &["10.244.0.2"]), identity.clone(), &shared.ends));
        let (crowded, calm, leaving) = (pod("crowded"), pod("calm"), pod("leaving"));
        for known in [&crowded, &calm, &leaving] {
            shared.pods.rcu(|pods| pods.with(known.clone()));
        }
        shared.pods.rcu(|pods| pods.without("leaving"));
        let admit = |pod: &LocalPod| pod.scope.admit(4).unwrap();
        let _open =
            [&crowded, &crowded, &crowded, &calm, &calm, &leaving, &leaving, &leaving].map(|pod| admit(pod));
        shared.halve_budgets();
        assert!(crowded.scope.hurry.is_cancelled() && leaving.scope.hurry.is_cancelled());
        assert!(!calm.scope.hurry.is_cancelled());
        assert!(!crowded.scope.ended.is_cancelled(), "what is in use goes on");
    }
}
