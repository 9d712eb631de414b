//! HBONE: byte streams in HTTP/2 CONNECT over mutual TLS, as Istio's ztunnel speaks it.
//! Here what both sides share, and the calling side; the called side is in [`server`].

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::future::LocalBoxFuture;
use h2::{Ping, PingPong, Reason as H2Reason, RecvStream, SendStream};
use http::{Method, Request, StatusCode, Uri, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_model::Reason;

use super::dial::{Deadlines, Dial, Failure};
use crate::relay::Duplex;
use crate::send::ByteStream;
use crate::send::bytes::PooledPlace;
use crate::send::pools::{Hbone, Pools};
use crate::tunnel::pool::Lease;

pub(crate) mod server;

/// Settings of both sides. The connection's window is larger than a stream's, so that one stalled stream does not starve all.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const FRAME: u32 = 1024 * 1024;
const STREAMS: u32 = 200;
/// The longest piece handed to h2 at once.
const CHUNK: usize = 64 * 1024;
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// Says that a connection is of no use any more, whatever ended it.
struct Closed(Rc<Cell<bool>>);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// Makes the connection `io` an HBONE connection that streams can be opened on. The future carries it.
pub(crate) async fn client<I>(
    io: I,
    dial: &Dial,
    deadlines: &Deadlines,
) -> Result<(Hbone, LocalBoxFuture<'static, ()>), Failure>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(16 * 1024)
        .max_send_buffer_size(400 * 1024)
        .enable_push(false);
    let handshake = tokio::time::timeout(deadlines.tls, builder.handshake::<_, Bytes>(io)).await;
    let (sender, mut connection) = match handshake {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => return Err(dial.no_http(&error)),
        Err(_) => return Err(dial.no_http(&"HTTP/2 did not begin within the deadline")),
    };
    let closed = Rc::new(Cell::new(false));
    let (flag, pings) = (Closed(closed.clone()), connection.ping_pong());
    let carried = Box::pin(async move {
        let _flag = flag;
        tokio::select! {
            _ = connection => {}
            () = watch(pings) => {}
        }
    });
    Ok((Hbone { sender, closed }, carried))
}

/// Ends when the peer no longer answers PING.
async fn watch(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        match tokio::time::timeout(PING_PATIENCE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Opens a stream to `to`, an address and port of the pod that `dial` leads to, for the caller `peer`.
pub(crate) async fn open(
    pools: &Pools,
    dial: &Dial,
    to: SocketAddr,
    peer: SocketAddr,
) -> Result<ByteStream, Failure> {
    let key = dial.key(true);
    let mut second_try = false;
    loop {
        let lease = pools.hbone(&key, dial).await?;
        let connect = open_on(lease, to, peer, dial);
        match tokio::time::timeout(pools.deadlines().tunnel, connect).await {
            Ok(Ok(stream)) => return Ok(stream),
            // The connection was going away when it was chosen: nothing has been sent.
            Ok(Err(Opening::Unused(lease, _))) if !second_try => {
                pools.forget_hbone(&key, &lease);
                second_try = true;
            }
            Ok(Err(Opening::Unused(_, failure) | Opening::Refused(failure))) => return Err(failure),
            Err(_) => return Err(dial.no_http(&"no answer to CONNECT within the deadline")),
        }
    }
}

enum Opening {
    /// Nothing was sent.
    Unused(Lease<Hbone>, Failure),
    /// The far proxy said no, or failed before it said yes.
    Refused(Failure),
}

async fn open_on(
    lease: Lease<Hbone>,
    to: SocketAddr,
    peer: SocketAddr,
    dial: &Dial,
) -> Result<ByteStream, Opening> {
    let request = match connect_request(to, peer, dial) {
        Ok(request) => request,
        Err(error) => return Err(Opening::Refused(dial.no_http(&error))),
    };
    let sender = lease.connection.sender.sender.clone();
    let (response, send) = match sender.ready().await {
        Ok(mut ready) => match ready.send_request(request, false) {
            Ok(sent) => sent,
            Err(error) => return Err(Opening::Unused(lease, failed(dial, &error))),
        },
        Err(error) => return Err(Opening::Unused(lease, failed(dial, &error))),
    };
    match response.await {
        Ok(response) if response.status() == StatusCode::OK => {
            Ok(ByteStream::Hbone(HboneStream::new(send, response.into_body()), PooledPlace(lease)))
        }
        Ok(response) => {
            let message = format!("{to}: the far proxy answered CONNECT with {}", response.status().as_u16());
            let reason = match response.status() {
                StatusCode::BAD_REQUEST => Reason::BadTunnelRequest,
                _ => Reason::ConnectFailed,
            };
            Err(Opening::Refused(Failure::new(reason, message)))
        }
        Err(error) => Err(Opening::Refused(failed(dial, &error))),
    }
}

/// A TLS 1.3 client learns only from its first read that its certificate was refused. (h2 keeps an error's kind and
/// words, not its type; rustls' errors are `InvalidData`.)
fn failed(dial: &Dial, error: &h2::Error) -> Failure {
    let tls = error.get_io().is_some_and(|io| io.kind() == io::ErrorKind::InvalidData);
    if tls { Failure::new(Reason::TlsFailed, format!("{}: {error}", dial.to)) } else { dial.no_http(error) }
}

fn connect_request(to: SocketAddr, peer: SocketAddr, dial: &Dial) -> Result<Request<()>, http::Error> {
    let authority = to.to_string();
    let uri = Uri::builder().authority(authority.as_str()).build()?;
    let pod = &dial.pod.enrolled.pod;
    Request::builder()
        .method(Method::CONNECT)
        .uri(uri)
        .header(header::FORWARDED, format!("for=\"{peer}\""))
        .header("baggage", format!("k8s.namespace.name={},k8s.pod.name={}", pod.namespace, pod.name))
        .body(())
}

/// One stream: END_STREAM is FIN, RST_STREAM is RST.
#[derive(Debug)]
pub struct HboneStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    unread: Bytes,
    /// END_STREAM has been sent.
    shut: bool,
}

impl HboneStream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, unread: Bytes::new(), shut: false }
    }
}

impl Duplex for HboneStream {
    fn reset_on_drop(&mut self) {
        self.send.send_reset(H2Reason::CANCEL);
    }
}

impl AsyncRead for HboneStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..length).unwrap_or_default());
        this.unread.advance(length);
        // What has been taken may be sent again: the window is the only buffer.
        this.recv.flow_control().release_capacity(length).map_err(to_io)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HboneStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Poll::Ready(reset) = this.send.poll_reset(cx) {
            return Poll::Ready(Err(reset.map_or_else(to_io, |reason| to_io(reason.into()))));
        }
        this.send.reserve_capacity(buf.len().min(CHUNK));
        loop {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(capacity)) => {
                    let length = capacity.min(buf.len());
                    let chunk = Bytes::copy_from_slice(buf.get(..length).unwrap_or_default());
                    this.send.send_data(chunk, false).map_err(to_io)?;
                    return Poll::Ready(Ok(length));
                }
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.shut {
            this.shut = true;
            this.send.send_data(Bytes::new(), true).map_err(to_io)?;
        }
        Poll::Ready(Ok(()))
    }
}

/// RST_STREAM is a reset, whatever its code.
fn to_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
