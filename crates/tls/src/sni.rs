//! Reading the server name out of a ClientHello that is on its way to somebody else (TLSRoute). The bytes stay the
//! caller's: this reader looks at copies and never answers.

use rustls::server::Acceptor;

/// A ClientHello's routing facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The server name (RFC 6066 §3), lower case; `None`: the client named none.
    pub server_name: Option<String>,
    /// The application protocols offered (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
}

/// Bytes that are no ClientHello.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHello {
    /// Not TLS.
    #[error("the connection does not begin with a TLS ClientHello: {0}")]
    NotTls(String),
    /// More bytes than allowed and still no end of it.
    #[error("the TLS ClientHello is larger than {0} bytes")]
    TooLarge(usize),
}

/// Reads a ClientHello piece by piece.
pub struct HelloReader {
    acceptor: Acceptor,
    seen: usize,
    limit: usize,
}

impl HelloReader {
    /// The largest ClientHello read by default, in bytes. Post-quantum key shares are about 1.2 KiB.
    pub const DEFAULT_LIMIT: usize = 16 * 1024;

    /// A reader that gives up after `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { acceptor: Acceptor::default(), seen: 0, limit }
    }

    /// Takes the next bytes; `None`: more are needed. Not to be called again after an answer or an error.
    ///
    /// # Errors
    /// The bytes cannot become a ClientHello.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, NoHello> {
        self.seen = self.seen.saturating_add(bytes.len());
        let too_large = self.seen > self.limit;
        while !bytes.is_empty() {
            let not_tls = |why: String| NoHello::NotTls(why);
            self.acceptor.read_tls(&mut bytes).map_err(|error| not_tls(error.to_string()))?;
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return Ok(Some(Hello {
                        server_name: hello.server_name().map(str::to_ascii_lowercase),
                        alpn: hello
                            .alpn()
                            .map(|names| names.map(<[u8]>::to_vec).collect())
                            .unwrap_or_default(),
                    }));
                }
                Ok(None) => {}
                Err((error, _alert)) => return Err(not_tls(error.to_string())),
            }
        }
        if too_large { Err(NoHello::TooLarge(self.limit)) } else { Ok(None) }
    }
}

impl Default for HelloReader {
    fn default() -> Self {
        Self::new(Self::DEFAULT_LIMIT)
    }
}

impl std::fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HelloReader")
            .field("seen", &self.seen)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
