//! A byte stream to or from an application, over TCP or in a tunnel, with half-close and reset carried exactly.

use tokio::net::TcpStream;

/// A byte stream. Reading 0 bytes is the peer's FIN (END_STREAM); an error of kind `ConnectionReset` its RST
/// (RST_STREAM). `shutdown` sends FIN (END_STREAM) and leaves reading open; [`ByteStream::reset`] sends RST (RST_STREAM).
#[derive(Debug)]
pub enum ByteStream {
    /// A TCP connection.
    Tcp(TcpStream),
}

impl ByteStream {
    /// Ends both directions at once, by RST or RST_STREAM.
    pub fn reset(self) {
        match self {
            Self::Tcp(stream) => {
                // With linger 0 close sends RST instead of FIN.
                let _ = stream.set_zero_linger();
            }
        }
    }
}
