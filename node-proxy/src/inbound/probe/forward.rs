//! A probe's way to the application: over a connection of its own, as the kubelet's would be. A kept one could still
//! answer when the application no longer listens.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use weft_model::Reason;

use crate::body::Body;
use crate::http_server::{HttpVersion, LocalExecutor};
use crate::inbound::forward::connect;
use crate::pod::LocalPod;
use crate::send::{SendError, headers};
use crate::worker::WorkerRef;

/// Sends a request that is allowed, and returns the head of its response.
pub(super) async fn request(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    to: SocketAddr,
    caller: SocketAddr,
    mut request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    let version = HttpVersion::of(request.version());
    let io = TokioIo::new(connect(worker, pod, to, caller).await?);
    headers::convert_request(&mut request, version, to);
    let sent = match version {
        HttpVersion::Http1 => {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(io).await.map_err(|error| failed(to, &error))?;
            tokio::task::spawn_local(connection);
            sender.send_request(request).await
        }
        HttpVersion::Http2 => {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(LocalExecutor, io)
                .await
                .map_err(|error| failed(to, &error))?;
            tokio::task::spawn_local(connection);
            sender.send_request(request).await
        }
    };
    let mut response: Response<Incoming> = sent.map_err(|error| failed(to, &error))?;
    *response.version_mut() = http::Version::HTTP_11;
    headers::strip_response(response.status(), response.headers_mut());
    Ok(response.map(Body::Incoming))
}

fn failed(to: SocketAddr, error: &hyper::Error) -> SendError {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    SendError {
        reason: Reason::UpstreamReset,
        not_established: false,
        message: format!("{to}: {error}{cause}"),
        request: None,
    }
}
