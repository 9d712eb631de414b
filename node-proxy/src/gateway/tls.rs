//! Ports where TLS comes in: the server name decides which listener a connection is for, and that whether its TLS ends
//! here (HTTPS, and TLS in mode Terminate) or goes on as it is (mode Passthrough).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_model::Reason;
use weft_model::gateway::{ListenerProtocol, ListenerTls};
use weft_routing::ListenerEntry;
use weft_routing::host::host_name;
use weft_tls::TlsStream;

use super::{Entrance, follow, origin};
use crate::call::Accepted;
use crate::listen::refuse;
use crate::outbound::http;
use crate::outbound::http::refusal::Refused;
use crate::outbound::near::Near;
use crate::outbound::tcp::Connection;
use crate::outbound::tls::{HELLO_TIMEOUT, hello};
use crate::prefixed::Prefixed;
use crate::state::Snapshot;
use crate::worker::WorkerRef;

/// From the ClientHello to the handshake's end.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection.
pub(super) async fn serve(
    worker: &WorkerRef,
    mut accepted: Accepted,
    mut entrance: Entrance,
    snapshot: Arc<Snapshot>,
    begun: Instant,
) {
    let mut first = BytesMut::new();
    let name = match tokio::time::timeout(HELLO_TIMEOUT, hello(&mut accepted.stream, &mut first)).await {
        Ok(Ok(hello)) => hello.server_name.unwrap_or_default(),
        Ok(Err(refused)) => return refuse(worker, accepted, begun, &refused),
        Err(_) => {
            let message = "the caller sent no TLS ClientHello in time";
            return refuse(worker, accepted, begun, &Refused::new(Reason::NoSniMatch, message));
        }
    };
    let name = host_name(&name);
    let Some(entry) = snapshot.listener(entrance.address.port(), &name).cloned() else {
        let message = format!("no listener of this port has a hostname for {name:?}");
        return refuse(worker, accepted, begun, &Refused::new(Reason::NoSniMatch, message));
    };
    if let Some(refusal) = &entry.listener.refusal {
        let refused = Refused::new(Reason::InvalidListener, &*refusal.message);
        return refuse(worker, accepted, begun, &refused);
    }
    if !matches!(entry.listener.tls, Some(ListenerTls::Terminate { .. })) {
        let (origin, stream) = origin(accepted, entrance);
        let near = (origin, Near::Tcp(stream));
        let mut connection = Connection::at_gateway(worker, near, snapshot, &entry, begun);
        connection.outcome.labels.protocol = crate::telemetry::Protocol::Tls;
        let rule = entry.table.by_server_name(Some(&name));
        return follow(connection, &entry, rule, first).await;
    }
    entrance.server_name = Some(name.as_ref().into());
    terminate(worker, (accepted, entrance), (first.freeze(), &name), snapshot, &entry, begun).await;
}

async fn terminate(
    worker: &WorkerRef,
    (accepted, entrance): (Accepted, Entrance),
    (first, name): (Bytes, &str),
    snapshot: Arc<Snapshot>,
    entry: &Arc<ListenerEntry>,
    begun: Instant,
) {
    let (origin, stream) = origin(accepted, entrance);
    let stream = match handshake(&snapshot, entry, first, stream).await {
        Ok(stream) => stream,
        Err(refused) => return tell(worker, &origin, &snapshot, entry, (&refused, begun)),
    };
    if entry.listener.protocol == ListenerProtocol::Https {
        return http::serve(worker, origin, stream, Bytes::new()).await;
    }
    let near = (origin, Near::Tls(Box::new(stream)));
    let connection = Connection::at_gateway(worker, near, snapshot, entry, begun);
    let rule = entry.table.by_server_name(Some(name)).or_else(|| entry.table.stream());
    follow(connection, entry, rule, BytesMut::new()).await;
}

async fn handshake(
    snapshot: &Snapshot,
    entry: &ListenerEntry,
    first: Bytes,
    stream: TcpStream,
) -> Result<TlsStream<Prefixed<TcpStream>>, Refused> {
    let Some(frontend) = snapshot.frontend(&entry.listener.id) else {
        return Err(Refused::new(Reason::InvalidListener, "the listener has no certificate"));
    };
    let tls =
        frontend.tls.as_ref().map_err(|error| Refused::new(Reason::InvalidListener, error.to_string()))?;
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(Prefixed::new(first, stream))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Refused::new(Reason::TlsFailed, error.to_string())),
        Err(_) => Err(Refused::new(Reason::TlsFailed, "the TLS handshake did not end within the deadline")),
    }
}

/// A handshake that failed: TLS itself has told the caller, by an alert.
fn tell(
    worker: &WorkerRef,
    origin: &crate::outbound::origin::Origin,
    snapshot: &Snapshot,
    entry: &Arc<ListenerEntry>,
    (refused, begun): (&Refused, Instant),
) {
    let mut outcome = origin.outcome(snapshot, crate::telemetry::Protocol::Tls);
    outcome.labels.listener = Some(crate::telemetry::AtListener(Arc::clone(entry)));
    outcome.labels.reason = refused.reason;
    outcome.message = Some(refused.message.as_str().into());
    outcome.destination_address = Some(origin.dialled());
    outcome.duration = begun.elapsed();
    worker.shared.telemetry.record(&outcome);
}
