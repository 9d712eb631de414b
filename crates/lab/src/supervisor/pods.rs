//! The pods that exist, and those that should: started, replaced and ended as Deployments and
//! bare Pods come, change and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod as PodObject;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::apiserver::Store;
use crate::config::{LabConfig, Node};
use crate::endpoints::Backend;
use crate::kubelet::{Kubelet, News, Order, PodEvent, PodSpec, PodState};
use crate::objects::{Key, decode, new_uid, now, set, set_metadata, text};
use crate::report::{NetworkCheck, PodReport, RejectedObject};
use crate::scheduler::{self, Wanted};

/// Every pod by uid.
#[derive(Default)]
pub(crate) struct Pods {
    pods: BTreeMap<String, Pod>,
    unschedulable: Vec<RejectedObject>,
}

struct Pod {
    owner: Key,
    revision: String,
    node: Node,
    object: Value,
    state: PodState,
    network: NetworkCheck,
    order: watch::Sender<Order>,
    /// When the pod was told to end.
    deleted: Option<String>,
    /// When it became ready or unready last, and when it started.
    ready_since: String,
    started: String,
}

impl Pod {
    fn ready(&self) -> bool {
        !self.state.containers.is_empty() && self.state.containers.iter().all(|c| c.ready)
    }

    fn key(&self) -> Key {
        Key::of(&self.object)
    }

    fn stop(&mut self, grace: Option<Duration>) {
        let own =
            self.object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30);
        let grace = grace.unwrap_or_else(|| Duration::from_secs(own));
        self.deleted.get_or_insert_with(now);
        self.order.send_replace(Order::Stop(grace));
    }

    fn succeeded(&self) -> bool {
        self.state.containers.iter().all(|c| c.exit_code == Some(0))
    }

    /// As kubectl shows it.
    fn status(&self) -> &'static str {
        let containers = &self.state.containers;
        if self.deleted.is_some() {
            "Terminating"
        } else if self.state.finished {
            if self.succeeded() { "Completed" } else { "Error" }
        } else if containers.is_empty() {
            "ContainerCreating"
        } else if containers.iter().all(|c| c.pid.is_some()) {
            "Running"
        } else if containers.iter().any(|c| c.exit_code.is_some_and(|c| c == crate::kubelet::LAUNCH_FAILED)) {
            "RunContainerError"
        } else if containers.iter().any(|c| c.exit_code.is_some()) {
            "CrashLoopBackOff"
        } else if containers.iter().any(|c| !c.message.is_empty()) {
            "CreateContainerError"
        } else {
            "ContainerCreating"
        }
    }

    fn message(&self) -> String {
        if !self.state.message.is_empty() {
            return self.state.message.clone();
        }
        if let NetworkCheck::Failed(problem) = &self.network {
            return problem.clone();
        }
        let told = self.state.containers.iter().filter(|c| !c.message.is_empty());
        told.map(|c| format!("{}: {}", c.name, c.message)).collect::<Vec<_>>().join("; ")
    }

    fn report(&self) -> PodReport {
        let key = self.key();
        PodReport {
            namespace: key.namespace,
            name: key.name,
            uid: text(&self.object, "/metadata/uid").to_owned(),
            deployment: (self.owner.kind == "Deployment").then(|| self.owner.name.clone()),
            node: self.node.name(),
            addresses: self.state.addresses.iter().map(ToString::to_string).collect(),
            status: self.status().to_owned(),
            ready: self.ready() && self.deleted.is_none(),
            message: self.message(),
            network: self.network.clone(),
            containers: self.state.containers.clone(),
        }
    }

    /// The Pod object with its status, as the API server would show it.
    fn full_object(&self, config_host: &[String]) -> Value {
        let mut object = self.object.clone();
        if let Some(when) = &self.deleted {
            set_metadata(&mut object, "deletionTimestamp", json!(when));
            let grace =
                object.pointer("/spec/terminationGracePeriodSeconds").cloned().unwrap_or_else(|| json!(30));
            set_metadata(&mut object, "deletionGracePeriodSeconds", grace);
        }
        let ready = if self.ready() { "True" } else { "False" };
        let phase = match (
            self.state.finished,
            self.succeeded(),
            self.state.containers.iter().any(|c| c.pid.is_some() || c.restarts > 0),
        ) {
            (true, true, _) => "Succeeded",
            (true, false, _) => "Failed",
            (false, _, true) => "Running",
            (false, _, false) => "Pending",
        };
        let ips: Vec<Value> = self.state.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let hosts: Vec<Value> = config_host.iter().map(|ip| json!({"ip": ip})).collect();
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "lastTransitionTime": self.ready_since});
        let containers: Vec<Value> = self
            .state
            .containers
            .iter()
            .map(|c| {
                json!({
                    "name": c.name, "ready": c.ready, "restartCount": c.restarts, "started": c.pid.is_some(),
                    "image": "local", "imageID": "",
                    "state": match c.pid {
                        Some(_) => json!({"running": {"startedAt": self.started}}),
                        None => json!({"waiting": {"reason": self.status(), "message": c.message}}),
                    },
                })
            })
            .collect();
        let mut status = json!({
            "phase": phase,
            "conditions": [
                condition("PodScheduled", "True"), condition("Initialized", "True"),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
            "hostIP": config_host.first(), "hostIPs": hosts,
            "podIPs": ips, "startTime": self.started, "containerStatuses": containers, "qosClass": "BestEffort",
        });
        if let Some(ip) = self.state.addresses.first() {
            set(&mut status, "podIP", json!(ip));
        }
        set(&mut object, "status", status);
        object
    }
}

impl Pods {
    /// Takes a pod's news.
    pub(crate) fn take(&mut self, event: PodEvent) {
        match event.news {
            News::Gone => {
                self.pods.remove(&event.uid);
            }
            News::Network(found) => {
                if let Some(pod) = self.pods.get_mut(&event.uid) {
                    pod.network = found;
                }
            }
            News::State(state) => {
                if let Some(pod) = self.pods.get_mut(&event.uid) {
                    let before = pod.ready();
                    pod.state = state;
                    if pod.ready() != before {
                        pod.ready_since = now();
                    }
                }
            }
        }
    }

    /// Starts and ends pods until they are what Deployments and bare Pods ask for.
    pub(crate) fn settle(&mut self, config: &Arc<LabConfig>, store: &mut Store, kubelet: &Arc<Kubelet>) {
        self.unschedulable.clear();
        let wanted = scheduler::wanted(store);
        for pod in self.pods.values_mut() {
            if pod.deleted.is_none() && !wanted.iter().any(|w| w.owner == pod.owner) {
                pod.stop(None);
            }
        }
        for set in &wanted {
            self.settle_set(config, set, kubelet);
        }
    }

    fn settle_set(&mut self, config: &Arc<LabConfig>, wanted: &Wanted, kubelet: &Arc<Kubelet>) {
        let of_set = |pod: &&Pod| pod.owner == wanted.owner;
        let current = |pod: &Pod| pod.revision == wanted.revision && pod.deleted.is_none();
        let present = self.pods.values().filter(of_set).filter(|p| current(p)).count();
        // A bare pod keeps its name: its successor starts when it is gone.
        let blocked = wanted.is_bare() && self.pods.values().filter(of_set).any(|p| !current(p));
        if !blocked {
            for _ in present..wanted.replicas {
                if let Err(message) = self.start(config, wanted, kubelet) {
                    self.unschedulable.push(RejectedObject {
                        place: String::new(),
                        object: wanted.owner.to_string(),
                        message,
                    });
                    break;
                }
            }
        }
        let ready = self.pods.values().filter(of_set).filter(|p| current(p) && p.ready()).count();
        let mut surplus = present.saturating_sub(wanted.replicas);
        for pod in self.pods.values_mut().filter(|p| p.owner == wanted.owner && p.deleted.is_none()) {
            let old = pod.revision != wanted.revision;
            if old && (wanted.is_bare() || ready >= wanted.replicas) {
                pod.stop(None);
            } else if !old && surplus > 0 {
                surplus = surplus.saturating_sub(1);
                pod.stop(None);
            } else if !old && wanted.is_bare() {
                relabel(&mut pod.object, &wanted.template);
            }
        }
    }

    fn start(
        &mut self,
        config: &Arc<LabConfig>,
        wanted: &Wanted,
        kubelet: &Arc<Kubelet>,
    ) -> Result<(), String> {
        let alive = || self.pods.values().filter(|p| p.deleted.is_none());
        let same: Vec<Node> = alive().filter(|p| p.owner == wanted.owner).map(|p| p.node).collect();
        let all: Vec<Node> = alive().map(|p| p.node).collect();
        let spec = wanted.template.get("spec").unwrap_or(&Value::Null);
        let node = scheduler::choose(config, spec, &same, &all)?;
        let (uid, name) = (new_uid(), wanted.pod_name());
        let object = wanted.pod(&name, &uid, node);
        let typed: PodObject = decode(&object)?;
        let (order, receiver) = watch::channel(Order::Run);
        let spec =
            PodSpec { namespace: wanted.owner.namespace.clone(), name, uid: uid.clone(), node, pod: typed };
        tokio::spawn(Arc::clone(kubelet).run(Arc::new(spec), receiver));
        let pod = Pod {
            owner: wanted.owner.clone(),
            revision: wanted.revision.clone(),
            node,
            object,
            state: PodState::default(),
            network: NetworkCheck::default(),
            order,
            deleted: None,
            ready_since: now(),
            started: now(),
        };
        self.pods.insert(uid, pod);
        Ok(())
    }

    /// What endpoints are made of. Pods that have ended, and pods without address, are no endpoints.
    pub(crate) fn backends(&self) -> Vec<Backend<'_>> {
        let alive = self.pods.values().filter(|p| !p.state.addresses.is_empty() && !p.state.finished);
        alive
            .map(|pod| Backend {
                pod: &pod.object,
                addresses: &pod.state.addresses,
                ready: pod.ready(),
                terminating: pod.deleted.is_some(),
            })
            .collect()
    }

    /// Puts every Pod object with its status into the store, and removes those that are gone.
    pub(crate) fn write_objects(&self, store: &mut Store, config: &LabConfig) {
        let objects = self.pods.values().map(|pod| {
            let host: Vec<String> = pod.node.addresses(config.ipv6).iter().map(ToString::to_string).collect();
            (pod.key(), pod.full_object(&host))
        });
        store.replace_owned("Pod", objects.collect());
    }

    pub(crate) fn reports(&self) -> Vec<PodReport> {
        let mut all: Vec<PodReport> = self.pods.values().map(Pod::report).collect();
        all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        all
    }

    pub(crate) fn unschedulable(&self) -> &[RejectedObject] {
        &self.unschedulable
    }

    pub(crate) fn stop_all(&mut self, grace: Duration) {
        for pod in self.pods.values_mut() {
            pod.stop(Some(grace));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

/// Labels and annotations of a bare pod may change while it runs.
fn relabel(object: &mut Value, template: &Value) {
    for field in ["labels", "annotations"] {
        if let Some(value) = template.get("metadata").and_then(|m| m.get(field)) {
            set_metadata(object, field, value.clone());
        } else if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove(field);
        }
    }
}
