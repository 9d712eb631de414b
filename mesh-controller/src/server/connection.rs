//! Connections: TLS handshakes beside each other, each with a deadline, so that a stuck peer harms nobody else; then
//! HTTP/2 with calls handed to the service they name.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use weft_runtime::backoff::Backoff;
use weft_tls::{ServerTls, TlsStream};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections at a time; more wait in the backlog. A node has two, or four while a proxy replaces another.
const CONNECTIONS: usize = 16_384;
/// A proxy that is gone without a word is noticed by pings that stay unanswered this long.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// What open connections are given when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Accepts and serves connections until `stop` is cancelled, and then for at most [`DRAIN`].
pub(super) async fn serve<F>(
    listener: TcpListener,
    tls: ServerTls,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = TaskTracker::new();
    let accepting = accept(&listener, |stream, permit| {
        let (tls, stop, answer) = (tls.clone(), stop.clone(), answer.clone());
        connections.spawn(async move {
            if let Some(stream) = handshake(&tls, stream).await {
                serve_connection(stream, stop, answer).await;
            }
            drop(permit);
        });
    });
    tokio::select! {
        () = stop.cancelled() => {}
        never = accepting => match never {},
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "stopped with connections open");
    }
}

async fn accept(
    listener: &TcpListener,
    mut serve: impl FnMut(TcpStream, tokio::sync::OwnedSemaphorePermit),
) -> Infallible {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let accepted = match Arc::clone(&permits).acquire_owned().await {
            Ok(permit) => listener.accept().await.map(|(stream, _)| (stream, permit)),
            // The semaphore is never closed.
            Err(_) => continue,
        };
        match accepted {
            Ok((stream, permit)) => {
                backoff.reset();
                serve(stream, permit);
            }
            Err(error) => {
                tracing::warn!(%error, "connections cannot be accepted");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn handshake(tls: &ServerTls, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let peer = stream.peer_addr().ok()?;
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::info!(%peer, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::info!(%peer, "a TLS handshake took too long");
            None
        }
    }
}

async fn serve_connection<F>(
    stream: TlsStream<TcpStream>,
    stop: CancellationToken,
    answer: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(KEEPALIVE))
        .keep_alive_timeout(KEEPALIVE)
        .max_concurrent_streams(100)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
