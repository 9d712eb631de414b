//! Role `gateway`: what comes to the listening sockets of one Gateway's pod. The listener and its routes are chosen here;
//! from the rule on everything is as for a captured connection ([`crate::outbound`]).

mod entrance;
pub mod ports;

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;
use weft_api::node::EnrolledPod;
use weft_model::gateway::ListenerProtocol;
use weft_model::{Identity, Reason, TrustDomain};

pub use self::entrance::Entrance;
use crate::call::Accepted;
use crate::config::GatewayPod;
use crate::listen::refuse;
use crate::outbound::http;
use crate::outbound::http::refusal::Refused;
use crate::outbound::origin::{Origin, Way};
use crate::pod::LocalPod;
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
    };
    Arc::new(LocalPod::own(enrolled, identity, &shared.ends))
}

/// Serves one connection that came to `port`. Never fails: refusals are logged and counted.
pub async fn serve(worker: WorkerRef, accepted: Accepted, port: u16) {
    let begun = Instant::now();
    let snapshot = worker.shared.snapshot.load_full();
    // Of one port all listeners speak one protocol, or are told apart by TLS server names.
    let Some(protocol) = snapshot.gateway_protocol(port) else {
        let refused = Refused::new(Reason::Draining, "the listener has just been removed");
        return refuse(&worker, accepted, begun, &refused);
    };
    match protocol {
        ListenerProtocol::Http => {
            let Some(entrance) = Entrance::plain(&accepted, &worker.shared.config) else { return };
            let (origin, stream) = origin(accepted, entrance);
            http::serve(&worker, origin, stream, Bytes::new()).await;
        }
        ListenerProtocol::Https | ListenerProtocol::Tls | ListenerProtocol::Tcp | ListenerProtocol::Udp => {
            let refused = Refused::new(Reason::InvalidListener, "this protocol is not served yet");
            refuse(&worker, accepted, begun, &refused);
        }
    }
}

fn origin(accepted: Accepted, entrance: Entrance) -> (Origin, tokio::net::TcpStream) {
    let Accepted { pod, scope, stream, peer, .. } = accepted;
    (Origin { sender: pod, peer, scope, way: Way::Gateway(entrance) }, stream)
}

#[cfg(test)]
mod tests;
