//! The last step: a request or connection goes to its [`Selected`] endpoint, by pool, tunnel or directly.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{HeaderValue, Request, Response, Version, header};
use weft_api::node::TUNNEL_PORT;
use weft_model::service::AppProtocol;
use weft_model::{Identity, Reason};
use weft_tls::{Alpn, Carries};

use crate::body::Body;
use crate::call::{Caller, Claimed, Selected, Transport};
use crate::http_server::HttpVersion;
use crate::inbound;
use crate::pod::LocalPod;
use crate::telemetry::Security;
use crate::tunnel::dial::{Dial, Failure, Way};
use crate::tunnel::hbone;
use crate::tunnel::meta::{RequestMeta, ResponseMeta, WEFT_META};
use crate::worker::WorkerRef;

pub mod backend;
pub mod bytes;
pub(crate) mod exchange;
mod expect;
pub(crate) mod headers;
pub(crate) mod pools;

pub use bytes::ByteStream;
pub use pools::Pools;

/// Why sending failed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct SendError {
    /// The word.
    pub reason: Reason,
    /// No byte of the request reached the application, so that another try cannot do harm.
    pub not_established: bool,
    /// Details for the log.
    pub message: String,
    /// The request, where it was not consumed, so that it can be tried again elsewhere. `None` although
    /// `not_established`: the far proxy took it but could not connect to the application; the body is gone.
    pub request: Option<Box<Request<Body>>>,
}

/// Sends one HTTP request from `source` to `selected` and returns the response's head with its streaming body.
///
/// `peer` is the caller's address and port. Hop-by-hop fields, `weft-meta` and `x-forwarded-client-cert` are removed here, in both
/// directions. Upgrades: a 101 (or 2xx to CONNECT) holds the `hyper::upgrade::OnUpgrade` of its connection in
/// its extensions; [`crate::http_server::serve`] joins it to the caller's. The version spoken follows
/// `selected.protocol`, else the request's own.
pub async fn send_http(
    worker: &WorkerRef,
    source: &Arc<LocalPod>,
    peer: SocketAddr,
    selected: &Selected,
    claimed: Claimed,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    let version = version_of(selected, &request);
    match &selected.transport {
        Transport::SameNode(pod) => {
            let caller = same_node(source, peer, selected.address, Some(claimed));
            Box::pin(inbound::handle_http(worker, pod, selected.address, &caller, version, request)).await
        }
        Transport::Plaintext => {
            headers::strip_request(&mut request);
            let way = directly(selected, version);
            let dial = Dial { pod: source.clone(), to: selected.address, way };
            let mut response = exchange::exchange(&worker.pools, &dial, version, request).await?;
            headers::strip_response(response.status(), response.headers_mut());
            Ok(response)
        }
        Transport::Tunnel(expected) if selected.tls.is_some() => {
            let tunnel = match tunnel(worker, source, selected, expected, Alpn::Hbone).await {
                Ok(tunnel) => Some(Box::new(tunnel)),
                Err(failure) => return Err(SendError::unsent(failure, request)),
            };
            headers::strip_request(&mut request);
            let way = match directly(selected, version) {
                Way::Backend { policy, carries, .. } => Way::Backend { policy, carries, tunnel },
                other => other,
            };
            let dial = Dial { pod: source.clone(), to: selected.address, way };
            let mut response = exchange::exchange(&worker.pools, &dial, version, request).await?;
            headers::strip_response(response.status(), response.headers_mut());
            Ok(response)
        }
        Transport::Tunnel(expected) => {
            let alpn = match version {
                HttpVersion::Http1 => Alpn::WeftH1,
                HttpVersion::Http2 => Alpn::WeftH2,
            };
            let dial = match tunnel(worker, source, selected, expected, alpn).await {
                Ok(dial) => dial,
                Err(failure) => return Err(SendError::unsent(failure, request)),
            };
            headers::strip_request(&mut request);
            let meta = RequestMeta { port: selected.address.port(), claimed };
            send_tunnelled(worker, &dial, version, &meta, request).await
        }
    }
}

async fn send_tunnelled(
    worker: &WorkerRef,
    dial: &Dial,
    version: HttpVersion,
    meta: &RequestMeta,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    request.headers_mut().insert(WEFT_META, meta.encode());
    if version == HttpVersion::Http1 {
        // The far proxy's server sends trailers only to those who accept them; what the caller accepts is decided here.
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut response = exchange::exchange(&worker.pools, dial, version, request).await?;
    let said = ResponseMeta::take(response.headers_mut());
    headers::strip_response(response.status(), response.headers_mut());
    let (reason, not_established) = match said {
        Ok(None) => return Ok(response),
        Ok(Some(meta)) => (meta.reason, meta.not_established),
        Err(_) => (Reason::BadTunnelRequest, false),
    };
    let message = format!("{}: the far proxy answered {reason}", dial.to);
    Err(SendError { reason, not_established, message, request: None })
}

/// Opens a byte stream from `source` to `selected`: when it returns, the application has accepted the connection
/// (or, for an endpoint outside the mesh, its host has). Failures are always `not_established`, so another endpoint
/// may be tried. Relaying is the caller's: see [`ByteStream`] for how half-close and reset show.
pub async fn connect_bytes(
    worker: &WorkerRef,
    source: &Arc<LocalPod>,
    peer: SocketAddr,
    selected: &Selected,
) -> Result<ByteStream, SendError> {
    let opened = match &selected.transport {
        Transport::SameNode(pod) => {
            let caller = same_node(source, peer, selected.address, None);
            return inbound::connect_bytes(worker, pod, selected.address, &caller).await;
        }
        Transport::Plaintext => {
            let dial = Dial { pod: source.clone(), to: selected.address, way: Way::Plain };
            dial.run_plain(worker.pools.deadlines()).await.map(ByteStream::Tcp)
        }
        Transport::Tunnel(expected) => match tunnel(worker, source, selected, expected, Alpn::Hbone).await {
            Ok(dial) => hbone::open(&worker.pools, &dial, selected.address, peer).await,
            Err(failure) => Err(failure),
        },
    };
    let opened = opened.map_err(SendError::from)?;
    let Some(policy) = &selected.tls else { return Ok(opened) };
    let dial = Dial { pod: source.clone(), to: selected.address, way: Way::Plain };
    let secured = dial.secure(policy, opened, Carries::Bytes, worker.pools.deadlines()).await;
    Ok(ByteStream::Tls(Box::new(secured.map_err(SendError::from)?)))
}

/// Out of the mesh: plaintext, or TLS where a policy says so.
fn directly(selected: &Selected, version: HttpVersion) -> Way {
    let Some(policy) = selected.tls.clone() else { return Way::Plain };
    let carries = match version {
        HttpVersion::Http1 => Carries::Http1,
        HttpVersion::Http2 => Carries::Http2,
    };
    Way::Backend { policy, carries, tunnel: None }
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        let Failure { reason, message } = failure;
        Self { reason, not_established: true, message: message.to_string(), request: None }
    }
}

/// Both listeners belong to this process: the caller's pod is known without a handshake. A Service may be called by one
/// address family and have its endpoint in the other: there the caller shows the address that a tunnel would come from.
fn same_node(source: &LocalPod, peer: SocketAddr, to: SocketAddr, claimed: Option<Claimed>) -> Caller {
    let in_family = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
    let address = match source.enrolled.addresses.iter().find(in_family) {
        Some(ip) if peer.is_ipv4() != to.is_ipv4() => SocketAddr::new(*ip, 0),
        _ => peer,
    };
    Caller { address, identity: Some(source.identity.clone()), security: Security::SameNode, claimed }
}

async fn tunnel(
    worker: &WorkerRef,
    source: &Arc<LocalPod>,
    selected: &Selected,
    expected: &Identity,
    alpn: Alpn,
) -> Result<Dial, Failure> {
    let patience = worker.shared.config.hold_certificate;
    let Some(tls) = worker.shared.certificates.wait_for(&source.identity, patience).await else {
        let message = format!("no certificate for {} yet: see the proxy's /certificates", source.identity);
        return Err(Failure::new(Reason::NoCertificate, message));
    };
    let to_pod = selected.workload.as_ref().map(|workload| workload.uid.clone());
    let to = SocketAddr::new(selected.address.ip(), TUNNEL_PORT);
    let shared = worker.shared.clone();
    let way = Way::Tunnel { tls, shared, to_pod, expected: expected.clone(), alpn };
    Ok(Dial { pod: source.clone(), to, way })
}

/// What the application is spoken to in: what its Service port declares, else what its caller speaks. An upgrade
/// exists in HTTP/1.1 only (RFC 9113 §8.6).
/// By TLS a backend that declares nothing may not know HTTP/2, whatever its caller speaks.
fn version_of(selected: &Selected, request: &Request<Body>) -> HttpVersion {
    let declared =
        selected.protocol == AppProtocol::H2c && headers::asked_upgrade(request.headers()).is_none();
    if selected.tls.is_some() {
        return if declared { HttpVersion::Http2 } else { HttpVersion::Http1 };
    }
    if declared || request.version() == Version::HTTP_2 { HttpVersion::Http2 } else { HttpVersion::Http1 }
}
