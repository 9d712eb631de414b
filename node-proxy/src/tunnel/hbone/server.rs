//! The called side of HBONE: CONNECT to one of this pod's own addresses, answered 200 only once the application has
//! accepted, so that a peer can use a pod neither as a relay nor as a hole.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_model::Reason;

use super::{CONNECTION_WINDOW, FRAME, HboneStream, STREAM_WINDOW, STREAMS, watch};
use crate::call::Caller;
use crate::inbound::tcp::Destination;
use crate::pod::LocalPod;
use crate::tunnel::accept::Tunnel;
use crate::tunnel::dial::Failure;
use crate::worker::WorkerRef;

/// Serves an HBONE connection until it ends. The error is why it was no HBONE connection.
pub(in crate::tunnel) async fn serve<I>(tunnel: Tunnel<'_>, io: I) -> Result<(), Failure>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let Tunnel { worker, pod, local, caller, closing: close } = tunnel;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 * 1024)
        .max_send_buffer_size(400 * 1024);
    let deadline = worker.pools.deadlines().tls;
    let mut connection = match tokio::time::timeout(deadline, builder.handshake::<_, Bytes>(io)).await {
        Ok(Ok(connection)) => connection,
        // A peer that only wanted to show its certificate.
        Ok(Err(error)) if error.get_io().is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) => {
            return Ok(());
        }
        Ok(Err(error)) => return Err(Failure::new(Reason::BadTunnelRequest, error.to_string())),
        Err(_) => {
            return Err(Failure::new(Reason::BadTunnelRequest, "HTTP/2 did not begin within the deadline"));
        }
    };
    let pings = connection.ping_pong();
    let caller = Rc::new(caller);
    let streams = async {
        let mut closing = false;
        loop {
            let accepted = tokio::select! {
                accepted = connection.accept() => accepted,
                () = close.cancelled(), if !closing => {
                    closing = true;
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((request, respond))) = accepted else { return };
            let (worker, pod, caller) = (worker.clone(), pod.clone(), caller.clone());
            tokio::task::spawn_local(async move {
                let stream = serve_stream(&worker, &pod, local, &caller, request, respond);
                pod.scope.until_ended(stream).await;
            });
        }
    };
    tokio::select! {
        () = streams => {}
        () = watch(pings) => {}
    }
    Ok(())
}

async fn serve_stream(
    worker: &WorkerRef,
    pod: &Arc<LocalPod>,
    local: SocketAddr,
    caller: &Caller,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let to = match target(&request, pod) {
        Ok(to) => to,
        Err(message) => {
            let destination = Destination { worker, pod, to: local, caller };
            destination.record().refuse(Reason::BadTunnelRequest, message);
            return answer(&mut respond, StatusCode::BAD_REQUEST);
        }
    };
    let destination = Destination { worker, pod, to, caller };
    match destination.connect().await {
        Ok(application) => {
            let Ok(send) = respond.send_response(Response::new(()), false) else { return };
            destination.carry(HboneStream::new(send, request.into_body()), application).await;
        }
        Err(failure) => {
            destination.record().refuse(failure.reason, &failure.message);
            answer(&mut respond, status(failure.reason));
        }
    }
}

/// Which port of which of the pod's addresses is meant. Only an address of the pod itself will do.
fn target(request: &Request<RecvStream>, pod: &LocalPod) -> Result<SocketAddr, &'static str> {
    if request.method() != Method::CONNECT || request.extensions().get::<h2::ext::Protocol>().is_some() {
        return Err("not a CONNECT request");
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let to: SocketAddr = authority.parse().map_err(|_| "the authority is no address and port")?;
    if !pod.enrolled.addresses.contains(&to.ip()) {
        return Err("the authority is no address of the pod that was connected to");
    }
    Ok(to)
}

/// As ztunnel answers: 401 for what is not allowed, 503 for what cannot be reached.
fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::PlaintextRefused => StatusCode::UNAUTHORIZED,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // The peer may be gone already.
    let _ = respond.send_response(response, true);
}
