//! The one HTTP server of the proxy: outbound requests of applications, tunnels of peers and permitted plaintext all
//! pass it, so that limits and the defence against requests that can be read in two ways are the same everywhere.

use std::future::Future;
use std::time::Duration;

use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_model::Reason;

use crate::body::Body;

/// The version that a connection speaks. Who calls has found out which, by ALPN or by the first bytes
/// (`PRI * HTTP/2.0` is HTTP/2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.1 or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Limits of one connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one header section; more is 431.
    pub header_bytes: usize,
    /// Fields of one header section; more is 431.
    pub headers: usize,
    /// From the first byte awaited to the end of the header section; also how long an idle HTTP/1 connection is kept.
    pub header_timeout: Duration,
    /// Streams at a time of one HTTP/2 connection.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 64 * 1024, headers: 128, header_timeout: Duration::from_secs(75), streams: 200 }
    }
}

/// Why a connection ended other than by either side's orderly close.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Ended {
    /// The word for log and metrics. The peer has had its 400 or 431 already, where HTTP allows one.
    pub reason: Reason,
    /// Details.
    pub message: String,
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
    H: Fn(Request<Body>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let _ = (io, version, limits, closing, handler);
    Err(Ended { reason: Reason::Internal, message: "not built yet".to_owned() })
}
