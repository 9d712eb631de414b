//! TCP probes (rule 15 of the data-plane rules). Redirected to the proxy they would always succeed; so the packet that
//! opens one goes to the application itself, under a mark with which only segments without payload pass, both ways:
//! others than the kubelet come from the node's addresses too.
//!
//! The mark is on the connection in the kernel's tracking and, by `tcp_fwmark_accept`, on the socket that the
//! application accepted. The socket's is the one that counts: a connection's entry can be made to end while its socket
//! lives, and the next segment then begins an entry without a mark.

use std::net::IpAddr;

use weft_api::node::INBOUND_PLAINTEXT_PORT;

use super::{Chain, Mode, OPENING, Ruleset};

/// The ports that the kubelet probes by TCP, and where it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpProbes {
    /// The node's own addresses.
    pub node: Vec<IpAddr>,
    /// Nobody at the node's addresses may send plaintext to these.
    pub bare: Vec<u16>,
    /// Somebody may, or another kind of probe goes there: the proxy judges, if an application listens at all.
    pub shared: Vec<u16>,
}

impl TcpProbes {
    fn any(&self) -> bool {
        !(self.node.is_empty() || self.bare.is_empty() && self.shared.is_empty())
    }
}

impl Ruleset {
    /// The mark of connections without payload. It follows from the others, so that whoever knows those knows it, and
    /// differs from both, since neither is zero.
    const fn probe_mark(&self) -> u32 {
        self.bypass_mark ^ self.inbound_mark
    }

    pub(super) fn guards_probes(&self) -> bool {
        self.mode == Mode::Capture && self.probes.any()
    }

    /// Rules that come before the redirect of plaintext to the proxy.
    pub(super) fn inbound_probes(&self) -> Vec<String> {
        if !self.guards_probes() {
            return Vec::new();
        }
        let TcpProbes { bare, shared, .. } = &self.probes;
        let mark = self.probe_mark();
        let mut rules = Vec::new();
        for from in ["ip saddr @node4", "ip6 saddr @node6"] {
            let opening = |ports: String| format!("{from} fib daddr type local tcp dport {ports} {OPENING}");
            if !shared.is_empty() {
                // `socket` matches only where a socket would take the packet.
                let listening = opening(list(shared.iter()));
                rules.push(format!(
                    "{listening} socket transparent {{ 0, 1 }} redirect to :{INBOUND_PLAINTEXT_PORT}"
                ));
            }
            rules.push(format!(
                "{} ct mark set {mark:#010x} meta mark set {mark:#010x} return",
                opening(list(bare.iter().chain(shared)))
            ));
        }
        rules
    }

    /// The chains that keep payload out of marked connections.
    pub(super) fn probe_chains(&self) -> Vec<Chain> {
        let mark = self.probe_mark();
        let judged = |of: &str| format!("{of} mark {mark:#010x} meta l4proto tcp jump without_payload");
        vec![
            // Every packet: under SYN cookies the application's socket takes its mark from the last of the handshake.
            Chain::new(
                "probe_prerouting",
                "filter hook prerouting priority mangle",
                vec![
                    "iifname \"lo\" return".into(),
                    format!("ct mark {mark:#010x} meta mark set {mark:#010x}"),
                ],
            ),
            Chain::new(
                "probe_input",
                "filter hook input priority filter",
                vec![judged("ct"), judged("socket")],
            ),
            Chain::new(
                "probe_output",
                "filter hook output priority filter",
                vec![judged("ct"), judged("meta")],
            ),
            Chain::inner("without_payload", without_payload()),
        ]
    }
}

fn list<'a>(ports: impl Iterator<Item = &'a u16>) -> String {
    let mut ports: Vec<u16> = ports.copied().collect();
    ports.sort_unstable();
    ports.dedup();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", ports.join(", "))
}

/// Lets a segment pass whose length is that of its headers; resets the others. One rule per length of the TCP header,
/// in words of 4 bytes: asking for the first byte of the payload would be shorter, but needs Linux 5.16.
fn without_payload() -> Vec<String> {
    // IP options and extension headers do not occur in probes.
    let v4 =
        (5..=15).map(|words| format!("ip hdrlength 5 tcp doff {words} ip length {} return", 20 + 4 * words));
    let v6 =
        (5..=15).map(|words| format!("ip6 nexthdr tcp tcp doff {words} ip6 length {} return", 4 * words));
    v4.chain(v6).chain(["reject with tcp reset".to_owned()]).collect()
}
