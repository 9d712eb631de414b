//! Plaintext callers (port 15006): refused, unless the pod's namespace permits them while it migrates.

use std::net::SocketAddr;

use weft_model::Reason;
use weft_runtime::fd;

use super::tcp::Destination;
use crate::call::{Accepted, Caller};
use crate::relay::Duplex as _;
use crate::telemetry::Security;
use crate::worker::WorkerRef;

/// Serves one connection that the pod's plaintext listener accepted. Never fails: refusals are told, and end in a reset.
pub async fn accept_plaintext(worker: WorkerRef, accepted: Accepted) {
    let Accepted { pod, mut stream, peer, .. } = accepted;
    let caller = Caller { address: peer, identity: None, claimed: None, security: Security::Plaintext };
    let original = destination(&stream);
    let to = original.unwrap_or_else(|| SocketAddr::new(peer.ip(), 0));
    let destination = Destination { worker: &worker, pod: &pod, to, caller: &caller };
    if original.is_none() {
        destination.record().refuse(Reason::Loop, "the connection was not redirected to this port");
        return stream.reset_on_drop();
    }
    match destination.connect().await {
        Ok(application) => drop(pod.until_ended(destination.carry(stream, application)).await),
        Err(failure) => {
            destination.record().refuse(failure.reason, &failure.message);
            stream.reset_on_drop();
        }
    }
}

/// Where the caller meant to connect; `None` if that was here.
fn destination(stream: &tokio::net::TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let to = fd::original_destination(stream, local).ok()?;
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (canonical(to) != canonical(local)).then(|| canonical(to))
}
