//! The capture rules as nft text, compared with `golden/*.nft`. `UPDATE_GOLDEN=1` writes them anew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use weft_api::node::Destinations;
use weft_cni::ruleset::{Mode, Ruleset, TcpProbes};

fn ruleset() -> Ruleset {
    Ruleset {
        mode: Mode::Capture,
        bypass_mark: 0x1234_5678,
        inbound_mark: 0x0bad_cafe,
        ipv6: true,
        outer: vec!["eth0".to_owned()],
        cluster: ["10.96.0.0/16", "10.1.0.0/16", "fd96::/112"].map(|range| range.parse().unwrap()).to_vec(),
        probes: TcpProbes::default(),
        further: Destinations::default(),
    }
}

/// Addresses of two families for each kind of destination.
fn further() -> Destinations {
    let addresses = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).into();
    Destinations {
        tcp: addresses(["192.0.2.1:80", "[2001:db8::1]:80"]),
        udp: addresses(["10.96.0.10:53", "[fd96::10]:53"]),
        nodes: ["192.168.77.11", "192.168.77.12", "fd00::11"].map(|text| text.parse().unwrap()).into(),
        node_ports: [30080, 30443].into(),
        udp_node_ports: [30053].into(),
    }
}

fn probed() -> Ruleset {
    let node = ["192.168.77.11", "10.1.0.1", "fd00::11"].map(|address| address.parse().unwrap()).to_vec();
    Ruleset { probes: TcpProbes { node, bare: vec![9000, 9100], shared: vec![8080] }, ..ruleset() }
}

fn compare(name: &str, ruleset: &Ruleset) {
    let path = format!("{}/tests/golden/{name}.nft", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, ruleset.script()).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(ruleset.script(), expected, "{path} differs; look at it, then UPDATE_GOLDEN=1");
}

#[test]
fn dual_stack_pod() {
    compare("dual-stack", &ruleset());
}

#[test]
fn pod_without_ipv6_loopback_rejects_captured_ipv6() {
    compare("no-ipv6-loopback", &Ruleset { ipv6: false, ..ruleset() });
}

#[test]
fn without_cluster_ranges_every_destination_is_captured() {
    compare("no-ranges", &Ruleset { cluster: Vec::new(), ..ruleset() });
}

#[test]
fn tcp_probes_reach_the_application_without_payload() {
    compare("tcp-probes", &probed());
}

#[test]
fn probes_of_a_released_pod_need_no_rules() {
    let released = Ruleset { mode: Mode::Release, ..ruleset() };
    assert_eq!(Ruleset { mode: Mode::Release, ..probed() }.script(), released.script());
}

#[test]
fn addresses_outside_the_ranges_node_ports_and_routed_udp_are_captured() {
    compare("further-destinations", &Ruleset { further: further(), ..ruleset() });
}

#[test]
fn routed_udp_over_ipv6_is_rejected_where_lo_has_none() {
    compare(
        "further-destinations-no-ipv6-loopback",
        &Ruleset { further: further(), ipv6: false, ..ruleset() },
    );
}

#[test]
fn further_destinations_of_a_released_pod_need_no_rules() {
    let released = Ruleset { mode: Mode::Release, ..ruleset() };
    assert_eq!(Ruleset { further: further(), ..released.clone() }.script(), released.script());
}

#[test]
fn released_pod_keeps_empty_nat_chains() {
    compare("released", &Ruleset { mode: Mode::Release, ..ruleset() });
}
