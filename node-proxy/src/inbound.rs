//! The callee's side: every request and connection for a pod of this node ends here, whichever way it came
//! (tunnel, same node, plaintext): first [`authorize`], then to the application.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};

use crate::body::Body;
use crate::call::{Accepted, Caller};
use crate::http_server::HttpVersion;
use crate::pod::LocalPod;
use crate::send::{ByteStream, SendError};
use crate::worker::WorkerRef;

/// Serves one connection that the pod's plaintext listener (15006) accepted. Never fails: refusals are logged and counted.
pub async fn accept_plaintext(worker: WorkerRef, accepted: Accepted) {
    let _ = (worker, accepted);
}

/// Hands one request to the application of `pod` at `to` (one of its addresses, and the port).
pub async fn handle_http(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: &Caller,
    version: HttpVersion,
    request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    let _ = (worker, pod, to, caller, version, request);
    todo!()
}

/// Connects to the application of `pod` at `to`, if `caller` may.
pub async fn connect_bytes(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: &Caller,
) -> Result<ByteStream, SendError> {
    let _ = (worker, pod, to, caller);
    todo!()
}
