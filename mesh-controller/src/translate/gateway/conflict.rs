//! Which of a Gateway's listeners gets a port or a hostname that several want: the one that comes first. A Gateway's
//! own come before those of ListenerSets, and of these the older ones first, then by name. And which listeners that have
//! theirs overlap all the same, so that a client may reuse a connection to one for a request that is another's.

use weft_model::gateway::{ListenerId, ListenerProtocol};

use super::Problem;
use super::hostname::intersect;
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

/// Says of every listener with TLS with which other one on its port it has hostnames in common (`OverlappingTLSConfig`). That
/// certificates overlap is not looked for, which the API leaves open: whoever answers 421 is safe from both.
pub(crate) fn overlap(listeners: &mut [Listener]) {
    let places: Vec<Place> = listeners.iter().filter(|it| it.has_port()).filter_map(Place::of).collect();
    for listener in listeners.iter_mut().filter(|it| it.has_port()) {
        let Some(own) = Place::of(listener) else { continue };
        listener.overlap = places.iter().find(|other| own.overlaps(other)).map(|other| Problem {
            reason: "OverlappingHostnames",
            message: format!(
                "listener {} on port {} is for {} and this one for {}: clients may reuse a connection to one for requests \
                 that belong to the other, which an HTTPS listener answers with 421",
                other.id,
                other.port,
                other.name(),
                own.name()
            ),
        });
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

    fn name(&self) -> &str {
        self.hostname.as_deref().unwrap_or("any hostname")
    }

    fn overlaps(&self, other: &Self) -> bool {
        use ListenerProtocol::{Https, Tls};
        let with_tls = |place: &Self| matches!(place.protocol, Https | Tls);
        let common = match (&self.hostname, &other.hostname) {
            (Some(own), Some(other)) => intersect(own, other),
            _ => true,
        };
        self.id != other.id && self.port == other.port && with_tls(self) && with_tls(other) && common
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
            let name = self.name();
            Problem::new("HostnameConflict", format!("port {port} for {name} is held by listener {other}"))
        })
    }
}

/// Whether connections to one port can be told apart by hostname.
fn share_a_port(one: ListenerProtocol, other: ListenerProtocol) -> bool {
    use ListenerProtocol::{Http, Https, Tls};
    matches!((one, other), (Http, Http) | (Https | Tls, Https | Tls))
}
