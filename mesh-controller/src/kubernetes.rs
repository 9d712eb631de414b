//! The source of objects: an API server. Each kind has a watch of its own; what they bring is put together in one
//! place and translated when it has been quiet for a moment.
//!
//! Kinds of the Gateway API are followed by their CustomResourceDefinitions: they may be absent, come, change the
//! versions they are served in, and go, at any time.
//!
//! # Rights
//!
//! In all namespaces:
//!
//! | What | Verbs |
//! |---|---|
//! | `namespaces`, `services`, `pods`, `configmaps`; `endpointslices` of `discovery.k8s.io`; `networkpolicies` of `networking.k8s.io` | list, watch |
//! | `namespaces`, and `namespaces/status`: how far their enrolment is, in annotations and a condition | get; patch |
//! | `clustertrustbundles` of `certificates.k8s.io`, where they are served | list, watch |
//! | `secrets`, of which those of type `kubernetes.io/tls` are read | list, watch |
//! | `gatewayclasses`, `gateways`, `listenersets`, `grpcroutes`, `httproutes`, `tlsroutes`, `tcproutes`, `udproutes`, `backendtlspolicies`, `referencegrants` of `gateway.networking.k8s.io` | list, watch |
//! | the same but `referencegrants`, for a status that somebody else has written meanwhile | get |
//! | `gatewayclasses/status`, `gateways/status`, `listenersets/status`, `grpcroutes/status`, `httproutes/status`, `tlsroutes/status`, `tcproutes/status`, `udproutes/status`, `backendtlspolicies/status` | patch |
//! | `xbackends`, `xbackendtrafficpolicies` of `gateway.networking.x-k8s.io` | get, list, watch |
//! | `xbackends/status`, `xbackendtrafficpolicies/status` | patch |
//! | `xmeshes` of `gateway.networking.x-k8s.io` | list, watch, create |
//! | `xmeshes/status` | patch |
//! | `customresourcedefinitions` with the names of these kinds and of other policy engines' (lists and watches select by name) | list, watch |
//! | `events` of `events.k8s.io`, on Gateways | create, patch |
//! | `tokenreviews` of `authentication.k8s.io`; `pods`: for the review of proofs (`weft-ca`) | create; get |
//!
//! In Weft's own namespace:
//!
//! | What | Verbs |
//! |---|---|
//! | `leases` of `coordination.k8s.io` named `weft-controller` | get, list, watch, update |
//! | `secrets` named `weft-ca` | get |
//! | `daemonsets` of `apps` named `weft-agent` | list, watch |
//! | `configmaps` named `weft-trust` | get, list, watch, patch |
//! | `daemonsets` of `apps`, for the review of proofs | get |
//! | `leases`, `secrets`, `configmaps`: creating cannot be granted by name | create |

pub mod class;
mod definition;
mod discovery;
mod follow;
pub mod infrastructure;
mod kinds;
pub mod lead;
pub mod lease;
pub mod mesh;
mod metrics;
pub mod namespaces;
mod policy_engines;
mod raw;
pub mod root;
pub mod statuses;
mod store;
#[cfg(test)]
mod tests;
mod uninstall;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use weft_model::MeshConfig;

pub use metrics::{LeaderMetrics, StatusMetrics, WatchMetrics};

use crate::inputs::Kind;
use crate::source::{Change, Loaded, Source};
use store::{Part, Store};

/// A change is taken up when nothing else has come for this long,
const QUIET: Duration = Duration::from_millis(10);
/// and at the latest this long after it came.
const MOST: Duration = Duration::from_millis(100);

/// How long to wait before a watch that broke down is begun anew.
const BROKEN: Duration = Duration::from_secs(5);

/// The objects of an API server.
#[derive(Debug)]
pub struct Kubernetes {
    store: Arc<Store>,
    /// One task for each kind; they end with this.
    watches: JoinSet<()>,
}

/// How the watches are doing, for the readiness endpoint.
#[derive(Clone, Debug)]
pub struct Watches(Arc<Store>);

impl Kubernetes {
    /// Starts watching. Must be called on a runtime.
    pub fn start(client: &Client, mesh: MeshConfig, metrics: WatchMetrics) -> Self {
        let store = Arc::new(Store::new(mesh, metrics));
        let mut watches = JoinSet::new();
        for kind in Kind::ALL {
            let (client, store) = (client.clone(), Arc::clone(&store));
            watches.spawn(keep_watching(client, kind, store));
        }
        Self { store, watches }
    }

    /// Also watches whether Weft is being uninstalled; `namespace`: its own.
    pub fn watch_uninstallation(&mut self, client: &Client, namespace: &str) {
        let (client, namespace, store) = (client.clone(), namespace.to_owned(), Arc::clone(&self.store));
        self.watches.spawn(async move { match uninstall::watch(client, &namespace, &store).await {} });
    }

    /// Also watches whether other engines of network policy are installed.
    pub fn watch_policy_engines(&mut self, client: &Client) {
        for name in policy_engines::DEFINITIONS {
            // Before the first list: until it is known that there is none there may be one.
            self.store.policy_engine(name, true);
            let (client, store) = (client.clone(), Arc::clone(&self.store));
            self.watches.spawn(async move { match policy_engines::watch(client, name, &store).await {} });
        }
    }

    /// How the watches are doing.
    pub fn watches(&self) -> Watches {
        Watches(Arc::clone(&self.store))
    }
}

/// Watches for ever. A watch that panics, which is a defect, is begun anew: it must not end in silence.
async fn keep_watching(client: Client, kind: Kind, store: Arc<Store>) {
    loop {
        let (client, shared) = (client.clone(), Arc::clone(&store));
        let watching = tokio::spawn(async move { watch::watch(client, kind, &shared).await });
        let Err(error) = AbortOnDropHandle::new(watching).await;
        store.failed(kind, Part::Objects, format!("the watch broke down: {error}"));
        tokio::time::sleep(BROKEN).await;
    }
}

impl Watches {
    /// What is waited for before anything can be translated.
    pub fn missing(&self) -> Option<String> {
        self.0.missing()
    }

    /// What does not work at the moment, though there is a last state.
    pub fn troubles(&self) -> Option<String> {
        self.0.troubles()
    }
}

impl Source for Kubernetes {
    async fn changed(&mut self) -> Change {
        loop {
            // A wait that was given up may have heard of a change that nobody has taken yet.
            if !self.store.has_change() {
                self.store.wake.notified().await;
            }
            let latest = Instant::now() + MOST;
            while Instant::now() < latest
                && tokio::time::timeout(QUIET, self.store.wake.notified()).await.is_ok()
            {}
            if let Some(change) = self.store.take_change() {
                return change;
            }
        }
    }

    fn load(&mut self, _: &MeshConfig) -> Option<Loaded> {
        self.store.load()
    }
}
