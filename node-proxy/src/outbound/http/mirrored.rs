//! Sends the copies that `RequestMirror` filters ask for, apart from the request itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use weft_model::route::BackendTarget;

use super::Connection;
use crate::body::Body;
use crate::call::{Claimed, Selected};
use crate::outbound::filter::{Copy, mirror};
use crate::outbound::route::Target;
use crate::send::{SendError, send_http};
use crate::state::Snapshot;

/// How long a copy may take in all.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends the copies and returns the body for the request itself, which feeds theirs.
pub(super) fn send_copies(
    connection: &Connection,
    snapshot: &Arc<Snapshot>,
    copies: Vec<Copy<'_>>,
    body: Body,
) -> Body {
    if copies.is_empty() {
        return body;
    }
    let (body, bodies) = mirror::split(body, copies.len());
    for (copy, body) in copies.into_iter().zip(bodies) {
        let mut head = copy.head;
        // The original's upgrade is not the copy's to take.
        head.extensions.clear();
        match &copy.mirror.target {
            BackendTarget::Service { service, port, protocol } => {
                let target = Target::service(snapshot, service, *port, *protocol);
                spawn(connection, snapshot, &target, Box::new(Request::from_parts(head, body)));
            }
            BackendTarget::Invalid { .. } => connection.worker.shared.telemetry.lost_copy(),
        }
    }
    body
}

/// Fire and forget. The response is read to its end, so that the connection can be used again.
fn spawn(connection: &Connection, snapshot: &Snapshot, target: &Target<'_>, request: Box<Request<Body>>) {
    let worker = Rc::clone(&connection.worker);
    let (dialled, now) = (connection.origin.family(), Instant::now());
    let Some(picked) = worker.balancer.pick(&target.endpoints, dialled, &[], now) else {
        return worker.shared.telemetry.lost_copy();
    };
    let source = snapshot.workload(&connection.origin.sender.enrolled.uid);
    let selected = Selected::of(picked.endpoint, target, snapshot, source.as_deref());
    let in_flight = picked.in_flight;
    let (source, peer) = (Arc::clone(&connection.origin.sender), connection.origin.peer);
    tokio::task::spawn_local(async move {
        let exchange = async {
            let response = send_http(&worker, &source, peer, &selected, Claimed::default(), request).await?;
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            Ok::<(), SendError>(())
        };
        if !matches!(tokio::time::timeout(LIMIT, exchange).await, Ok(Ok(()))) {
            worker.shared.telemetry.lost_copy();
        }
        drop(in_flight);
    });
}
