//! Calls inside one node where a packet filter has a say: no short cut leads past it.
#![allow(
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::time::Duration;

use weft_conformance::objects::{shell, two_webs};
use weft_conformance::{Checks, Lab, access_log, address, curl};

const PATIENCE: Duration = Duration::from_secs(60);

/// Selects `web1` alone; what it admits is the engine's business, and the engine here is the test.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web1, namespace: app }
spec: { podSelector: { matchLabels: { app: web1 } }, policyTypes: [Ingress] }
";

/// How the last call that reached `web1`'s side travelled.
fn last_security(lab: &Lab) -> String {
    let log = access_log(lab, "node1");
    // The kubelet's probes arrive there too, without an identity.
    let of_mesh =
        |line: &&serde_json::Value| line["reporter"] == "destination" && !line["source_identity"].is_null();
    let line = log.iter().rev().find(of_mesh).expect("a call that arrived");
    line["security"].as_str().unwrap_or_default().to_owned()
}

/// Drops in the node whatever it forwards from the caller, as an engine would that admits nobody, or drops it no more.
fn filter(lab: &Lab, on: bool) {
    let caller = address(lab, "app", "caller", false);
    let rules = match on {
        true => format!(
            "table ip engine {{ chain forward {{ type filter hook forward priority 0; ip saddr {caller} drop; }}; }}"
        ),
        false => "delete table ip engine".to_owned(),
    };
    lab.exec("node/node1", &["nft", &rules]).unwrap().ok();
}

fn call(lab: &Lab, caller: &str) -> weft_conformance::Output {
    curl(lab, caller, &["-4", "-m", "3", "http://web1/"])
}

#[test]
fn a_packet_filter_of_the_node_is_not_bypassed() {
    let lab = Lab::up(&(two_webs() + &shell("app", "other", "node1"))).unwrap();
    let mut checks = Checks::default();
    checks.check("without a NetworkPolicy two pods of a node are joined in the proxy", || {
        assert!(call(&lab, "app/caller").ok().starts_with("web1"));
        assert_eq!(last_security(&lab), "same_node");
    });
    checks.check("a NetworkPolicy that selects the callee brings the call onto the wire", || {
        lab.apply("policy", POLICY).unwrap();
        lab.wait_until("calls of web1 travel by mutual TLS", PATIENCE, |lab| {
            call(lab, "app/caller").ok();
            last_security(lab) == "mtls"
        })
        .unwrap();
    });
    checks.check("what the engine drops does not arrive, and another caller's calls do", || {
        filter(&lab, true);
        assert_ne!(call(&lab, "app/caller").code, 0);
        assert!(call(&lab, "app/other").ok().starts_with("web1"));
        filter(&lab, false);
        assert!(call(&lab, "app/caller").ok().starts_with("web1"));
    });
    checks.check("a NetworkPolicy that selects the caller does so too", || {
        lab.apply("policy", &POLICY.replace("app: web1 }", "app: caller }")).unwrap();
        lab.wait_until("calls of other pods take the short cut again", PATIENCE, |lab| {
            call(lab, "app/other").ok();
            last_security(lab) == "same_node"
        })
        .unwrap();
        call(&lab, "app/caller").ok();
        assert_eq!(last_security(&lab), "mtls");
    });
    checks.finish();
}
