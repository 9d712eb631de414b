//! What happens to a connection that an enrolled pod opens: the list of phases. Each is one function.
//!
//! 1. [`capture`]: where did the caller mean to go, and what is that?
//! 2. [`detect::decide`]: is it HTTP, TLS to be routed by server name, or bytes?
//! 3. HTTP goes on per request in [`http::serve`]; anything else per connection in [`tls`] and [`tcp`].

pub mod affinity;
pub mod balance;
pub mod detect;
pub mod exchange;
pub mod filter;
pub mod http;
pub mod near;
pub mod obey;
pub mod origin;
pub mod resilience;
pub mod route;
pub mod session;
pub mod tcp;
pub mod tls;
pub mod udp;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::service::Service;
use weft_runtime::fd;

use self::detect::{Decision, Speaks};
use self::http::refusal::Refused;
use self::origin::Origin;
use self::tcp::Connection;
use crate::call::{Accepted, Captured, Destination};
use crate::listen::refuse;
use crate::pod::is_own_port;
use crate::state::Snapshot;
use crate::worker::{Worker, WorkerRef};

/// Serves one connection that the pod's outbound listener (15001) accepted. Never fails: refusals are logged and counted.
pub async fn serve(worker: WorkerRef, accepted: Accepted) {
    match original_destination(&accepted) {
        Ok(original) => serve_to(&worker, accepted, original).await,
        Err(refused) => refuse(&worker, accepted, Instant::now(), &refused),
    }
}

/// As [`serve`], for a connection whose original destination is known already.
pub async fn serve_to(worker: &WorkerRef, accepted: Accepted, original: SocketAddr) {
    let begun = Instant::now();
    let (destination, snapshot) = match capture(worker, original).await {
        Ok(known) => known,
        Err(refused) => return refuse(worker, accepted, begun, &refused),
    };
    let Accepted { pod, stream, peer, .. } = accepted;
    let captured = Captured { source: pod, peer, original, destination, snapshot, stream };
    match detect::decide(&captured) {
        Decision::Http => {
            let origin = Origin::captured(&captured);
            http::serve(worker, origin, captured.stream, Bytes::new()).await;
        }
        Decision::Tls(routes) => tls::serve(Connection::new(worker, captured, begun), &routes).await,
        Decision::Tcp(rule) => Connection::new(worker, captured, begun).follow(&rule, BytesMut::new()).await,
        Decision::Bytes => Connection::new(worker, captured, begun).pass(BytesMut::new()).await,
        Decision::Peek => peek(Connection::new(worker, captured, begun)).await,
    }
}

/// Where the caller meant to connect (rule 6: without that, or with one of our own ports, it is a loop).
fn original_destination(accepted: &Accepted) -> Result<SocketAddr, Refused> {
    let local = accepted.stream.local_addr();
    let original = local.and_then(|local| fd::original_destination(&accepted.stream, local));
    let original = original.map_err(|error| {
        Refused::new(
            Reason::Loop,
            format!("the connection has no original destination ({error}); nobody redirected it"),
        )
    })?;
    if is_own_port(original.port()) {
        let message = format!("{original} is a port of Weft itself: connect to the application's port");
        return Err(Refused::new(Reason::Loop, message));
    }
    Ok(SocketAddr::new(original.ip().to_canonical(), original.port()))
}

/// What `original` is. An address of the cluster that nobody has told us about yet is waited for (rule 8); a port that a
/// Service does not have is not.
async fn capture(worker: &Worker, original: SocketAddr) -> Result<(Destination, Arc<Snapshot>), Refused> {
    let known = |snapshot: &Arc<Snapshot>| match snapshot.destination(original) {
        Destination::Unknown => {
            snapshot.service_at(original.ip()).map(|service| Err(no_such_port(service, original)))
        }
        known => snapshot.is_configured().then(|| Ok((known, snapshot.clone()))),
    };
    let state = &worker.shared.snapshot;
    if let Some(found) = state.find(worker.shared.config.hold_unknown, known).await {
        return found;
    }
    if state.load().is_configured() {
        let message = format!("no Service or pod of the cluster has {original}");
        return Err(Refused::new(Reason::UnknownDestination, message));
    }
    let message = "this node's proxy has no configuration yet; check that the controller runs";
    Err(Refused::new(Reason::NoConfiguration, message))
}

fn no_such_port(service: &Service, original: SocketAddr) -> Refused {
    let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
    let has = if ports.is_empty() { "no TCP port at all".to_owned() } else { ports.join(", ") };
    let message =
        format!("Service {} ({}) has no port {}: it has {has}", service.name, original.ip(), original.port());
    Refused::new(Reason::UnknownPort, message)
}

/// A port that says nothing and is covered by HTTP routes only because they name no port: the first bytes decide.
///
/// The deadline only starts the plain dial, for servers that speak first; until a server's byte has been seen the
/// caller's first bytes still decide (rule 21), since clients connect ahead of need.
async fn peek(mut connection: Connection<'_>) {
    let mut first = BytesMut::new();
    let patience = connection.worker.shared.config.peek;
    let speaks =
        match tokio::time::timeout(patience, detect::first_bytes(&mut connection.stream, &mut first)).await {
            Ok(Ok(speaks)) => speaks,
            Ok(Err(error)) => return connection.caller_failed(&error),
            Err(_) => return tcp::dial_while_peeking(connection, first).await,
        };
    match speaks {
        Speaks::Http => connection.speak_http(first).await,
        Speaks::Other => connection.pass(first).await,
    }
}

#[cfg(test)]
mod tests;
