//! A pod's tunnel port: the TLS handshake, then what its ALPN says.

use std::net::SocketAddr;

use weft_model::Reason;
use weft_tls::Alpn;

use super::dial::{Failure, keep_alive};
use super::{hbone, http};
use crate::call::{Accepted, Caller};
use crate::http_server::{Ended, HttpVersion};
use crate::inbound::record;
use crate::telemetry::Security;
use crate::worker::WorkerRef;

/// Serves one connection that a pod's tunnel listener (15008) accepted. Never fails: refusals are logged and counted.
pub async fn accept(worker: WorkerRef, accepted: Accepted) {
    let pod = accepted.pod.clone();
    let local = accepted.stream.local_addr().ok().map(canonical);
    let mut caller =
        Caller { address: accepted.peer, identity: None, claimed: None, security: Security::None };
    let Some(local) = local else { return };
    // Boxed step by step: an open tunnel holds no more than what it carries needs.
    let served = pod.until_ended(Box::pin(serve(&worker, accepted, local, &mut caller))).await;
    if let Some(Err(failure)) = served {
        record::connection(&worker, &pod, local, &caller).refuse(failure.reason, &failure.message);
    }
}

async fn serve(
    worker: &WorkerRef,
    accepted: Accepted,
    local: SocketAddr,
    caller: &mut Caller,
) -> Result<(), Failure> {
    let Accepted { pod, stream, peer, .. } = accepted;
    keep_alive(&stream);
    let patience = worker.shared.config.hold_certificate;
    let Some(tls) = worker.shared.certificates.wait_for(&pod.identity, patience).await else {
        let message = format!("no certificate for {} yet: see the proxy's /certificates", pod.identity);
        return Err(Failure::new(Reason::NoCertificate, message));
    };
    let handshake = Box::pin(tls.accept(stream));
    let handshake = tokio::time::timeout(worker.pools.deadlines().tls, handshake).await;
    let tunnel = match handshake {
        Ok(Ok(tunnel)) => tunnel,
        Ok(Err(error)) => return Err(Failure::new(Reason::TlsFailed, error.to_string())),
        Err(_) => {
            return Err(Failure::new(Reason::TlsFailed, "the TLS handshake did not end within the deadline"));
        }
    };
    caller.identity = Some(tunnel.peer);
    caller.security = Security::Mtls;
    // Many requests share the connection: its port is no caller's, and a fixed one could not be taken twice.
    let of_requests = Caller { address: SocketAddr::new(peer.ip(), 0), ..caller.clone() };
    let (io, alpn) = (tunnel.stream, tunnel.alpn);
    let version = match alpn {
        Alpn::Hbone => return Box::pin(hbone::server::serve(worker, &pod, local, of_requests, io)).await,
        Alpn::WeftH1 => HttpVersion::Http1,
        Alpn::WeftH2 => HttpVersion::Http2,
    };
    Ok(Box::pin(http::serve(worker, &pod, local, of_requests, version, io)).await?)
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        Self::new(ended.reason, ended.message)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
