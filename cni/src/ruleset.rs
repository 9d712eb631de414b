//! What is captured in a pod's network namespace, as data, and its nft text: one transaction for one `table inet weft`.
//! Rules 1–4, 15 and 16 of the data-plane rules; the goldens in `tests/golden` show every form.

mod further;
mod probes;

use std::fmt::Write;

use ipnet::IpNet;
use weft_api::node::{Destinations, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};

pub use probes::TcpProbes;

/// The table that belongs to Weft, family `inet`.
pub const TABLE: &str = "weft";

/// Only the packet that opens a connection. Anything else would take connections older than the rules: in a namespace
/// without connection tracking until now their next packet looks new, is redirected, and the connection is reset.
const OPENING: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// What the table is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Capture new connections.
    Capture,
    /// Capture nothing new, keep what was captured alive: the nat chains are there, but empty. Without the chains, or
    /// without connection tracking, the kernel would stop translating live connections.
    Release,
}

/// The capture rules of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// What the table is to do.
    pub mode: Mode,
    /// `SO_MARK` of the proxy's sockets in the namespace.
    pub bypass_mark: u32,
    /// `SO_MARK` of the proxy's sockets to the application.
    pub inbound_mark: u32,
    /// `lo` has `::1`. Without it redirected IPv6 would hang, so it is rejected.
    pub ipv6: bool,
    /// The interfaces with the pod's own addresses. TCP forwarded from any other one is the pod's outbound traffic.
    pub outer: Vec<String>,
    /// Service and pod ranges of the cluster. Other destinations are not captured; empty: every destination is.
    pub cluster: Vec<IpNet>,
    /// Ports that the kubelet probes by TCP.
    pub probes: TcpProbes,
    /// What else is captured.
    pub further: Destinations,
}

impl Ruleset {
    /// The transaction that replaces whatever table was there, for `nft -f -`. Captured connections live through it.
    #[must_use]
    pub fn script(&self) -> String {
        format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{}", self.table())
    }

    fn table(&self) -> String {
        let mut text = format!("table inet {TABLE} {{\n");
        for (name, kind, ranges) in self.sets() {
            let _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge");
            if !ranges.is_empty() {
                let _ = writeln!(text, "\t\telements = {{ {} }}", ranges.join(", "));
            }
            text.push_str("\t}\n");
        }
        for (name, kind, elements) in self.captured(self.further_sets()) {
            let elements = elements.join(", ");
            let _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}\n\t\telements = {{ {elements} }}\n\t}}");
        }
        for chain in self.chains() {
            let _ = writeln!(text, "\tchain {} {{", chain.name);
            if let Some(hook) = chain.hook {
                let _ = writeln!(text, "\t\ttype {hook}; policy accept;");
            }
            for rule in chain.rules {
                let _ = writeln!(text, "\t\t{rule}");
            }
            text.push_str("\t}\n");
        }
        text.push_str("}\n");
        text
    }

    fn chains(&self) -> Vec<Chain> {
        let untracked = format!("meta mark {:#010x} notrack", self.inbound_mark);
        let arriving = format!("iifname \"lo\" {untracked}");
        let mut chains = vec![
            // Does nothing but keep connection tracking on in the namespace while `redirect` rules come and go:
            // without any rule that needs it, it stops, and live captured connections are no longer translated.
            Chain::new(
                "tracking",
                "filter hook output priority filter",
                vec!["ct state established accept".into()],
            ),
            Chain::new("application_output", "filter hook output priority raw", vec![untracked]),
            Chain::new("application_prerouting", "filter hook prerouting priority raw", vec![arriving]),
        ];
        if !self.ipv6 {
            let hook = "filter hook output priority filter";
            chains.push(Chain::new("outbound_reject", hook, self.captured(self.rejected())));
        }
        // -100 is what nft calls dstnat, but only in prerouting.
        chains.push(Chain::new("outbound", "nat hook output priority -100", self.captured(self.outbound())));
        chains.push(Chain::new(
            "inbound",
            "nat hook prerouting priority -100",
            self.captured(self.inbound()),
        ));
        if self.guards_probes() {
            chains.extend(self.probe_chains());
        }
        chains.extend(self.udp_chains());
        chains
    }

    fn captured<T>(&self, rules: Vec<T>) -> Vec<T> {
        if self.mode == Mode::Capture { rules } else { Vec::new() }
    }

    /// Name, type and elements of the sets of addresses.
    fn sets(&self) -> Vec<(&'static str, &'static str, Vec<String>)> {
        let mut sets = Vec::new();
        if !self.cluster.is_empty() {
            let of = |v4: bool| {
                let ranges = self.cluster.iter().filter(move |range| matches!(range, IpNet::V4(_)) == v4);
                ranges.map(|range| range.trunc().to_string()).collect()
            };
            sets.extend([("cluster4", "ipv4_addr", of(true)), ("cluster6", "ipv6_addr", of(false))]);
        }
        if self.guards_probes() {
            let of = |v4: bool| {
                let addresses = self.probes.node.iter().filter(move |address| address.is_ipv4() == v4);
                addresses.map(ToString::to_string).collect()
            };
            sets.extend([("node4", "ipv4_addr", of(true)), ("node6", "ipv6_addr", of(false))]);
        }
        sets
    }

    /// Matches the destinations of one address family that are captured.
    fn destinations(&self, v4: bool) -> Vec<String> {
        let all = match (self.cluster.is_empty(), v4) {
            (true, true) => return vec!["meta nfproto ipv4".to_owned()],
            (true, false) => return vec!["meta nfproto ipv6".to_owned()],
            (false, true) => "ip daddr @cluster4",
            (false, false) => "ip6 daddr @cluster6",
        };
        std::iter::once(all.to_owned()).chain(self.further_tcp(v4)).collect()
    }

    /// Sends what matches to the proxy.
    fn redirected(&self, v4: bool) -> impl Iterator<Item = String> {
        let destinations = self.destinations(v4).into_iter();
        destinations.map(|destination| format!("{destination} {OPENING} redirect to :{OUTBOUND_PORT}"))
    }

    fn marked(&self) -> String {
        format!("meta mark {{ {:#010x}, {:#010x} }}", self.bypass_mark, self.inbound_mark)
    }

    fn outbound(&self) -> Vec<String> {
        let mut rules = vec!["oifname \"lo\" return".to_owned(), format!("{} return", self.marked())];
        rules.extend(self.redirected(true));
        if self.ipv6 {
            rules.extend(self.redirected(false));
        }
        rules
    }

    fn rejected(&self) -> Vec<String> {
        let mut rules = vec!["oifname \"lo\" return".to_owned(), format!("{} return", self.marked())];
        let destinations = self.destinations(false).into_iter();
        rules.extend(destinations.map(|of| format!("{of} {OPENING} reject with tcp reset")));
        rules
    }

    fn inbound(&self) -> Vec<String> {
        let mut rules = vec!["iifname \"lo\" return".to_owned(), format!("{} return", self.marked())];
        rules.extend(self.inbound_probes());
        rules.push(format!(
            "fib daddr type local tcp dport != {TUNNEL_PORT} {OPENING} redirect to :{INBOUND_PLAINTEXT_PORT}"
        ));
        rules.push("fib daddr type local return".to_owned());
        if !self.outer.is_empty() {
            let outer: Vec<String> = self.outer.iter().map(|name| format!("\"{name}\"")).collect();
            rules.push(format!("iifname {{ {} }} return", outer.join(", ")));
        }
        rules.extend(self.redirected(true).chain(self.redirected(false)));
        rules
    }
}

/// A chain of the table.
struct Chain {
    name: &'static str,
    /// Where the kernel enters it; `None`: only other chains lead to it.
    hook: Option<&'static str>,
    rules: Vec<String>,
}

impl Chain {
    const fn new(name: &'static str, hook: &'static str, rules: Vec<String>) -> Self {
        Self { name, hook: Some(hook), rules }
    }

    const fn inner(name: &'static str, rules: Vec<String>) -> Self {
        Self { name, hook: None, rules }
    }
}
