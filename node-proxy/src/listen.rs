//! Accepting: each pod's listeners have one home worker, which alone accepts and hands every connection to the
//! least loaded worker (`dataplane.md` rule 10). So has each port of a Gateway.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_model::Reason;
use weft_runtime::backoff::Backoff;
use weft_runtime::fd;

use crate::call::{Accepted, Listener};
use crate::outbound::http::refusal::Refused;
use crate::pod::LocalPod;
use crate::relay::Duplex as _;
use crate::scope::{Admission, Scope};
use crate::seldom::seldom;
use crate::telemetry::{Labels, Outcome, Party, Protocol, Reporter, Security};
use crate::worker::{Crew, Load, Worker, WorkerRef};
use crate::{gateway, inbound, outbound, tunnel};

/// What still runs for a pod that has ended gets this long to say what became of it, before it is dropped.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// One of a pod's listening sockets, non-blocking, to be accepted on until `accepting` of its scope is cancelled.
#[derive(Debug)]
pub(crate) struct PodListener {
    pub(crate) pod: Arc<LocalPod>,
    pub(crate) scope: Arc<Scope>,
    pub(crate) kind: Listener,
    pub(crate) socket: TcpListener,
    /// Dropped when the socket is closed.
    pub(crate) open: Arc<()>,
}

/// Accepted connections inherit these.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    let socket = socket2::SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    socket.set_tcp_keepalive(&keepalive)
}

/// A connection on its way to the worker that will carry it. It is in no event queue yet.
#[derive(Debug)]
pub(crate) struct Handed {
    pod: Arc<LocalPod>,
    scope: Arc<Scope>,
    listener: Listener,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    load: Load,
}

/// Accepts on `listener` until its pod no longer wants it.
pub(crate) async fn accept(worker: WorkerRef, crew: Arc<Crew>, listener: PodListener) {
    let PodListener { pod, scope, kind, socket, open } = listener;
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    // Leaves the event queue before it is closed: others hold duplicates of it.
    let socket = match fd::watch(socket.into()) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(pod = %pod.enrolled.pod, listener = ?kind, %error, "cannot watch a listener");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = scope.accepting.cancelled() => break,
            accepted = accept_one(&socket) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                let (to, load) = crew.least_loaded(worker.index);
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let (pod, scope) = (pod.clone(), scope.clone());
                crew.carry(to, Handed { pod, scope, listener: kind, stream, peer, load });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // For want of descriptors or memory: the backlog keeps the callers meanwhile.
                tracing::warn!(pod = %pod.enrolled.pod, listener = ?kind, %error, "cannot accept; trying again");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
    drop(socket);
    drop(open);
}

async fn accept_one(socket: &AsyncFd<OwnedFd>) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(accepted) = ready.try_io(|socket| socket2::SockRef::from(socket.get_ref()).accept()) {
            let (stream, peer) = accepted?;
            let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
            return Ok((stream.into(), peer));
        }
    }
}

/// Carries one connection to its end, whatever happens in there.
pub(crate) async fn carry(worker: WorkerRef, handed: Handed) {
    let Handed { pod, scope, listener, stream, peer, load } = handed;
    let stream = match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(pod = %pod.enrolled.pod, %error, "cannot watch a connection: it is dropped");
            return;
        }
    };
    let accepted = Accepted { pod: pod.clone(), scope: scope.clone(), listener, stream, peer };
    let limit = worker.shared.config.max_connections_per_pod;
    let Some(_admission): Option<Admission> = scope.admit(limit) else {
        let refused = Refused::new(Reason::Overloaded, "too many connections are open");
        return refuse(&worker, accepted, Instant::now(), &refused);
    };
    // The kubelet's probes come in as plaintext: a pod is not to be restarted for want of memory here.
    if listener != Listener::InboundPlaintext
        && let Err(message) = worker.shared.memory.admit()
    {
        return refuse(&worker, accepted, Instant::now(), &Refused::new(Reason::Overloaded, message));
    }
    let _open = worker.shared.telemetry.open_connection(listener);
    let work = AssertUnwindSafe(serve(worker.clone(), accepted)).catch_unwind();
    tokio::select! {
        biased;
        served = work => if served.is_err() {
            let outcome = outcome(&worker, &pod, listener, peer);
            record(&worker, outcome, Reason::Internal, "a defect of Weft, see the log");
        },
        () = seldom(gone(&scope)) => {}
    }
    drop(load);
}

async fn serve(worker: WorkerRef, accepted: Accepted) {
    match accepted.listener {
        Listener::Outbound => Box::pin(outbound::serve(worker, accepted)).await,
        Listener::InboundPlaintext => Box::pin(inbound::accept_plaintext(worker, accepted)).await,
        Listener::Tunnel => Box::pin(tunnel::accept(worker, accepted)).await,
        Listener::Gateway(port) => Box::pin(gateway::serve(worker, accepted, port)).await,
    }
}

/// Completes when nothing of the scope may be open any more.
async fn gone(scope: &Scope) {
    scope.ended.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// How the other end of a connection leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaving {
    /// It will send no more: whoever has a handshake to finish is gone.
    Closed,
    /// It will not read any more either.
    Reset,
}

/// Completes when the other end has left. Watched through a duplicate, so that what has come in already stays to be read.
pub(crate) async fn left(stream: &TcpStream, leaving: Leaving) {
    let interest = match leaving {
        Leaving::Closed => Interest::READABLE,
        Leaving::Reset => Interest::WRITABLE,
    };
    let Ok(watched) = stream.as_fd().try_clone_to_owned().and_then(fd::watch) else {
        return std::future::pending().await;
    };
    while let Ok(mut ready) = watched.ready(interest).await {
        let left = match leaving {
            Leaving::Closed => ready.ready().is_read_closed(),
            Leaving::Reset => ready.ready().is_write_closed(),
        };
        if left {
            return;
        }
        ready.clear_ready();
    }
    std::future::pending().await
}

/// Resets a connection that has been looked at since `begun`, and says why.
pub(crate) fn refuse(worker: &Worker, mut accepted: Accepted, begun: Instant, refused: &Refused) {
    accepted.stream.reset_on_drop();
    let mut outcome = outcome(worker, &accepted.pod, accepted.listener, accepted.peer);
    outcome.duration = begun.elapsed();
    record(worker, outcome, refused.reason, &refused.message);
}

/// What is known of a connection from its accept alone.
pub(crate) fn outcome(worker: &Worker, pod: &LocalPod, listener: Listener, peer: SocketAddr) -> Outcome {
    let own = Party::of(worker.shared.snapshot.load().workload(&pod.enrolled.uid));
    let (reporter, source, destination) = match listener {
        Listener::Outbound => (Reporter::Source, own, Party::Unknown),
        Listener::InboundPlaintext | Listener::Tunnel => (Reporter::Destination, Party::Unknown, own),
        Listener::Gateway(_) => (Reporter::Gateway, Party::Unknown, Party::Unknown),
    };
    let mut labels = Labels::new(reporter, source, Protocol::Tcp, Security::None);
    labels.destination = destination;
    Outcome { source_address: Some(peer), ..Outcome::new(labels) }
}

fn record(worker: &Worker, mut outcome: Outcome, reason: Reason, message: &str) {
    outcome.labels.reason = reason;
    outcome.message = Some(message.into());
    worker.shared.telemetry.record(&outcome);
}
