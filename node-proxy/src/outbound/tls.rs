//! TLS that a TLSRoute covers: the server name decides, nothing is decrypted.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use weft_model::Reason;
use weft_routing::{StreamRule, TlsTable};
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
    let rule = match routes.table() {
        Some(table) => by_server_name(table, &mut connection.stream, &mut first).await.cloned(),
        None => Err(no_match("the Service port has no TLSRoute any more")),
    };
    match rule {
        Ok(rule) => connection.follow(&rule, first).await,
        Err(refused) => connection.refuse(&refused),
    }
}

/// The rule for the server name that a client gives. What is read of the client's bytes stays in `first`.
///
/// # Errors
/// `no_sni_match`: there is none, or no TLS.
pub(super) async fn by_server_name<'t>(
    table: &'t TlsTable,
    stream: &mut (impl AsyncRead + Unpin),
    first: &mut BytesMut,
) -> Result<&'t Arc<StreamRule>, Refused> {
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, hello(stream, first)).await {
        Ok(hello) => hello?,
        Err(_) => return Err(no_match("the caller sent no TLS ClientHello in time")),
    };
    let name = hello.server_name.as_deref();
    table.select(name).ok_or_else(|| match name {
        Some(name) => no_match(format!("no TLSRoute of this Service port has a hostname for {name:?}")),
        None => no_match("the caller's TLS ClientHello has no server name, which TLSRoutes are matched by"),
    })
}

/// Reads a ClientHello; its bytes stay in `first`, where some may be already.
pub(crate) async fn hello(
    stream: &mut (impl AsyncRead + Unpin),
    first: &mut BytesMut,
) -> Result<Hello, Refused> {
    let mut reader = HelloReader::default();
    if !first.is_empty()
        && let Some(hello) = reader.feed(first).map_err(|error| no_match(error.to_string()))?
    {
        return Ok(hello);
    }
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
