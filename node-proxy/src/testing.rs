//! What the proxy's own tests build on: a [`Shared`] without controller or agent, and pods of this very namespace.

use std::sync::Arc;

use arc_swap::ArcSwap;
use clap::Parser as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_api::node::EnrolledPod;
use weft_model::ObjectName;

use crate::certificates::Certificates;
use crate::config::Config;
use crate::outbound::resilience::budget::RetryBudget;
use crate::pod::LocalPods;
use crate::state::{Snapshot, State};
use crate::telemetry::{AccessLogTarget, Telemetry};
use crate::worker::Shared;

/// A configuration with short waits, and `flags`.
pub(crate) fn config(flags: &[&str]) -> Config {
    let required =
        ["weft-proxy", "--node", "node-a", "--controller-ca", "none", "--node-secret-file", "none"];
    let short = ["--hold-unknown", "300ms", "--peek", "100ms", "--workers", "2", "--access-log", "off"];
    Config::try_parse_from(required.iter().chain(&short).chain(flags)).unwrap()
}

/// All that workers share, with nothing known yet.
pub(crate) fn shared(flags: &[&str]) -> Arc<Shared> {
    let config = config(flags);
    let pods: Arc<ArcSwap<LocalPods>> = Arc::default();
    let mut registry = prometheus_client::registry::Registry::default();
    Arc::new(Shared {
        snapshot: State::new(Snapshot::empty(pods.clone(), config.same_node)),
        pods,
        certificates: Certificates::default(),
        telemetry: Telemetry::new(&mut registry, &AccessLogTarget::Off).unwrap(),
        proofs: Default::default(),
        agent: Default::default(),
        retries: RetryBudget::new(Instant::now()),
        draining: CancellationToken::new(),
        ended: CancellationToken::new(),
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
    }
}
