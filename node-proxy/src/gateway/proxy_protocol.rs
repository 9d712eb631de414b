//! The PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`): what a load balancer says of the client before
//! the client's own bytes. Where it is switched on every connection has to begin with it: whoever could leave it out
//! could say in the client's bytes what it likes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::TcpStream;
use weft_model::Reason;

use crate::outbound::http::refusal::Refused;

/// From the accept to the header's end.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What version 1 begins with.
const V1: &[u8] = b"PROXY ";
/// The longest line of version 1, with its end (section 2.1).
const V1_MOST: usize = 107;
/// What version 2 begins with (section 2.2).
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2.
const V2_HEAD: usize = 16;
/// The most that is taken of version 2: addresses, and what else a load balancer says in TLVs.
const V2_MOST: usize = V2_HEAD + 4096;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it has.
    pub length: usize,
    /// The client; `None`: the load balancer speaks for itself, or does not know.
    pub source: Option<SocketAddr>,
}

/// What begins a connection is no header, or none that could be meant for a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Reads a header from the first bytes of a connection; `None`: there is more to come of it.
///
/// # Errors
/// Whatever comes, this will not be a header.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let could_be = |signature: &[u8]| {
        let length = signature.len().min(bytes.len());
        bytes.get(..length) == signature.get(..length)
    };
    match (could_be(V1), could_be(V2)) {
        (true, _) => version_1(bytes),
        (_, true) => version_2(bytes),
        _ => Err(Malformed("it does not begin with a PROXY header")),
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let longest = bytes.get(..V1_MOST).unwrap_or(bytes);
    let Some(end) = longest.windows(2).position(|pair| pair == b"\r\n") else {
        let whole = bytes.len() >= V1_MOST;
        return if whole { Err(Malformed("its PROXY line does not end")) } else { Ok(None) };
    };
    let line = bytes.get(V1.len()..end).and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(Malformed("its PROXY line is not text"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let source = match *words {
        ["UNKNOWN", ..] => None,
        ["TCP4", source, to, port, to_port] => Some(client::<Ipv4Addr>([source, to], [port, to_port])?),
        ["TCP6", source, to, port, to_port] => Some(client::<Ipv6Addr>([source, to], [port, to_port])?),
        _ => return Err(Malformed("its PROXY line is neither UNKNOWN nor TCP4 or TCP6 with four fields")),
    };
    Ok(Some(Header { length: end + 2, source }))
}

fn client<A: FromStr + Into<IpAddr>>(
    addresses: [&str; 2],
    ports: [&str; 2],
) -> Result<SocketAddr, Malformed> {
    let address = |text: &str| text.parse::<A>().map_err(|_| Malformed("its PROXY line has a wrong address"));
    let port = |text: &str| {
        let plain = text == "0" || !text.starts_with(['0', '+']);
        text.parse::<u16>().ok().filter(|_| plain).ok_or(Malformed("its PROXY line has a wrong port"))
    };
    let ([source, to], [source_port, to_port]) = (addresses, ports);
    address(to)?;
    port(to_port)?;
    Ok(SocketAddr::new(address(source)?.into(), port(source_port)?))
}

fn version_2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((head, rest)) = bytes.split_at_checked(V2_HEAD) else { return Ok(None) };
    let [.., command, family, high, low] = head else { return Ok(None) };
    let of_addresses = usize::from(u16::from_be_bytes([*high, *low]));
    let length = V2_HEAD + of_addresses;
    if length > V2_MOST {
        return Err(Malformed("its PROXY header is too long"));
    }
    let needed = match (command, family) {
        // LOCAL: a health check of the load balancer's own.
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, _) => return Err(Malformed("its PROXY header is not of a TCP connection")),
        _ => return Err(Malformed("its PROXY header has an unknown version or command")),
    };
    if of_addresses < needed {
        return Err(Malformed("its PROXY header is too short for its addresses"));
    }
    let Some(addresses) = rest.get(..of_addresses) else { return Ok(None) };
    let source = match needed {
        12 => v2_client::<4, Ipv4Addr>(addresses),
        36 => v2_client::<16, Ipv6Addr>(addresses),
        _ => None,
    };
    Ok(Some(Header { length, source }))
}

/// Two addresses of `N` bytes, then two ports; the first of each is the client's.
fn v2_client<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, rest) = bytes.split_first_chunk::<N>()?;
    let (port, _) = rest.get(N..)?.split_first_chunk::<2>()?;
    Some(SocketAddr::new(A::from(*address).into(), u16::from_be_bytes(*port)))
}

/// Takes the header off a connection, and nothing of what follows; the client that it names.
pub(super) async fn take(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Refused> {
    let refused = |why: &str| {
        Refused::new(
            Reason::BadProxyHeader,
            format!("the listener wants the PROXY protocol of a connection: {why}"),
        )
    };
    match tokio::time::timeout(TIMEOUT, read(stream)).await {
        Ok(Ok(Ok(header))) => {
            Ok(header.source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port())))
        }
        Ok(Ok(Err(malformed))) => Err(refused(&malformed.to_string())),
        Ok(Err(error)) => Err(refused(&error.to_string())),
        Err(_) => Err(refused("its header did not come in time")),
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Result<Header, Malformed>> {
    use tokio::io::AsyncReadExt as _;
    let mut header = Vec::new();
    let mut ahead = vec![0; V2_MOST];
    loop {
        // Looked at before it is taken: what comes after the header is for whoever reads next.
        let seen = stream.peek(&mut ahead).await?;
        if seen == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before its header did"));
        }
        let taken = header.len();
        header.extend_from_slice(ahead.get(..seen).unwrap_or_default());
        let parsed = parse(&header);
        let ours = match parsed {
            Ok(Some(Header { length, .. })) => length.saturating_sub(taken).min(seen),
            Ok(None) => seen,
            Err(malformed) => return Ok(Err(malformed)),
        };
        stream.read_exact(ahead.get_mut(..ours).unwrap_or_default()).await?;
        if let Ok(Some(whole)) = parsed {
            return Ok(Ok(whole));
        }
    }
}

#[cfg(test)]
mod tests;
