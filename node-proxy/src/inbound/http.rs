//! HTTP requests for an application of this node.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Request, Response};
use weft_model::Reason;

use super::{authorize, forward, record};
use crate::body::Body;
use crate::call::Caller;
use crate::http_server::HttpVersion;
use crate::pod::LocalPod;
use crate::send::{SendError, headers};
use crate::tunnel::dial::Failure;
use crate::worker::WorkerRef;

/// Hands one request to the application of `pod` at `to` (one of its addresses, and the port), spoken to in `version`.
/// The application learns the caller's verified identity from `x-forwarded-client-cert`, and its address.
///
/// # Errors
/// As for sending: `not_established` says exactly whether the application can have seen the request.
pub async fn handle_http(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: &Caller,
    version: HttpVersion,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    let mut recorder = record::request(worker, pod, to, caller, &request);
    recorder.count_request(&mut request);
    match admitted(worker, pod, to, caller, version, request).await {
        Ok(response) => Ok(recorder.attach(response, None)),
        Err(error) => {
            recorder.failed(&error);
            Err(error)
        }
    }
}

async fn admitted(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: &Caller,
    version: HttpVersion,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    let verdict = authorize::connection(&worker.shared.snapshot.load(), pod, to.port(), caller);
    if let Err(failure) = verdict {
        return Err(SendError::unsent(failure, request));
    }
    if let Err(message) = worker.shared.memory.admit() {
        return Err(SendError::unsent(Failure::new(Reason::Overloaded, message), request));
    }
    headers::strip_request(&mut request);
    if let Some(identity) = &caller.identity {
        // With room from the start: made by growing it would take several allocations for each request.
        let mut text = String::with_capacity(128);
        let _ = write!(text, "URI={identity}");
        match HeaderValue::try_from(text) {
            Ok(value) => drop(request.headers_mut().insert(headers::XFCC, value)),
            Err(_) => return Err(SendError::internal("an identity that is no header value")),
        }
    }
    let mut response = forward::request(worker, pod, to, caller.address, version, request).await?;
    headers::strip_response(response.status(), response.headers_mut());
    Ok(response)
}

impl SendError {
    fn internal(message: &str) -> Self {
        Self { reason: Reason::Internal, not_established: true, message: message.to_owned(), request: None }
    }
}
