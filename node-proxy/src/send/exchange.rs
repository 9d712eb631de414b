//! One request and its response over a pooled connection. Knows exactly whether anything was sent when it fails.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use weft_model::Reason;
use weft_tls::TlsError;

use super::expect::Gate;
use super::headers::authenticates_connection;
use super::pools::{Http1, Http2, Pools};
use super::{SendError, headers};
use crate::body::{Body, BodyError};
use crate::http_server::HttpVersion;
use crate::pod::LocalPod;
use crate::tunnel::dial::{Dial, Failure, Key, Way};
use crate::tunnel::pool::Lease;

/// Sends `request`, stripped already, and returns the response's head with its streaming body.
///
/// Boxed, since all that lead here copy the future that they wait for into their own.
pub(crate) async fn exchange(
    pools: &Pools,
    dial: &Dial,
    version: HttpVersion,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    headers::convert_request(&mut request, version, dial.to);
    if version == HttpVersion::Http2 && matches!(dial.way, Way::Backend { .. }) {
        headers::secure_scheme(&mut request);
    }
    let mut response = match version {
        HttpVersion::Http1 => Box::pin(exchange_http1(pools, dial, request)).await?,
        HttpVersion::Http2 => Box::pin(exchange_http2(pools, dial, request)).await?,
    };
    // The next server writes its own version; a 1.0 here would close its connections.
    *response.version_mut() = http::Version::HTTP_11;
    Ok(response)
}

async fn exchange_http1(
    pools: &Pools,
    dial: &Dial,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    let key = dial.key(false);
    let mut tied = authenticates_connection(request.headers(), &AUTHORIZATION);
    let gate = Gate::before(&mut request);
    loop {
        let kept = pools.take_http1(&key);
        let reused = kept.is_some();
        let mut sender = match kept {
            Some(sender) => sender,
            // Boxed: few requests need it, and all would carry its size.
            None => match Box::pin(pools.connect_http1(dial)).await {
                Ok(sender) => sender,
                Err(failure) => return Err(SendError::unsent(failure, request)),
            },
        };
        let mut failed = match sender.try_send_request(*request).await {
            Ok(response) => {
                if let Some(gate) = &gate {
                    gate.answered();
                }
                tied |= authenticates_connection(response.headers(), &WWW_AUTHENTICATE);
                let keep = !tied && response.status() != StatusCode::SWITCHING_PROTOCOLS;
                let end = keep.then(|| End::Http1(sender, key, Arc::clone(&dial.pod), pools.clone()));
                return Ok(finish(response, end));
            }
            Err(failed) => failed,
        };
        match failed.take_message() {
            // It had been closed before a byte was sent: any other connection is as good.
            Some(unsent) if reused => request = Box::new(unsent),
            unsent => {
                if let Some(gate) = &gate {
                    gate.open();
                }
                return Err(SendError::failed(dial, &failed, unsent));
            }
        }
    }
}

async fn exchange_http2(
    pools: &Pools,
    dial: &Dial,
    mut request: Box<Request<Body>>,
) -> Result<Response<Body>, SendError> {
    let key = dial.key(true);
    let tied = authenticates_connection(request.headers(), &AUTHORIZATION);
    let mut second_try = false;
    loop {
        let lease = match pools.http2(&key, dial).await {
            Ok(lease) => lease,
            Err(failure) => return Err(SendError::unsent(failure, request)),
        };
        if tied {
            // Requests of others go elsewhere from now on.
            pools.forget_http2(&key, &lease);
        }
        let mut sender = lease.connection.sender.clone();
        let mut failed = match sender.try_send_request(*request).await {
            Ok(response) => return Ok(finish(response, Some(End::Http2(lease)))),
            Err(failed) => failed,
        };
        match failed.take_message() {
            // GOAWAY, or closed before anything was sent.
            Some(unsent) if !second_try => {
                pools.forget_http2(&key, &lease);
                second_try = true;
                request = Box::new(unsent);
            }
            unsent => return Err(SendError::failed(dial, &failed, unsent)),
        }
    }
}

impl SendError {
    /// No connection came about.
    pub(crate) fn unsent(failure: Failure, request: Box<Request<Body>>) -> Self {
        let Failure { reason, message } = failure;
        Self { reason, not_established: true, message: message.to_string(), request: Some(request) }
    }

    /// The connection failed with the request on it, or before it.
    fn failed(dial: &Dial, failed: &TrySendError<Request<Body>>, unsent: Option<Request<Body>>) -> Self {
        let (reason, untouched) = judge(failed.error());
        let reason =
            if unsent.is_some() && reason == Reason::UpstreamReset { Reason::ConnectFailed } else { reason };
        let cause = failed.error().source().map(|s| format!(": {s}")).unwrap_or_default();
        Self {
            reason,
            not_established: untouched || unsent.is_some(),
            message: format!("{}: {}{cause}", dial.to, failed.error()),
            request: unsent.map(Box::new),
        }
    }
}

/// The word for a failed exchange, and whether its request surely reached nobody: the peer refused our certificate (which a TLS 1.3
/// client learns only now), or refused the stream unprocessed (RFC 9113 §8.7).
fn judge(error: &hyper::Error) -> (Reason, bool) {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(TlsError::of(io), Some(TlsError::Refused(_)))
        {
            return (Reason::TlsFailed, true);
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            if h2.reason() == Some(h2::Reason::REFUSED_STREAM) {
                return (Reason::ConnectFailed, true);
            }
            // h2 keeps an error's kind and words, not its type; rustls' errors are `InvalidData`.
            if h2.get_io().is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData) {
                return (Reason::TlsFailed, false);
            }
        }
        cause = error.source();
    }
    (Reason::UpstreamReset, false)
}

/// What happens to the connection when the response's body has ended.
#[allow(clippy::large_enum_variant, reason = "it lives in the body's own box")]
enum End {
    /// It is kept for the next request.
    Http1(Http1, Key, Arc<LocalPod>, Pools),
    /// Its place is given back.
    Http2(#[allow(dead_code, reason = "dropping it is its use")] Lease<Http2>),
}

impl End {
    fn run(self) {
        if let Self::Http1(sender, key, pod, pools) = self {
            pools.put_http1(key, sender, &pod);
        }
    }
}

fn finish(response: Response<Incoming>, end: Option<End>) -> Response<Body> {
    response.map(|body| match end {
        Some(end) if body.is_end_stream() => {
            end.run();
            Body::Incoming(body)
        }
        Some(_) => Body::boxed(Finishing { body, end }),
        None => Body::Incoming(body),
    })
}

/// A response's body that gives its connection back at its end. Dropped earlier, it takes the connection along.
struct Finishing {
    body: Incoming,
    end: Option<End>,
}

impl http_body::Body for Finishing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if frame.is_none() || this.body.is_end_stream() {
            this.end.take().into_iter().for_each(End::run);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
