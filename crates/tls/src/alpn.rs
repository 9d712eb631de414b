//! What a connection between proxies carries, named by ALPN (RFC 7301).

use std::fmt;

/// What a connection to port 15008 carries (`docs/dataplane.md`, On the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alpn {
    /// `h2`: byte streams in HTTP/2 CONNECT, as Istio's ztunnel speaks it.
    Hbone,
    /// `weft-h1`: HTTP/1.1 requests themselves.
    WeftH1,
    /// `weft-h2`: HTTP/2 requests themselves.
    WeftH2,
}

impl Alpn {
    /// Every protocol, in the order in which a server prefers them.
    pub const ALL: [Self; 3] = [Self::WeftH1, Self::WeftH2, Self::Hbone];

    /// The protocol's name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hbone => "h2",
            Self::WeftH1 => "weft-h1",
            Self::WeftH2 => "weft-h2",
        }
    }

    /// The protocol with this name.
    pub fn from_wire(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Alpn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
