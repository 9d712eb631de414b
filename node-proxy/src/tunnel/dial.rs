//! Making a connection: to a peer's tunnel port, to an endpoint outside the mesh, or to an application of this node.
//! Every step has its own deadline.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use weft_model::{Identity, Reason, Text};
use weft_tls::{Alpn, Carries, TlsError, TlsStream, WorkloadTls};

use super::proofs::Pair;
use super::renew::Renew;
use super::trusted::Trusted;
use crate::pieces::poll_write_pieces;
use crate::pod::LocalPod;
use crate::send::backend::{BackendPolicy, Same};
use crate::send::bytes::Pipe;
use crate::worker::Shared;

/// How long each step of making a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// TCP's handshake.
    pub connect: Duration,
    /// TLS's handshake, on either side.
    pub tls: Duration,
    /// From a CONNECT to its answer. Longer than `connect`, which the far proxy spends within it.
    pub tunnel: Duration,
}

impl Deadlines {
    /// TCP's handshake within `connect`; the rest follows from it.
    pub fn connecting_within(connect: Duration) -> Self {
        Self { connect, tls: Duration::from_secs(5), tunnel: connect + Duration::from_secs(2) }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self::connecting_within(Duration::from_secs(5))
    }
}

/// A connection that could be made, and all that tells it from others: two requests may share a connection only if their
/// keys are equal.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    /// The pod in whose namespace the socket lives.
    pub(crate) pod: Arc<LocalPod>,
    /// Where to.
    pub(crate) to: SocketAddr,
    /// How.
    pub(crate) way: Way,
}

#[derive(Clone)]
pub(crate) enum Way {
    /// Mutual TLS to the pod `to_pod`, which must be `expected`.
    Tunnel {
        tls: Arc<WorkloadTls>,
        shared: Arc<Shared>,
        to_pod: Option<Text>,
        expected: Identity,
        alpn: Alpn,
    },
    /// Plaintext out of the mesh.
    Plain,
    /// TLS to the backend itself as its policy says, out of the mesh or inside a tunnel.
    Backend { policy: Arc<BackendPolicy>, carries: Carries, tunnel: Option<Box<Dial>> },
    /// Plaintext to the pod's own application, from the caller's address.
    Application { caller: SocketAddr },
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tunnel { expected, alpn, .. } => write!(f, "{alpn} to {expected}"),
            Self::Plain => f.write_str("plaintext"),
            Self::Backend { carries, .. } => write!(f, "TLS to a backend for {carries:?}"),
            Self::Application { caller } => write!(f, "application for {caller}"),
        }
    }
}

/// What a pooled connection is kept under (`dataplane.md` rules 18 and 19).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pod: Text,
    to: SocketAddr,
    way: KeyWay,
    http2: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum KeyWay {
    Tunnel { own: Identity, to_pod: Option<Text>, expected: Identity, alpn: Alpn },
    Plain,
    Backend { policy: Same, carries: Carries, tunnel: Option<Box<Key>> },
    Application { caller: IpAddr },
}

/// Why no connection came about. No byte of any request has been sent.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) message: Text,
}

impl Failure {
    pub(crate) fn new(reason: Reason, message: impl Into<Text>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Key {
    pub(crate) fn is_application(&self) -> bool {
        matches!(self.way, KeyWay::Application { .. })
    }
}

impl Dial {
    pub(crate) fn key(&self, http2: bool) -> Key {
        let way = match &self.way {
            Way::Tunnel { to_pod, expected, alpn, .. } => KeyWay::Tunnel {
                own: self.pod.identity.clone(),
                to_pod: to_pod.clone(),
                expected: expected.clone(),
                alpn: *alpn,
            },
            Way::Plain => KeyWay::Plain,
            Way::Backend { policy, carries, tunnel } => KeyWay::Backend {
                policy: Same(policy.clone()),
                carries: *carries,
                tunnel: tunnel.as_ref().map(|tunnel| Box::new(tunnel.key(true))),
            },
            Way::Application { caller } => KeyWay::Application { caller: caller.ip() },
        };
        Key { pod: self.pod.enrolled.uid.clone(), to: self.to, way, http2 }
    }

    /// Makes the TCP connection.
    pub(crate) async fn run_plain(&self, deadlines: &Deadlines) -> Result<TcpStream, Failure> {
        match tokio::time::timeout(deadlines.connect, self.connect()).await {
            Ok(Ok(stream)) => {
                keep_alive(&stream);
                Ok(stream)
            }
            Ok(Err(error)) => Err(self.failed(Reason::ConnectFailed, &error)),
            Err(_) => Err(self.failed(Reason::ConnectFailed, &"no answer within the deadline")),
        }
    }

    /// Makes the connection, with TLS where it needs it.
    pub(crate) async fn run(&self, deadlines: &Deadlines) -> Result<Io, Failure> {
        let stream = self.run_plain(deadlines).await?;
        let (tls, shared, expected, alpn) = match &self.way {
            Way::Tunnel { tls, shared, expected, alpn, .. } => (tls, shared, expected, alpn),
            Way::Backend { policy, carries, .. } => {
                let stream = self.secure(policy, stream, *carries, deadlines).await?;
                return Ok(Io::Backend(Box::new(stream)));
            }
            Way::Plain | Way::Application { .. } => return Ok(Io::Tcp(stream)),
        };
        let handshake = async {
            let stream = tls.connect(stream, expected, *alpn).await?;
            let proof = shared.proofs.shown(self.pair(expected), stream.peer()?, tls);
            let trust = shared.certificates.trust();
            Ok::<_, TlsError>(Trusted::new(stream, proof, trust, Some(Renew::by(self, deadlines))))
        };
        match tokio::time::timeout(deadlines.tls, handshake).await {
            Ok(Ok(stream)) => Ok(Io::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(self.no_tls(&error)),
            Err(_) => Err(self.no_tls(&"the TLS handshake did not end within the deadline")),
        }
    }

    /// Makes a connection to a backend one of TLS.
    pub(crate) async fn secure<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        policy: &BackendPolicy,
        io: IO,
        carries: Carries,
        deadlines: &Deadlines,
    ) -> Result<TlsStream<IO>, Failure> {
        match tokio::time::timeout(deadlines.tls, policy.connect(io, carries)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.no_tls(&error)),
            Err(_) => Err(self.no_tls(&"the TLS handshake did not end within the deadline")),
        }
    }

    /// Both ends, if the peer is `expected`.
    pub(super) fn pair(&self, expected: &Identity) -> Pair {
        let to_pod = match &self.way {
            Way::Tunnel { to_pod, .. } => to_pod.clone(),
            Way::Plain | Way::Backend { .. } | Way::Application { .. } => None,
        };
        let pod = self.pod.enrolled.uid.clone();
        Pair::Calling { pod, to: self.to, to_pod, expected: expected.clone() }
    }

    /// The peer is not who it should be, or refuses us.
    pub(super) fn no_tls(&self, why: &dyn std::fmt::Display) -> Failure {
        self.failed(Reason::TlsFailed, why)
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        match &self.way {
            Way::Tunnel { .. } | Way::Plain | Way::Backend { .. } => self.pod.connect(self.to).await,
            Way::Application { caller } => self.pod.connect_application(self.to, *caller).await,
        }
    }

    /// The connection stands but does not speak HTTP.
    pub(crate) fn no_http(&self, why: &dyn std::fmt::Display) -> Failure {
        self.failed(Reason::ConnectFailed, why)
    }

    fn failed(&self, reason: Reason, why: &dyn std::fmt::Display) -> Failure {
        Failure::new(reason, format!("{}: {why}", self.to))
    }
}

/// A peer that vanished without a word is noticed: probes when idle, and a limit on unacknowledged data.
pub(crate) fn keep_alive(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    // Neither can fail on a TCP socket; without them the connection still works.
    let _ = socket.set_tcp_keepalive(&probes);
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(30)));
}

/// A connection that was made.
#[derive(Debug)]
pub(crate) enum Io {
    Tcp(TcpStream),
    Tls(Box<Trusted<TcpStream>>),
    Backend(Box<TlsStream<TcpStream>>),
    /// TLS to a backend inside a tunnel.
    Inner(Box<TlsStream<Pipe>>),
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Backend(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Inner(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Backend(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Inner(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Backend(stream) => Pin::new(stream).poll_flush(cx),
            Self::Inner(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Backend(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Inner(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => poll_write_pieces(stream, cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Backend(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Inner(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Backend(stream) => stream.is_write_vectored(),
            Self::Inner(stream) => stream.is_write_vectored(),
        }
    }
}
