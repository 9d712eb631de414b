//! What the proxy's own tests build on: a [`Shared`] without controller or agent, and pods of this very namespace.

use std::sync::Arc;

use arc_swap::ArcSwap;
use clap::Parser as _;
use weft_api::node::EnrolledPod;
use weft_model::workload::{MtlsMode, Transition, Workload, WorkloadProtocol};
use weft_model::{Identity, MeshConfig, ObjectName, Resource, TrustDomain};

use crate::certificates::{Certificates, Certified};
use crate::config::Config;
use crate::memory::Memory;
use crate::outbound::resilience::budget::RetryBudget;
use crate::pod::LocalPods;
use crate::scope::Ends;
use crate::state::{Snapshot, State};
use crate::telemetry::{AccessLogTarget, Telemetry};
use crate::worker::Shared;

/// A configuration with short waits, and `flags`.
pub(crate) fn config(flags: &[&str]) -> Config {
    let required =
        ["weft-proxy", "--node", "node-a", "--controller-ca", "none", "--node-secret-file", "none"];
    let short = ["--hold-unknown", "1s", "--peek", "100ms", "--workers", "2", "--access-log", "off"];
    Config::try_parse_from(required.iter().chain(&short).chain(flags)).unwrap()
}

/// All that workers share, with nothing known yet.
pub(crate) fn shared(flags: &[&str]) -> Arc<Shared> {
    let config = config(flags);
    let pods: Arc<ArcSwap<LocalPods>> = Arc::default();
    let mut registry = prometheus_client::registry::Registry::default();
    Arc::new(Shared {
        snapshot: State::new(Snapshot::empty(pods.clone(), config.same_node).on_node(&config.node)),
        pods,
        certificates: Certificates::default(),
        telemetry: Telemetry::new(&mut registry, &AccessLogTarget::Off).unwrap(),
        proofs: Default::default(),
        agent: Default::default(),
        served: crate::served::Served::default(),
        retries: RetryBudget::default(),
        memory: Memory::new(None),
        ends: Ends::default(),
        config,
    })
}

/// As [`shared`], with the access log in `path`: what became of every connection.
pub(crate) fn shared_logging_to(path: &std::path::Path) -> Arc<Shared> {
    let mut shared = Arc::into_inner(shared(&[])).unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    shared.telemetry = Telemetry::new(&mut registry, &AccessLogTarget::File(path.into())).unwrap();
    Arc::new(shared)
}

/// What an agent says of a pod with these addresses.
pub(crate) fn enrolled(uid: &str, addresses: &[&str]) -> EnrolledPod {
    EnrolledPod {
        uid: uid.into(),
        pod: ObjectName::new("shop", uid),
        service_account: "cart".into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        bypass_mark: 0x7001,
        inbound_mark: 0x7002,
        ipv6: true,
        probes: vec![],
        settings: Default::default(),
    }
}

/// The mesh's own facts.
pub(crate) fn mesh() -> Resource {
    Resource::MeshConfig(MeshConfig {
        trust_domain: TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        pod_ranges: vec!["10.244.0.0/16".parse().unwrap()],
    })
}

/// What the controller says of a pod `shop/UID`.
pub(crate) fn workload(
    uid: &str,
    identity: &Identity,
    protocol: WorkloadProtocol,
    transition: Option<Transition>,
) -> Resource {
    Resource::Workload(Workload {
        uid: uid.into(),
        pod: ObjectName::new("shop", uid),
        workload: uid.into(),
        node: "node-a".into(),
        addresses: vec!["10.244.0.2".parse().unwrap()],
        identity: identity.clone(),
        protocol,
        mtls: MtlsMode::Permissive,
        plaintext_ports: Default::default(),
        proxy_source_ports: Default::default(),
        filtered_by: None,
        refuses_udp: false,
        transition,
    })
}

/// Gives an identity a certificate of a test authority.
pub(crate) fn certify(shared: &Shared, identity: &Identity) {
    let ca = weft_tls::testing::TestCa::new("cluster.local");
    let leaf = ca.leaf(identity);
    let tls = Arc::new(weft_tls::WorkloadTls::new(&leaf, &ca.bundle()).unwrap());
    shared.certificates.put([Certified { leaf, tls }]);
}
