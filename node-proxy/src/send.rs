//! The last step: a request or connection goes to its [`Selected`] endpoint, by pool, tunnel or directly.

use http::{Request, Response};
use tokio::net::TcpStream;
use weft_model::Reason;

use crate::body::Body;
use crate::call::{Captured, Claimed, Selected};
use crate::pod::LocalPod;
use crate::worker::WorkerRef;

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
    /// The request, where it was not consumed, so that it can be tried again elsewhere.
    pub request: Option<Box<Request<Body>>>,
}

/// Sends one HTTP request from `source` to `selected` and returns the response's head with its streaming body.
/// Upgrades: the `hyper::upgrade::OnUpgrade` of both sides stay in the extensions.
pub async fn send_http(
    worker: &WorkerRef,
    source: &LocalPod,
    peer: std::net::SocketAddr,
    selected: &Selected,
    claimed: Claimed,
    request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    let _ = (worker, source, peer, selected, claimed, request);
    todo!()
}

/// Opens a byte stream to `selected`: half-close and reset are carried exactly.
pub async fn send_bytes(
    worker: &WorkerRef,
    captured: Captured,
    selected: &Selected,
) -> Result<(), SendError> {
    let _ = (worker, captured, selected);
    todo!()
}

#[allow(dead_code)]
fn _unused(_: TcpStream) {}
