//! A pod's tunnel port: the TLS handshake, then what its ALPN says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use weft_model::Reason;
use weft_tls::{Alpn, TlsError, TlsStream, WorkloadTls};

use super::dial::{Failure, keep_alive};
use super::proofs::Pair;
use super::trusted::{Trusted, drain_at, wall};
use super::{hbone, http};
use crate::call::{Accepted, Caller};
use crate::http_server::{Ended, HttpVersion};
use crate::inbound::record;
use crate::listen::{Leaving, left};
use crate::pod::LocalPod;
use crate::seldom::seldom;
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
    let served = pod.scope.until_ended(Box::pin(serve(&worker, accepted, local, &mut caller))).await;
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
    let certificates = &worker.shared.certificates;
    let tls = certificates.wait_for(&pod.identity, worker.shared.config.hold_certificate);
    let tls = match certificates.for_identity(&pod.identity) {
        Some(tls) => Some(tls),
        None => tokio::select! {
            tls = tls => tls,
            () = left(&stream, Leaving::Closed) => {
                return Err(Failure::new(Reason::DownstreamReset, "the caller left before there was a certificate"));
            }
        },
    };
    let Some(tls) = tls else {
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
    let closing = pod.scope.closing.child_token();
    let ours = Tunnel { worker, pod: &pod, local, caller: of_requests, closing: &closing };
    ours.serve(tunnel.stream, tunnel.alpn, &tls).await
}

/// A tunnel whose peer is known.
pub(super) struct Tunnel<'a> {
    pub(super) worker: &'a WorkerRef,
    /// Whose tunnel port it came to.
    pub(super) pod: &'a Arc<LocalPod>,
    /// The address it came to.
    pub(super) local: SocketAddr,
    pub(super) caller: Caller,
    /// Cancelled when the peer is to go elsewhere.
    pub(super) closing: &'a CancellationToken,
}

impl Tunnel<'_> {
    async fn serve(self, stream: TlsStream<TcpStream>, alpn: Alpn, tls: &WorkloadTls) -> Result<(), Failure> {
        let untrusted = |error: TlsError| Failure::new(Reason::TlsFailed, error.to_string());
        let peer = stream.peer().map_err(untrusted)?;
        let shared = &self.worker.shared;
        let pair = Pair::Called {
            pod: self.pod.enrolled.uid.clone(),
            from: self.caller.address.ip(),
            caller: peer.identity.clone(),
        };
        let proof = shared.proofs.shown(pair, peer.clone(), tls);
        let io = Trusted::new(stream, proof, shared.certificates.trust(), None);
        let (now, (not_before, not_after)) = (SystemTime::now(), tls.validity());
        // The peer ends the connection with our certificate as we do with its.
        let drain = drain_at(not_before, not_after, now).min(drain_at(peer.not_before, peer.not_after, now));
        let closing = self.closing;
        let drained = seldom(async {
            wall(drain).await;
            closing.cancel();
            std::future::pending().await
        });
        let served = async {
            let version = match alpn {
                Alpn::Hbone => return Box::pin(hbone::server::serve(self, io)).await,
                Alpn::WeftH1 => HttpVersion::Http1,
                Alpn::WeftH2 => HttpVersion::Http2,
            };
            Ok(Box::pin(http::serve(self, version, io)).await?)
        };
        tokio::select! {
            biased;
            served = served => served,
            never = drained => never,
        }
    }
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        Self::new(ended.reason, ended.message)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
