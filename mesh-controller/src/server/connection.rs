//! Accepting: TLS handshakes beside each other, each with a deadline, so that a stuck peer harms nobody else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use weft_runtime::backoff::Backoff;
use weft_tls::{ServerTls, TlsStream};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time; more wait in the backlog.
const HANDSHAKES: usize = 256;

/// Accepts connections and makes their handshakes until `stop` is cancelled.
pub(super) fn accept(
    listener: TcpListener,
    tls: ServerTls,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = accept_all(&listener, &tls, &sender) => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn accept_all(listener: &TcpListener, tls: &ServerTls, to: &mpsc::Sender<io::Result<Connection>>) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                backoff.reset();
                let (tls, to) = (tls.clone(), to.clone());
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                        // The receiver is gone when the server stops.
                        Ok(Ok(stream)) => drop(to.send(Ok(Connection(stream))).await),
                        Ok(Err(error)) => tracing::info!(%peer, %error, "a TLS handshake failed"),
                        Err(_) => tracing::info!(%peer, "a TLS handshake took too long"),
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connections cannot be accepted");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// A connection as tonic wants it.
#[derive(Debug)]
pub(super) struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
