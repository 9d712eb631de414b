//! TLS that a TLSRoute covers: the server name decides, nothing is decrypted.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use weft_model::Reason;
use weft_tls::sni::{Hello, HelloReader};

use super::detect::TlsRoutes;
use super::http::refusal::Refused;
use super::tcp::Connection;
use crate::telemetry::Protocol;

/// From the accept to the whole ClientHello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Routes one connection by its server name.
pub async fn serve(mut connection: Connection<'_>, routes: &TlsRoutes) {
    connection.outcome.labels.protocol = Protocol::Tls;
    let mut first = BytesMut::new();
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, hello(&mut connection.stream, &mut first)).await {
        Ok(hello) => hello,
        Err(_) => Err(no_match("the caller sent no TLS ClientHello in time")),
    };
    let rule = hello.and_then(|hello| {
        let name = hello.server_name.as_deref();
        let rule = routes.table().and_then(|table| table.select(name)).cloned();
        rule.ok_or_else(|| match name {
            Some(name) => no_match(format!("no TLSRoute of this Service port has a hostname for {name:?}")),
            None => {
                no_match("the caller's TLS ClientHello has no server name, which TLSRoutes are matched by")
            }
        })
    });
    match rule {
        Ok(rule) => connection.follow(&rule, first).await,
        Err(refused) => connection.refuse(&refused),
    }
}

/// Reads a ClientHello; its bytes stay in `first`.
pub(crate) async fn hello(
    stream: &mut (impl AsyncRead + Unpin),
    first: &mut BytesMut,
) -> Result<Hello, Refused> {
    let mut reader = HelloReader::default();
    loop {
        let before = first.len();
        match stream.read_buf(first).await {
            Ok(0) => return Err(no_match("the caller closed before its TLS ClientHello was complete")),
            Ok(_) => {}
            Err(error) => return Err(Refused::new(Reason::DownstreamReset, error.to_string())),
        }
        let fresh = first.get(before..).unwrap_or_default();
        if let Some(hello) = reader.feed(fresh).map_err(|error| no_match(error.to_string()))? {
            return Ok(hello);
        }
    }
}

fn no_match(message: impl Into<String>) -> Refused {
    Refused::new(Reason::NoSniMatch, message)
}
