//! Which of a Gateway's listeners gets a port or a hostname that several want: the one that comes first. A Gateway's
//! own come before those of ListenerSets, and of these the older ones first, then by name.

use weft_model::gateway::{ListenerId, ListenerProtocol};

use super::Problem;
use super::listener::Listener;

/// Marks the listeners that lose; they are in the order of precedence.
pub(crate) fn decide(listeners: &mut [Listener]) {
    let mut winners: Vec<Place> = Vec::new();
    for listener in listeners {
        let Some(place) = Place::of(listener) else { continue };
        listener.conflict = winners.iter().find_map(|winner| place.conflict(winner));
        if listener.conflict.is_none() {
            winners.push(place);
        }
    }
}

/// What a listener wants for itself.
struct Place {
    id: ListenerId,
    port: u16,
    protocol: ListenerProtocol,
    hostname: Option<weft_model::Text>,
}

impl Place {
    fn of(listener: &Listener) -> Option<Self> {
        Some(Self {
            id: listener.id.clone(),
            port: listener.port,
            protocol: listener.protocol?,
            hostname: listener.hostname.clone(),
        })
    }

    fn conflict(&self, winner: &Self) -> Option<Problem> {
        let is_udp = |place: &Self| place.protocol == ListenerProtocol::Udp;
        if self.port != winner.port || is_udp(self) != is_udp(winner) {
            return None;
        }
        let (port, other) = (self.port, &winner.id);
        if !share_a_port(self.protocol, winner.protocol) {
            return Some(Problem::new(
                "ProtocolConflict",
                format!(
                    "port {port} is held by listener {other}, whose protocol cannot share it with this one"
                ),
            ));
        }
        (self.hostname == winner.hostname).then(|| {
            let name = self.hostname.as_deref().unwrap_or("any hostname");
            Problem::new("HostnameConflict", format!("port {port} for {name} is held by listener {other}"))
        })
    }
}

/// Whether connections to one port can be told apart by hostname.
fn share_a_port(one: ListenerProtocol, other: ListenerProtocol) -> bool {
    use ListenerProtocol::{Http, Https, Tls};
    matches!((one, other), (Http, Http) | (Https | Tls, Https | Tls))
}
