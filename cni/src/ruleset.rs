//! What is captured in a pod's network namespace, as data, and its nft text: one transaction for one `table inet weft`.
//! Rules 1–4 and 16 of the data-plane rules; the goldens in `tests/golden` show every form.

use std::fmt::Write;

use ipnet::IpNet;
use weft_api::node::{INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, TUNNEL_PORT};

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
    /// Capture nothing new, keep what was captured alive: the nat chains are there, but empty. Without the chains the
    /// kernel would stop translating live connections.
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
}

impl Ruleset {
    /// The transaction that replaces whatever table was there. For `nft -f -`.
    #[must_use]
    pub fn script(&self) -> String {
        format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{}", self.table())
    }

    fn table(&self) -> String {
        let mut text = format!("table inet {TABLE} {{\n");
        self.sets(&mut text);
        let untracked = format!("meta mark {:#010x} notrack", self.inbound_mark);
        chain(&mut text, "application_output", "filter hook output priority raw", &[untracked.clone()]);
        let untracked = format!("iifname \"lo\" {untracked}");
        chain(&mut text, "application_prerouting", "filter hook prerouting priority raw", &[untracked]);
        let capturing = self.mode == Mode::Capture;
        if capturing && !self.ipv6 {
            let rules = self.rejected();
            chain(&mut text, "outbound_reject", "filter hook output priority filter", &rules);
        }
        let (outbound, inbound) =
            if capturing { (self.outbound(), self.inbound()) } else { (Vec::new(), Vec::new()) };
        chain(&mut text, "outbound", "nat hook output priority dstnat", &outbound);
        chain(&mut text, "inbound", "nat hook prerouting priority dstnat", &inbound);
        text.push_str("}\n");
        text
    }

    fn sets(&self, text: &mut String) {
        let (v4, v6): (Vec<_>, Vec<_>) =
            self.cluster.iter().map(IpNet::trunc).partition(|range| matches!(range, IpNet::V4(_)));
        for (name, kind, ranges) in [("cluster4", "ipv4_addr", v4), ("cluster6", "ipv6_addr", v6)] {
            if self.cluster.is_empty() {
                continue;
            }
            let _ = writeln!(text, "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge");
            if !ranges.is_empty() {
                let ranges: Vec<String> = ranges.iter().map(IpNet::to_string).collect();
                let _ = writeln!(text, "\t\telements = {{ {} }}", ranges.join(", "));
            }
            text.push_str("\t}\n");
        }
    }

    /// Matches the destinations that are captured, one per address family.
    fn destinations(&self) -> [&'static str; 2] {
        if self.cluster.is_empty() {
            ["meta nfproto ipv4", "meta nfproto ipv6"]
        } else {
            ["ip daddr @cluster4", "ip6 daddr @cluster6"]
        }
    }

    fn marked(&self) -> String {
        format!("meta mark {{ {:#010x}, {:#010x} }}", self.bypass_mark, self.inbound_mark)
    }

    fn outbound(&self) -> Vec<String> {
        let [v4, v6] = self.destinations();
        let mut rules = vec![
            "oifname \"lo\" return".to_owned(),
            format!("{} return", self.marked()),
            format!("{v4} {OPENING} redirect to :{OUTBOUND_PORT}"),
        ];
        if self.ipv6 {
            rules.push(format!("{v6} {OPENING} redirect to :{OUTBOUND_PORT}"));
        }
        rules
    }

    fn rejected(&self) -> Vec<String> {
        let [_, v6] = self.destinations();
        vec![
            "oifname \"lo\" return".to_owned(),
            format!("{} return", self.marked()),
            format!("{v6} {OPENING} reject with tcp reset"),
        ]
    }

    fn inbound(&self) -> Vec<String> {
        let mut rules = vec![
            "iifname \"lo\" return".to_owned(),
            format!("{} return", self.marked()),
            format!(
                "fib daddr type local tcp dport != {TUNNEL_PORT} {OPENING} redirect to :{INBOUND_PLAINTEXT_PORT}"
            ),
            "fib daddr type local return".to_owned(),
        ];
        if !self.outer.is_empty() {
            let outer: Vec<String> = self.outer.iter().map(|name| format!("\"{name}\"")).collect();
            rules.push(format!("iifname {{ {} }} return", outer.join(", ")));
        }
        rules.extend(
            self.destinations()
                .iter()
                .map(|destination| format!("{destination} {OPENING} redirect to :{OUTBOUND_PORT}")),
        );
        rules
    }
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    let _ = writeln!(text, "\tchain {name} {{\n\t\ttype {hook}; policy accept;");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text.push_str("\t}\n");
}
