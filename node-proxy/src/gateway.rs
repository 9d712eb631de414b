//! Role `gateway`: what comes to the listening sockets of one Gateway's pod. The listener and its routes are chosen here;
//! from the rule on everything is as for a captured connection ([`crate::outbound`]).

mod entrance;
pub mod ports;
pub mod proxy_protocol;
mod tls;
pub(crate) mod udp;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_api::node::EnrolledPod;
use weft_model::gateway::ListenerProtocol;
use weft_model::{Identity, Reason, TrustDomain};
use weft_routing::{ListenerEntry, StreamRule};

pub use self::entrance::{Entrance, Trust};
use crate::call::Accepted;
use crate::config::GatewayPod;
use crate::listen::refuse;
use crate::outbound::http;
use crate::outbound::http::refusal::Refused;
use crate::outbound::near::Near;
use crate::outbound::origin::{Origin, Way};
use crate::outbound::tcp::Connection;
use crate::pod::LocalPod;
use crate::state::Snapshot;
use crate::worker::{Shared, WorkerRef};

/// The pod that this process is in, in whose name backends are called.
pub fn own_pod(shared: &Shared, own: &GatewayPod) -> Arc<LocalPod> {
    let trust_domain = TrustDomain(shared.config.trust_domain.as_str().into());
    let identity = Identity {
        trust_domain,
        namespace: own.pod.namespace.clone(),
        service_account: own.service_account.clone(),
    };
    let enrolled = EnrolledPod {
        uid: own.uid.clone(),
        pod: own.pod.clone(),
        service_account: own.service_account.clone(),
        addresses: own.addresses.clone(),
        bypass_mark: 0,
        inbound_mark: 0,
        ipv6: own.addresses.iter().any(std::net::IpAddr::is_ipv6),
        probes: Vec::new(),
        settings: Default::default(),
    };
    Arc::new(LocalPod::own(enrolled, identity, &shared.ends))
}

/// Serves one connection that came to `port`. Never fails: refusals are logged and counted.
pub async fn serve(worker: WorkerRef, mut accepted: Accepted, port: u16) {
    let begun = Instant::now();
    let snapshot = worker.shared.snapshot.load_full();
    // Of one port all listeners speak one protocol, or are told apart by TLS server names.
    let Some(protocol) = snapshot.gateway_protocol(port) else {
        let refused = Refused::new(Reason::Draining, "the listener has just been removed");
        return refuse(&worker, accepted, begun, &refused);
    };
    if worker.shared.config.proxy_protocol {
        match proxy_protocol::take(&mut accepted.stream).await {
            Ok(source) => accepted.peer = source.unwrap_or(accepted.peer),
            Err(refused) => return refuse(&worker, accepted, begun, &refused),
        }
    }
    let Some(entrance) = Entrance::plain(&accepted, &worker.shared.config) else { return };
    match protocol {
        ListenerProtocol::Http => {
            let (origin, stream) = origin(accepted, entrance);
            http::serve(&worker, origin, stream, Bytes::new()).await;
        }
        ListenerProtocol::Https | ListenerProtocol::Tls => {
            tls::serve(&worker, accepted, entrance, snapshot, begun).await;
        }
        ListenerProtocol::Tcp | ListenerProtocol::Udp => {
            stream(&worker, accepted, entrance, snapshot, begun).await;
        }
    }
}

/// A TCP listener: it has its port to itself, and one route decides.
async fn stream(
    worker: &WorkerRef,
    accepted: Accepted,
    entrance: Entrance,
    snapshot: Arc<Snapshot>,
    begun: Instant,
) {
    let Some(entry) = snapshot.listener(entrance.address.port(), "").cloned() else {
        let refused =
            Refused::new(Reason::InvalidListener, "the port's listener has a hostname, which TCP has not");
        return refuse(worker, accepted, begun, &refused);
    };
    let (origin, stream) = origin(accepted, entrance);
    let near = (origin, Near::Tcp(stream));
    let connection = Connection::at_gateway(worker, near, snapshot, &entry, begun);
    follow(connection, &entry, entry.table.stream(), BytesMut::new()).await;
}

/// Follows the rule that was found at a listener.
async fn follow(
    connection: Connection<'_>,
    entry: &ListenerEntry,
    rule: Option<&Arc<StreamRule>>,
    first: BytesMut,
) {
    match (&entry.listener.refusal, rule) {
        (Some(refusal), _) => {
            connection.refuse(&Refused::new(Reason::InvalidListener, &*refusal.message));
        }
        (None, Some(rule)) => connection.follow(rule, first).await,
        (None, None) => {
            let message = "no route of the Gateway's listener is for this connection";
            connection.refuse(&Refused::new(Reason::NoRouteMatch, message));
        }
    }
}

fn origin(accepted: Accepted, entrance: Entrance) -> (Origin, TcpStream) {
    let Accepted { pod, scope, stream, peer, .. } = accepted;
    (Origin { sender: pod, peer, scope, way: Way::Gateway(entrance) }, stream)
}

#[cfg(test)]
mod tests;
