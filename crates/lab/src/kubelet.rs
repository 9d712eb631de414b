//! Plays the kubelet and the container runtime: one task per pod, from its network namespace and
//! the CNI plugins to its containers, probes and end.

pub(crate) mod cni;
mod container;
mod environment;
mod leftovers;
mod probe;
mod prober;
mod volumes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};

pub(crate) use container::LAUNCH_FAILED;

use crate::config::{LabConfig, Node};
use crate::launch::Launch;
use crate::network;
use crate::report::{ContainerReport, NetworkCheck};
use crate::secrets::Secrets;

/// What every pod's task shares.
pub(crate) struct Kubelet {
    pub(crate) config: Arc<LabConfig>,
    /// This binary, started again as launcher.
    pub(crate) exe: PathBuf,
    /// What volumes and environments are filled with.
    pub(crate) data: watch::Receiver<Arc<Data>>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) events: mpsc::UnboundedSender<PodEvent>,
    pub(crate) networks: cni::Networks,
}

/// Files by (namespace, name) of the object that they are in.
pub(crate) type Files = BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>;

/// What ConfigMaps and Secrets hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) config_maps: Files,
    pub(crate) secrets: Files,
}

impl Data {
    /// The content of an object of `kind`.
    ///
    /// # Errors
    /// In words for the pod's status: there is none.
    pub(crate) fn of(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<&BTreeMap<String, Vec<u8>>, String> {
        let (files, word) = match kind {
            Kind::ConfigMap => (&self.config_maps, "configmap"),
            Kind::Secret => (&self.secrets, "secret"),
        };
        let found = files.get(&(namespace.to_owned(), name.to_owned()));
        found.ok_or_else(|| format!("{word} {name:?} not found"))
    }
}

/// Kinds of object that hold files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

/// What a pod's task tells the supervisor.
pub(crate) struct PodEvent {
    pub(crate) uid: String,
    pub(crate) news: News,
}

/// A change of a pod.
pub(crate) enum News {
    State(PodState),
    /// What CNI CHECK found.
    Network(NetworkCheck),
    /// Everything of the pod is gone.
    Gone,
}

/// The part of a pod's status that its task knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodState {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) containers: Vec<ContainerReport>,
    /// Why the pod is not further.
    pub(crate) message: String,
    /// All containers have ended and none will start again.
    pub(crate) finished: bool,
}

/// How a pod is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    /// Ends with at most this much time between SIGTERM and SIGKILL.
    Stop(Duration),
}

/// One pod as its task sees it.
pub(crate) struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: Node,
    pub(crate) pod: Pod,
}

impl PodSpec {
    /// Name of the pod's network namespace below `/run/netns`.
    pub(crate) fn netns_name(&self) -> String {
        format!("pod-{}", self.uid)
    }

    pub(crate) fn netns(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.netns_name())
    }

    /// The pod's folder on the lab's tmpfs.
    pub(crate) fn folder(&self) -> PathBuf {
        PathBuf::from("/run/lab/pods").join(&self.uid)
    }

    pub(crate) fn service_account(&self) -> &str {
        self.pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default")
    }
}

impl Kubelet {
    /// Carries one pod from start to end.
    pub(crate) async fn run(self: Arc<Self>, spec: Arc<PodSpec>, mut order: watch::Receiver<Order>) {
        let mut state = PodState::default();
        if self.sandbox(&spec, &mut state, &mut order).await {
            let reporter = Reporter { kubelet: Arc::clone(&self), uid: spec.uid.clone() };
            container::run_all(&self, &spec, state, order, reporter).await;
            leftovers::end(&spec, None);
            self.networks.detach(&self, &spec).await;
        }
        let name = spec.netns_name();
        if let Err(error) = network::delete_netns(&name) {
            tracing::warn!(pod = %spec.name, %error, "network namespace stays");
        }
        let _ = tokio::fs::remove_dir_all(spec.folder()).await;
        let _ = tokio::fs::remove_dir_all(self.launches(&spec)).await;
        self.tell(&spec.uid, News::Gone);
    }

    /// Network namespace and CNI ADD, again and again until it works or the pod is to end; whether it worked.
    async fn sandbox(
        &self,
        spec: &Arc<PodSpec>,
        state: &mut PodState,
        order: &mut watch::Receiver<Order>,
    ) -> bool {
        let mut pause = Duration::from_millis(500);
        while *order.borrow() == Order::Run {
            match self.add_sandbox(spec).await {
                Ok(addresses) => {
                    state.addresses = addresses;
                    state.message.clear();
                    self.tell(&spec.uid, News::State(state.clone()));
                    return true;
                }
                Err(error) => {
                    state.message = format!("{error:#}");
                    tracing::warn!(namespace = %spec.namespace, pod = %spec.name, error = %state.message, "pod sandbox failed");
                    self.tell(&spec.uid, News::State(state.clone()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = order.changed() => {}
            }
            pause = pause.saturating_mul(2).min(Duration::from_secs(10));
        }
        false
    }

    async fn add_sandbox(&self, spec: &Arc<PodSpec>) -> anyhow::Result<Vec<IpAddr>> {
        let name = spec.netns_name();
        if !spec.netns().exists() {
            network::add_pod(&name, self.config.ipv6)?;
        }
        match self.networks.attach(self, spec).await {
            Ok(addresses) => Ok(addresses),
            Err(error) => {
                // As container runtimes do: undo the part that was done, start afresh.
                self.networks.detach(self, spec).await;
                let _ = network::delete_netns(&name);
                Err(error)
            }
        }
    }

    pub(crate) fn launches(&self, spec: &PodSpec) -> PathBuf {
        self.config.state.launches().join(&spec.uid)
    }

    pub(crate) fn tell(&self, uid: &str, news: News) {
        // The supervisor only goes when the lab goes.
        let _ = self.events.send(PodEvent { uid: uid.to_owned(), news });
    }

    /// A launcher command for tokio.
    pub(crate) fn command(&self, launch: &Launch) -> anyhow::Result<tokio::process::Command> {
        Ok(tokio::process::Command::from(launch.command(&self.exe)?))
    }
}

/// Sends a pod's state to the supervisor.
pub(crate) struct Reporter {
    kubelet: Arc<Kubelet>,
    uid: String,
}

impl Reporter {
    pub(crate) fn tell(&self, state: &PodState) {
        self.kubelet.tell(&self.uid, News::State(state.clone()));
    }
}
