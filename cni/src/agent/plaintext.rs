//! Callers in plaintext: which ports of a pod admit them, as the proxy says, and who was refused.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use weft_api::probe::{Probe, ProbeAction};
use weft_model::Text;

use crate::ruleset::TcpProbes;

/// The ports of every pod that admit callers in plaintext. A pod of which nothing was said admits them everywhere: then
/// the proxy judges every connection, and none is sent past it that its caller may have bytes to send on.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// By UID; `None`: every port.
    ports: Mutex<HashMap<Text, Option<Vec<u16>>>>,
}

impl Admitted {
    pub(super) fn set(&self, uid: Text, ports: Option<Vec<u16>>) {
        self.ports.lock().insert(uid, ports);
    }

    /// Forgets pods that are gone.
    pub(super) fn tidy(&self, exists: impl Fn(&Text) -> bool) {
        self.ports.lock().retain(|uid, _| exists(uid));
    }

    /// The rules for a pod's TCP probes.
    pub(super) fn tcp_probes(&self, uid: &Text, declared: &[Probe], node: &[IpAddr]) -> TcpProbes {
        let admitted = self.ports.lock();
        let admits = |port: u16| match admitted.get(uid) {
            None | Some(None) => true,
            Some(Some(ports)) => ports.contains(&port),
        };
        tcp_probes(declared, admits, node)
    }
}

fn tcp_probes(declared: &[Probe], admits: impl Fn(u16) -> bool, node: &[IpAddr]) -> TcpProbes {
    let mut probes = TcpProbes::default();
    let of_tcp = declared.iter().filter(|probe| probe.action == ProbeAction::Tcp);
    for Probe { port, .. } in of_tcp {
        let otherwise = |other: &Probe| other.port == *port && other.action != ProbeAction::Tcp;
        if admits(*port) || declared.iter().any(otherwise) {
            probes.shared.push(*port);
        } else {
            probes.bare.push(*port);
        }
    }
    // Without a port the addresses do not matter, and rules need not follow them.
    if !(probes.bare.is_empty() && probes.shared.is_empty()) {
        probes.node = node.to_vec();
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(port: u16, action: ProbeAction) -> Probe {
        Probe { port, action }
    }

    #[test]
    fn only_ports_of_nothing_but_tcp_probes_are_bare() {
        let declared = [
            probe(80, ProbeAction::Tcp),
            probe(81, ProbeAction::Tcp),
            probe(81, ProbeAction::Https),
            probe(82, ProbeAction::Grpc { service: "".into() }),
            probe(83, ProbeAction::Tcp),
        ];
        let node = ["10.0.0.1".parse().unwrap()];
        let probes = tcp_probes(&declared, |port| port == 83, &node);
        assert_eq!((probes.bare, probes.shared, probes.node), (vec![80], vec![81, 83], node.to_vec()));
    }

    #[test]
    fn pod_without_tcp_probes_has_no_rules_for_them() {
        let node = ["10.0.0.1".parse().unwrap()];
        assert_eq!(tcp_probes(&[probe(80, ProbeAction::Https)], |_| false, &node), TcpProbes::default());
    }

    #[test]
    fn nothing_is_bare_before_the_proxy_has_said_who_is_admitted() {
        let (admitted, uid, declared) = (Admitted::default(), Text::from("u"), [probe(80, ProbeAction::Tcp)]);
        let bare = |admitted: &Admitted| admitted.tcp_probes(&uid, &declared, &[[10, 0, 0, 1].into()]).bare;
        assert!(bare(&admitted).is_empty());
        for (ports, expected) in [(Some(vec![]), vec![80]), (Some(vec![80]), vec![]), (None, vec![])] {
            admitted.set(uid.clone(), ports);
            assert_eq!(bare(&admitted), expected);
        }
        admitted.tidy(|_| false);
        assert!(bare(&admitted).is_empty());
    }
}
