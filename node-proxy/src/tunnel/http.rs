//! HTTP requests from peers' proxies, over `weft-h1` and `weft-h2`.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_model::Reason;

use super::accept::Tunnel;
use super::meta::{RequestMeta, ResponseMeta, WEFT_META};
use crate::body::Body;
use crate::call::Caller;
use crate::http_server::{self, Ended, HttpVersion, Limits};
use crate::inbound;
use crate::inbound::record;
use crate::pod::LocalPod;
use crate::scope::say_goodbye;
use crate::send::SendError;
use crate::worker::WorkerRef;

/// Serves a tunnel's requests until it ends.
pub(super) async fn serve<I>(tunnel: Tunnel<'_>, version: HttpVersion, io: I) -> Result<(), Ended>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Tunnel { worker, pod, local, caller, closing } = tunnel;
    let handler = {
        let (worker, pod, closing) = (worker.clone(), pod.clone(), closing.clone());
        move |request: Box<Request<Body>>| {
            let (worker, pod, caller) = (worker.clone(), pod.clone(), caller.clone());
            let closing = closing.clone();
            async move {
                let mut response = handle(&worker, &pod, local, caller, version, request).await;
                say_goodbye(&closing, version, &mut response);
                response
            }
        }
    };
    let parted = async {
        let parted = pod.scope.parted(version, closing);
        // Callers of a pod that has left the mesh were told before.
        tokio::select! {
            () = parted => {}
            () = pod.scope.released.cancelled() => {}
        }
    };
    http_server::serve(io, version, &Limits::default(), parted, handler).await
}

/// A request's port is the only fact that is believed, and it is judged as the real port that it is.
async fn handle(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    local: SocketAddr,
    mut caller: Caller,
    version: HttpVersion,
    mut request: Box<Request<Body>>,
) -> Response<Body> {
    let meta = match RequestMeta::take(request.headers_mut()) {
        Ok(meta) => meta,
        Err(malformed) => {
            let message = malformed.to_string();
            record::request(worker, pod, local, &caller, &request).refuse(Reason::BadTunnelRequest, &message);
            return refusal(Reason::BadTunnelRequest, true, &message);
        }
    };
    let to = SocketAddr::new(local.ip(), meta.port);
    caller.claimed = Some(meta.claimed);
    match inbound::handle_http(worker, pod, to, &caller, version, request).await {
        Ok(response) => response,
        Err(SendError { reason, not_established, message, .. }) => refusal(reason, not_established, &message),
    }
}

/// The proxy's own answer, which the caller's proxy tells from an application's by `weft-meta`.
fn refusal(reason: Reason, not_established: bool, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::text(format!("weft: {reason}: {message}\n")));
    *response.status_mut() = match reason {
        Reason::BadTunnelRequest => StatusCode::BAD_REQUEST,
        Reason::UpstreamReset => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(WEFT_META, ResponseMeta { reason, not_established }.encode());
    response
}
