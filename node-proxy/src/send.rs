//! The last step: a request or connection goes to its [`Selected`] endpoint, by pool, tunnel or directly.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use weft_model::Reason;

use crate::body::Body;
use crate::call::{Claimed, Selected};
use crate::pod::LocalPod;
use crate::worker::WorkerRef;

pub mod bytes;

pub use bytes::ByteStream;

/// Pooled connections of one worker.
#[derive(Debug, Default)]
pub struct Pools {}

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
    /// The request, unchanged, where it was not consumed, so that it can be tried again elsewhere. `None` although
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
    request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    let _ = (worker, source, peer, selected, claimed, request);
    todo!()
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
    let _ = (worker, source, peer, selected);
    todo!()
}
