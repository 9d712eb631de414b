//! A TLS connection as a stream of bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use webpki::KeyUsage;

use crate::{Peer, TlsError};

/// A TLS connection after its handshake.
///
/// * Reading: a clean end (close_notify) is end of file; an end without it is [`io::ErrorKind::UnexpectedEof`]
///   ([`crate::TlsError::Truncated`]), so that a cut connection is never taken for a complete one.
/// * After a clean end of reading, writing goes on (half-close).
/// * `shutdown` sends close_notify and closes the transport's writing half.
#[derive(Debug)]
pub struct TlsStream<IO>(tokio_rustls::TlsStream<IO>);

impl<IO> TlsStream<IO> {
    pub(crate) fn new(stream: impl Into<tokio_rustls::TlsStream<IO>>) -> Self {
        Self(stream.into())
    }

    /// The transport below.
    pub fn transport(&self) -> &IO {
        self.0.get_ref().0
    }

    /// The transport below.
    pub fn transport_mut(&mut self) -> &mut IO {
        self.0.get_mut().0
    }

    /// The key exchange agreed on, for example `X25519MLKEM768`.
    pub fn key_exchange(&self) -> Option<&'static str> {
        let group = self.0.get_ref().1.negotiated_key_exchange_group()?;
        group.name().as_str()
    }

    /// Whom the handshake found at the other end.
    ///
    /// # Errors
    /// The peer showed no certificate, or one that is no workload's: not between proxies.
    pub fn peer(&self) -> Result<Peer, TlsError> {
        let usage = match &self.0 {
            tokio_rustls::TlsStream::Client(_) => KeyUsage::server_auth(),
            tokio_rustls::TlsStream::Server(_) => KeyUsage::client_auth(),
        };
        Peer::read(self.session().peer_certificates(), usage)
    }

    pub(crate) fn session(&self) -> &rustls::CommonState {
        self.0.get_ref().1
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
