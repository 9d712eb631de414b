//! The one HTTP server of the proxy: outbound requests of applications, tunnels of peers and permitted plaintext all
//! pass it, so that limits and the defence against requests that can be read in two ways are the same everywhere.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_model::Reason;

use crate::body::Body;
use crate::seldom::seldom;
use gathered::Gathered;
use guard::Guarded;
use timer::HeadTimer;

mod gathered;
mod guard;
mod timer;

/// The version that a connection speaks. Who calls has found out which, by ALPN or by the first bytes
/// (`PRI * HTTP/2.0` is HTTP/2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1 or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

impl HttpVersion {
    /// The version of a message.
    pub fn of(version: Version) -> Self {
        if version == Version::HTTP_2 { Self::Http2 } else { Self::Http1 }
    }
}

/// Limits of one connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one header section; more is 431. So are more than 100 fields of HTTP/1: hyper's own limit, since for
    /// any other it allocates and clears an array per message.
    pub header_bytes: usize,
    /// From the first byte awaited to the end of the header section; also how long an idle HTTP/1 connection is kept.
    pub header_timeout: Duration,
    /// Streams at a time of one HTTP/2 connection.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 64 * 1024, header_timeout: Duration::from_secs(75), streams: 200 }
    }
}

/// Why a connection ended other than by either side's orderly close.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Ended {
    /// The word for log and metrics. The peer has had its 400 or 431 already, where HTTP allows one.
    pub reason: Reason,
    /// Details.
    pub message: String,
}

/// How many bytes an HTTP/2 stream takes that its peer does not read yet: of many streams all stay in memory.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;

/// Runs hyper's background tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves requests on `io` until it ends. `handler` is called once per request, concurrently for HTTP/2; it never fails:
/// refusals are responses. When `closing` completes, requests in flight are finished, the peer is told
/// (`Connection: close`, GOAWAY), and the connection ends.
///
/// Upgrades: when the handler answers 101 (or 2xx to CONNECT) with a response that holds an
/// `hyper::upgrade::OnUpgrade` of its other side, both sides are joined here; the handler has nothing to do.
pub async fn serve<I, H, F>(
    io: I,
    version: HttpVersion,
    limits: &Limits,
    closing: impl Future<Output = ()>,
    handler: H,
) -> Result<(), Ended>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Box<Request<Body>>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let refused = Rc::new(RefCell::new(None));
    let seen = refused.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = match checked(request) {
            Ok(request) => Ok(answer(&handler, request)),
            Err(message) => {
                *seen.borrow_mut() = Some(Ended { reason: Reason::BadRequest, message: message.to_owned() });
                Err(refusal(message))
            }
        };
        async move {
            Ok::<_, Infallible>(match answer {
                Ok(future) => future.await,
                Err(response) => response,
            })
        }
    });
    let ambiguous = Arc::new(OnceLock::new());
    let ended = match version {
        HttpVersion::Http1 => {
            let io = Guarded::new(io, limits.header_bytes, ambiguous.clone());
            serve_http1(io, limits, closing, service).await
        }
        HttpVersion::Http2 => serve_http2(io, limits, closing, service).await,
    };
    if let Some(message) = ambiguous.get() {
        return Err(Ended { reason: Reason::BadRequest, message: (*message).to_owned() });
    }
    match refused.take() {
        Some(refusal) => Err(refusal),
        None => ended.map_err(Ended::from),
    }
}

type Served<S> = <S as hyper::service::Service<Request<Incoming>>>::Future;

async fn serve_http1<I, S>(
    io: I,
    limits: &Limits,
    closing: impl Future<Output = ()>,
    service: S,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
{
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(HeadTimer::default())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(64 * 1024))
        .auto_date_header(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    // A request that has come in by then is seen before the connection is taken to be idle.
    let closing = seldom(async {
        closing.await;
        tokio::task::yield_now().await;
    });
    tokio::select! {
        biased;
        result = &mut connection => return result,
        () = closing => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn serve_http2<I, S>(
    io: I,
    limits: &Limits,
    closing: impl Future<Output = ()>,
    service: S,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    Served<S>: 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .max_concurrent_streams(limits.streams)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20))
        .auto_date_header(false)
        .enable_connect_protocol();
    let io = Gathered::new(io);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io.handle()), service));
    tokio::select! {
        result = io.carry(connection.as_mut()) => return result,
        () = seldom(closing) => connection.as_mut().graceful_shutdown(),
    }
    io.carry(connection).await
}

/// What hyper lets through and a proxy must not (RFC 9112 §3.2: exactly one Host, RFC 9110 §4.2.3 and §7.2).
fn checked(request: Request<Incoming>) -> Result<Box<Request<Body>>, &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one Host header");
    }
    if first.is_none() && request.version() == Version::HTTP_11 {
        return Err("an HTTP/1.1 request without Host header");
    }
    if first.is_some_and(|host| !is_authority(host)) {
        return Err("a Host header that is no host and port");
    }
    // Boxed: each step on its way would have room for it, and copy it.
    Ok(Box::new(request.map(Body::Incoming)))
}

fn is_authority(host: &HeaderValue) -> bool {
    host.is_empty()
        || http::uri::Authority::try_from(host.as_bytes())
            .is_ok_and(|authority| !authority.as_str().contains('@'))
}

fn refusal(message: &str) -> Response<Body> {
    let mut response = Response::new(Body::text(format!("weft: {}: {message}\n", Reason::BadRequest)));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn answer<H, F>(
    handler: &H,
    mut request: Box<Request<Body>>,
) -> impl Future<Output = Response<Body>> + use<H, F>
where
    H: Fn(Box<Request<Body>>) -> F,
    F: Future<Output = Response<Body>>,
{
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let connect = request.method() == Method::CONNECT;
    // The framing guard stops reading behind a request that may switch protocols (`guard.rs`), so if none is switched
    // to, no other request may follow on the connection.
    let unguarded =
        request.version() <= Version::HTTP_11 && (connect || request.headers().contains_key(header::UPGRADE));
    // Boxed: hyper moves the future that it is given, several times. The box comes first, so that the future is made in
    // it: of one that is moved there all is copied, although it holds no more than the request yet.
    let place = Box::new_uninit();
    let response = Box::into_pin(Box::write(place, handler(request)));
    async move {
        let mut response = response.await;
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (connect && response.status().is_success());
        if switches {
            match (upgrade, response.extensions_mut().remove::<OnUpgrade>()) {
                (Some(ours), Some(theirs)) => {
                    *response.body_mut() = Body::Empty;
                    tokio::task::spawn_local(join(ours, theirs));
                }
                _ => return unasked_upgrade(),
            }
        } else if unguarded {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The application switched protocols although nobody asked it to (RFC 9110 §15.2.2): bytes that follow could not
/// be told apart from the next response.
fn unasked_upgrade() -> Response<Body> {
    let mut response =
        Response::new(Body::text("weft: upstream_reset: the application switched protocols unasked\n"));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

async fn join(ours: OnUpgrade, theirs: OnUpgrade) {
    if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
        // How it ends is up to both applications; an error on one side closes the other.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await;
    }
}

impl From<hyper::Error> for Ended {
    fn from(error: hyper::Error) -> Self {
        let reason = if error.is_parse_too_large() {
            Reason::HeadersTooLarge
        } else if error.is_parse() {
            Reason::BadRequest
        } else {
            Reason::DownstreamReset
        };
        let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
        Self { reason, message: format!("{error}{cause}") }
    }
}

#[cfg(test)]
mod tests;
