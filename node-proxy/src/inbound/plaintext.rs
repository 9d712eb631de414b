//! Plaintext callers (port 15006): refused, unless the pod's namespace or the port permits them, or it is the kubelet.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use weft_model::Reason;
use weft_runtime::fd;

use super::probe;
use super::tcp::Destination;
use crate::call::{Accepted, Caller};
use crate::relay::Duplex as _;
use crate::telemetry::Security;
use crate::tunnel::dial::Failure;
use crate::worker::WorkerRef;

/// Serves one connection that the pod's plaintext listener accepted. Never fails: refusals are told, and end in a reset.
pub async fn accept_plaintext(worker: WorkerRef, accepted: Accepted) {
    let Accepted { pod, stream, peer, .. } = accepted;
    let caller = Caller { address: peer, identity: None, claimed: None, security: Security::Plaintext };
    let original = destination(&stream);
    let to = original.unwrap_or_else(|| SocketAddr::new(peer.ip(), 0));
    let destination = Destination { worker: &worker, pod: &pod, to, caller: &caller };
    if original.is_none() {
        let failure = Failure::new(Reason::Loop, "the connection was not redirected to this port");
        return refuse(&destination, stream, &failure);
    }
    match destination.connect().await {
        Ok(application) => drop(pod.scope.until_ended(destination.carry(stream, application)).await),
        Err(failure) if probe::may_be(&destination, &failure) => {
            pod.scope.until_ended(Box::pin(probe::serve(&destination, stream, failure))).await;
        }
        Err(failure) => refuse(&destination, stream, &failure),
    }
}

/// Refuses a connection: in log and metrics, towards the agent, and by a reset.
pub(super) fn refuse(destination: &Destination<'_>, mut stream: TcpStream, failure: &Failure) {
    let Destination { worker, pod, to, caller } = destination;
    if matches!(failure.reason, Reason::PlaintextRefused | Reason::ProbeRefused) {
        worker.shared.agent.refused(&pod.enrolled.uid, to.port(), caller.address);
    }
    destination.record().refuse(failure.reason, &failure.message);
    stream.reset_on_drop();
}

/// Where the caller meant to connect; `None` if that was here.
fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let to = fd::original_destination(stream, local).ok()?;
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (canonical(to) != canonical(local)).then(|| canonical(to))
}
