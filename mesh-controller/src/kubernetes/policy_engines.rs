//! Whether another engine of network policy is installed, told by the definitions of its kinds. What its objects say only
//! it knows, so where there is one every pod counts as judged by it (`docs/dataplane.md`, rule 24).

use std::convert::Infallible;

use kube::Client;
use tokio::sync::watch;

use super::kinds::Served;
use super::store::Store;
use super::watch::{Told, watch_definition};

/// The definitions of the kinds that engines read: of Kubernetes' own policy group, Antrea, Calico, Cilium, OVN-Kubernetes.
pub(super) const DEFINITIONS: [&str; 10] = [
    "adminnetworkpolicies.policy.networking.k8s.io",
    "baselineadminnetworkpolicies.policy.networking.k8s.io",
    "ciliumclusterwidenetworkpolicies.cilium.io",
    "ciliumnetworkpolicies.cilium.io",
    "clusternetworkpolicies.crd.antrea.io",
    "clusternetworkpolicies.policy.networking.k8s.io",
    "egressfirewalls.k8s.ovn.org",
    "globalnetworkpolicies.crd.projectcalico.org",
    "networkpolicies.crd.antrea.io",
    "networkpolicies.crd.projectcalico.org",
];

/// Keeps the store up to date with one definition, for ever. Until it is known to be absent it counts as there.
pub(super) async fn watch(client: Client, name: &'static str, store: &Store) -> Infallible {
    let (served, mut changes) = watch::channel(Served::Unknown);
    let definition = watch_definition(client, name, &served, |told| {
        if let Told::Failed(why) = told {
            tracing::warn!("{why}; the last state stays in force, trying again");
        }
    });
    let telling = async {
        loop {
            let absent = *changes.borrow_and_update() == Served::Absent;
            store.policy_engine(name, !absent);
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        never = definition => never,
        never = telling => never,
    }
}
