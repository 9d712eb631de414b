//! What a captured connection speaks: by what its port declares and the routes that cover it, else by its first bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use weft_model::service::AppProtocol;
use weft_routing::{PortRoutes, ServicePortRoutes, StreamRule, Table, TlsTable};

use crate::call::{Captured, Destination};

/// How HTTP/2 without TLS begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method that is looked for; IANA's longest is `UPDATEREDIRECTREF`.
const LONGEST_METHOD: usize = 20;

/// What is to be done with a connection.
#[derive(Debug)]
pub enum Decision {
    /// Parse it as HTTP.
    Http,
    /// Read the server name; these routes decide.
    Tls(TlsRoutes),
    /// This TCPRoute's rule decides.
    Tcp(Arc<StreamRule>),
    /// Pass it as it is.
    Bytes,
    /// Look at its first bytes.
    Peek,
}

/// The TLSRoutes of one Service port as one client's namespace sees them.
#[derive(Debug)]
pub struct TlsRoutes {
    routes: Arc<ServicePortRoutes>,
    namespace: weft_model::Text,
}

impl TlsRoutes {
    /// The table, which [`decide`] has found to be there.
    pub fn table(&self) -> Option<&TlsTable> {
        match &self.routes.select_set(&self.namespace)?.table {
            Table::Tls(table) => Some(table),
            Table::Http(_) | Table::Tcp(_) => None,
        }
    }
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1 or HTTP/2 without TLS.
    Http,
    /// Anything else.
    Other,
}

/// Decides by the destination alone (`docs/dataplane.md`, Protocols).
pub fn decide(captured: &Captured) -> Decision {
    let Destination::Service { service, port, protocol } = &captured.destination else {
        return Decision::Bytes;
    };
    let namespace = &captured.source.enrolled.pod.namespace;
    let routes = captured.snapshot.routes(&service.name, *port);
    match routes.and_then(|routes| Some((routes, routes.select_set(namespace)?))) {
        None if is_http(*protocol) => Decision::Http,
        None => Decision::Bytes,
        Some((routes, set)) => match &set.table {
            Table::Http(_) => under_http_routes(set, *protocol),
            Table::Tls(_) => {
                Decision::Tls(TlsRoutes { routes: routes.clone(), namespace: namespace.clone() })
            }
            Table::Tcp(table) => Decision::Tcp(table.rule().clone()),
        },
    }
}

/// A route that names the port has the last word; one that names none bows to what the port declares.
fn under_http_routes(set: &PortRoutes, protocol: AppProtocol) -> Decision {
    match protocol {
        _ if set.explicit_port || is_http(protocol) => Decision::Http,
        AppProtocol::Tcp | AppProtocol::Tls => Decision::Bytes,
        _ => Decision::Peek,
    }
}

/// Whether these routes of HTTP leave a port to bytes, since none names it and it declares something else.
pub fn leave_to_bytes(routes: &PortRoutes, protocol: AppProtocol) -> bool {
    matches!(under_http_routes(routes, protocol), Decision::Bytes)
}

const fn is_http(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Http | AppProtocol::H2c | AppProtocol::WebSocket)
}

/// Reads into `first` until it can be told what is spoken. Cancel-safe: what was read stays in `first`.
///
/// # Errors
/// The caller's reset.
pub async fn first_bytes(stream: &mut (impl AsyncRead + Unpin), first: &mut BytesMut) -> io::Result<Speaks> {
    loop {
        if let Some(speaks) = classify(first) {
            return Ok(speaks);
        }
        if stream.read_buf(first).await? == 0 {
            return Ok(Speaks::Other);
        }
    }
}

/// As [`first_bytes`], but what has come and can still not be told is [`Speaks::Other`] when nothing follows for
/// `pause`: the server may be waiting for just these bytes. Should they begin an HTTP request after all, the callee's
/// side ends the stream.
///
/// # Errors
/// The caller's reset.
pub async fn first_bytes_or_pause(
    stream: &mut (impl AsyncRead + Unpin),
    first: &mut BytesMut,
    pause: Duration,
) -> io::Result<Speaks> {
    loop {
        if let Some(speaks) = classify(first) {
            return Ok(speaks);
        }
        let nothing_yet = first.is_empty();
        let read = stream.read_buf(first);
        let count = if nothing_yet {
            read.await?
        } else {
            let Ok(count) = tokio::time::timeout(pause, read).await else { return Ok(Speaks::Other) };
            count?
        };
        if count == 0 {
            return Ok(Speaks::Other);
        }
    }
}

/// What bytes say that a connection begins with; `None`: too few to tell.
pub fn classify(first: &[u8]) -> Option<Speaks> {
    let head = first.get(..PREFACE.len().min(first.len())).unwrap_or(first);
    if PREFACE.starts_with(head) {
        // `PRI` could become nothing else, but an empty beginning could become anything.
        return (head.len() == PREFACE.len()).then_some(Speaks::Http);
    }
    let method = first.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    if method > LONGEST_METHOD {
        return Some(Speaks::Other);
    }
    let rest = first.get(method..).unwrap_or_default();
    match rest {
        [] => None,
        [b' '] if method > 0 => None,
        [b' ', target @ ..] if method > 0 => target_says(first.get(..method)?, target),
        _ => Some(Speaks::Other),
    }
}

/// After the method comes a target in one of the four forms of RFC 9112 §3.2.
fn target_says(method: &[u8], target: &[u8]) -> Option<Speaks> {
    let absolute = |scheme: &[u8]| {
        let length = scheme.len().min(target.len());
        target.get(..length) == scheme.get(..length)
    };
    match target {
        [b'/', ..] => Some(Speaks::Http),
        [b'*', b' ', ..] if method == b"OPTIONS" => Some(Speaks::Http),
        [b'*'] if method == b"OPTIONS" => None,
        _ if method == b"CONNECT" => Some(Speaks::Http),
        _ if absolute(b"http://") => (target.len() >= 7).then_some(Speaks::Http),
        _ if absolute(b"https://") => (target.len() >= 8).then_some(Speaks::Http),
        _ => Some(Speaks::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_recognised_as_soon_as_it_can_be_told() {
        let table: [(&[u8], Option<Speaks>); 20] = [
            (b"", None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET /", Some(Speaks::Http)),
            (b"M-SEARCH * HTTP/1.1", Some(Speaks::Other)),
            (b"OPTIONS *", None),
            (b"OPTIONS * HTTP/1.1", Some(Speaks::Http)),
            (b"GET http", None),
            (b"GET http://a/", Some(Speaks::Http)),
            (b"CONNECT a:1", Some(Speaks::Http)),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Speaks::Http)),
            (b"PRI * HTTP/3", Some(Speaks::Other)),
            (b"SSH-2.0-OpenSSH_9", Some(Speaks::Other)),
            (b"PING\r\n", Some(Speaks::Other)),
            (b"SET name value", Some(Speaks::Other)),
            (b"\x16\x03\x01", Some(Speaks::Other)),
            (b" GET /", Some(Speaks::Other)),
            (b"AVERYLONGWORDTHATISNOMETHOD", Some(Speaks::Other)),
        ];
        for (first, expected) in table {
            assert_eq!(classify(first), expected, "{:?}", String::from_utf8_lossy(first));
        }
    }

    #[test]
    fn what_was_told_once_does_not_change_with_more_bytes() {
        for whole in
            [&b"GET /a HTTP/1.1\r\n"[..], PREFACE, b"SSH-2.0-x\r\n", b"OPTIONS * HTTP/1.1\r\n", b"SET a /"]
        {
            let told: Vec<_> = (0..=whole.len()).filter_map(|n| classify(&whole[..n])).collect();
            assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{:?}", String::from_utf8_lossy(whole));
            assert!(!told.is_empty());
        }
    }
}
