//! Destinations that are captured besides TCP to the cluster's ranges: Service addresses outside of them, node ports, and
//! UDP to Service ports that have a route.
//!
//! UDP has no connection whose original destination could be asked for, so it is not redirected but, unchanged, led back
//! in over `lo` by the inbound mark's route and given to the proxy's socket by `tproxy`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use weft_api::node::OUTBOUND_PORT;

use super::{Chain, Mode, Ruleset};

impl Ruleset {
    /// Matches TCP to further destinations, one for each family and kind.
    pub(super) fn further_tcp(&self, v4: bool) -> Vec<String> {
        let (family, number) = family(v4);
        let further = &self.further;
        let mut matches = Vec::new();
        if further.tcp.iter().any(|address| address.is_ipv4() == v4) {
            matches.push(format!("{family} daddr . tcp dport @service{number}"));
        }
        if !further.node_ports.is_empty() && self.has_nodes(v4) {
            matches.push(format!("{family} daddr @nodes{number} tcp dport @node_ports"));
        }
        matches
    }

    /// The same of UDP.
    fn further_udp(&self, v4: bool) -> Vec<String> {
        let (family, number) = family(v4);
        let further = &self.further;
        let mut matches = Vec::new();
        if further.udp.iter().any(|address| address.is_ipv4() == v4) {
            matches.push(format!("{family} daddr . udp dport @udp{number}"));
        }
        if !further.udp_node_ports.is_empty() && self.has_nodes(v4) {
            matches.push(format!("{family} daddr @nodes{number} udp dport @udp_node_ports"));
        }
        matches
    }

    fn has_nodes(&self, v4: bool) -> bool {
        self.further.nodes.iter().any(|address| address.is_ipv4() == v4)
    }

    fn captures_udp(&self) -> bool {
        self.mode == Mode::Capture && [true, false].iter().any(|v4| !self.further_udp(*v4).is_empty())
    }

    /// Name, type and elements of the sets, of those that a rule names.
    pub(super) fn further_sets(&self) -> Vec<(&'static str, &'static str, Vec<String>)> {
        let further = &self.further;
        let pairs = |of: &BTreeSet<SocketAddr>, v4: bool| -> Vec<String> {
            let of = of.iter().filter(|address| address.is_ipv4() == v4);
            of.map(|address| format!("{} . {}", address.ip(), address.port())).collect()
        };
        let nodes = |v4: bool| -> Vec<String> {
            let named = !(further.node_ports.is_empty() && further.udp_node_ports.is_empty());
            let of = further.nodes.iter().filter(|address| named && address.is_ipv4() == v4);
            of.map(ToString::to_string).collect()
        };
        let ports = |of: &BTreeSet<u16>| -> Vec<String> { of.iter().map(ToString::to_string).collect() };
        let sets = [
            ("service4", "ipv4_addr . inet_service", pairs(&further.tcp, true)),
            ("service6", "ipv6_addr . inet_service", pairs(&further.tcp, false)),
            ("udp4", "ipv4_addr . inet_service", pairs(&further.udp, true)),
            ("udp6", "ipv6_addr . inet_service", pairs(&further.udp, false)),
            ("nodes4", "ipv4_addr", nodes(true)),
            ("nodes6", "ipv6_addr", nodes(false)),
            ("node_ports", "inet_service", ports(&further.node_ports)),
            ("udp_node_ports", "inet_service", ports(&further.udp_node_ports)),
        ];
        sets.into_iter().filter(|(_, _, elements)| !elements.is_empty()).collect()
    }

    /// The chains for UDP.
    pub(super) fn udp_chains(&self) -> Vec<Chain> {
        if !self.captures_udp() {
            return Vec::new();
        }
        let mark = format!("{:#010x}", self.inbound_mark);
        let own = vec!["oifname \"lo\" return".to_owned(), format!("{} return", self.marked())];
        let families = if self.ipv6 { &[true, false][..] } else { &[true][..] };
        let mut leaving = own.clone();
        let mut arriving = Vec::new();
        for v4 in families {
            leaving.extend(self.further_udp(*v4).iter().map(|of| format!("{of} meta mark set {mark}")));
            let (nfproto, family) = if *v4 { ("ipv4", "ip") } else { ("ipv6", "ip6") };
            arriving.push(format!(
                "iifname \"lo\" meta mark {mark} meta nfproto {nfproto} meta l4proto udp tproxy {family} to :{OUTBOUND_PORT} accept"
            ));
        }
        let mut chains = vec![
            Chain::new("outbound_udp", "route hook output priority mangle", leaving),
            Chain::new("captured_udp", "filter hook prerouting priority mangle", arriving),
        ];
        let refused = self.further_udp(false);
        if !self.ipv6 && !refused.is_empty() {
            let rules = own.into_iter().chain(refused.iter().map(|of| format!("{of} reject"))).collect();
            chains.push(Chain::new("outbound_udp_reject", "filter hook output priority filter", rules));
        }
        chains
    }
}

const fn family(v4: bool) -> (&'static str, u8) {
    if v4 { ("ip", 4) } else { ("ip6", 6) }
}
