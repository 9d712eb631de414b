//! The lab's main loop: folder → objects → pods → endpoints → DNS and forwarding → report.

mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::apiserver::Store;
use crate::apiserver::source;
use crate::config::LabConfig;
use crate::daemon::{self, Daemon};
use crate::dns::{self, Zone};
use crate::endpoints;
use crate::files;
use crate::kubelet::cni::{Networks, conflist};
use crate::kubelet::{Data, Files, Kubelet, Order, PodEvent};
use crate::kubeproxy;
use crate::loadbalancer;
use crate::network;
use crate::objects::{Key, decode, now};
use crate::report::{DaemonReport, LabReport, Phase};
use crate::secrets::Secrets;
use crate::statuses;
use crate::supervisor::pods::Pods;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Grace of every pod when the whole lab goes down.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// Everything the loop holds.
struct Supervisor {
    config: Arc<LabConfig>,
    store: Store,
    pods: Pods,
    kubelet: Arc<Kubelet>,
    data: watch::Sender<Arc<Data>>,
    zone: watch::Sender<Arc<Zone>>,
    daemons: Vec<DaemonReport>,
    running_daemons: JoinSet<()>,
    /// What was seen of the folder last.
    fingerprint: Option<u64>,
    /// What was seen last of what the controller made.
    made: Option<u64>,
    /// The tables that were loaded last.
    forwarding: String,
    balancing: String,
    /// The parts of the report that only this loop knows.
    report: LabReport,
    published: Option<LabReport>,
    folder_error: Option<String>,
}

/// Runs the lab until SIGTERM; failures to start are told in the report.
pub(crate) async fn run(config: LabConfig) -> Result<()> {
    let report = LabReport {
        name: config.name.clone(),
        folder: config.folder.display().to_string(),
        ..LabReport::default()
    };
    let file = config.state.report();
    write_report(&file, &report)?;
    let outcome = Box::pin(serve(config, report.clone())).await;
    if let Err(error) = &outcome {
        let failed = LabReport { phase: Phase::Failed(format!("{error:#}")), ..report };
        write_report(&file, &failed)?;
    }
    outcome
}

fn write_report(file: &std::path::Path, report: &LabReport) -> Result<()> {
    files::write_atomic(file, &serde_json::to_vec_pretty(report)?)?;
    Ok(())
}

async fn serve(config: LabConfig, report: LabReport) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    network::build(&config)?;
    for node in config.all_nodes() {
        let list = serde_json::to_vec_pretty(&conflist::of(&config, node))?;
        files::write_atomic(&config.state.node(node).join("cni/10-weft.conflist"), &list)?;
    }
    let (events_sender, mut events) = mpsc::unbounded_channel();
    let (daemon_sender, mut daemon_reports) = mpsc::unbounded_channel();
    let (stop_daemons, order) = watch::channel(Order::Run);
    let mut supervisor = Supervisor::new(config, report, events_sender)?;
    dns::serve(&supervisor.config, supervisor.zone.subscribe()).await?;
    supervisor.add_built_in();
    supervisor.look();
    supervisor.store.sync()?;
    if supervisor.config.mesh {
        supervisor.kubelet.secrets.write_nodes(&supervisor.config)?;
        for daemon in daemon::all(&supervisor.config) {
            supervisor.start_daemon(daemon, &order, &daemon_sender);
        }
    }
    supervisor.report.phase = Phase::Running;
    let kubelet = Arc::clone(&supervisor.kubelet);
    tokio::spawn(async move { kubelet.networks.keep_up(&kubelet).await });
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    supervisor.settle().await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = tick.tick() => if !supervisor.look() { continue },
            Some(event) = events.recv() => {
                supervisor.pods.take(event);
                while let Ok(event) = events.try_recv() {
                    supervisor.pods.take(event);
                }
            }
            Some(report) = daemon_reports.recv() => supervisor.take_daemon(report),
        }
        supervisor.settle().await?;
    }
    supervisor.shut_down(&mut events).await?;
    stop_daemons.send_replace(Order::Stop(Duration::from_secs(1)));
    let ended = async { while supervisor.running_daemons.join_next().await.is_some() {} };
    let _ = timeout(Duration::from_secs(2), ended).await;
    Ok(())
}

impl Supervisor {
    fn new(config: LabConfig, report: LabReport, events: mpsc::UnboundedSender<PodEvent>) -> Result<Self> {
        let config = Arc::new(config);
        let (data, receiver) = watch::channel(Arc::new(Data::default()));
        let (zone, _) = watch::channel(Arc::new(Zone::default()));
        let exe = std::env::current_exe().context("cannot find this program's file")?;
        let networks = Networks::of(&config);
        let secrets = Arc::new(Secrets::new(&config.state));
        let kubelet =
            Arc::new(Kubelet { config: Arc::clone(&config), exe, data: receiver, secrets, events, networks });
        Ok(Self {
            store: Store::new(&config),
            pods: Pods::default(),
            config,
            kubelet,
            data,
            zone,
            daemons: Vec::new(),
            running_daemons: JoinSet::new(),
            fingerprint: None,
            made: None,
            forwarding: String::new(),
            balancing: String::new(),
            report,
            published: None,
            folder_error: None,
        })
    }

    fn start_daemon(
        &mut self,
        daemon: Daemon,
        order: &watch::Receiver<Order>,
        reports: &mpsc::UnboundedSender<DaemonReport>,
    ) {
        self.daemons.push(DaemonReport { name: daemon.name.clone(), ..DaemonReport::default() });
        self.running_daemons.spawn(daemon.run(Arc::clone(&self.kubelet), order.clone(), reports.clone()));
    }

    fn take_daemon(&mut self, report: DaemonReport) {
        if let Some(slot) = self.daemons.iter_mut().find(|d| d.name == report.name) {
            *slot = report;
        }
    }

    /// Nodes, the namespaces every cluster has, and the DNS Service.
    fn add_built_in(&mut self) {
        for name in ["default", "kube-system", "weft-system"] {
            let labels = json!({"kubernetes.io/metadata.name": name});
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
                "status": {"phase": "Active"},
            });
            self.store.put(Key::new("Namespace", "", name), object);
        }
        for (key, object) in self.config.all_nodes().map(|n| node_object(&self.config, n)).collect::<Vec<_>>()
        {
            self.store.put(key, object);
        }
        for (key, object) in dns::objects(&self.config) {
            self.store.reserve(&key, &object);
            self.store.put(key, object);
        }
    }

    /// Looks at everything that can change without the lab's doing; whether something did.
    fn look(&mut self) -> bool {
        let news = self.read_folders();
        let waiting = statuses::waited_for(&self.store, &self.config.state);
        let told = self.report.waiting == waiting;
        self.report.waiting = waiting;
        news || !told
    }

    /// Reads the user's folder, and the controller's, if one of them changed; whether it did.
    fn read_folders(&mut self) -> bool {
        let read = source::read(&self.config.folder)
            .map_err(|error| format!("folder {} cannot be read: {error}", self.config.folder.display()));
        let content = match read {
            Ok(content) => content,
            Err(message) => {
                let news = self.folder_error.as_ref() != Some(&message);
                self.folder_error = Some(message);
                return news;
            }
        };
        let before = self.folder_error.take();
        // One that cannot be read now will be the next time.
        let made = source::read(&self.config.state.infrastructure()).ok();
        let edited = self.fingerprint != Some(content.fingerprint);
        let remade = made.as_ref().is_some_and(|made| self.made != Some(made.fingerprint));
        let (true, Some(made)) = (edited || remade, made) else { return before.is_some() };
        (self.fingerprint, self.made) = (Some(content.fingerprint), Some(made.fingerprint));
        let (mut documents, broken) = content.parse();
        documents.extend(made.made());
        self.store.apply_folder(documents, broken);
        if edited {
            self.report.folder_version = self.report.folder_version.saturating_add(1);
        }
        true
    }

    /// Brings everything in line with objects and pods. Each step changes only what differs.
    async fn settle(&mut self) -> Result<()> {
        self.publish_data();
        self.pods.settle(&self.config, &mut self.store, &self.kubelet);
        let slices = endpoints::slices(&self.store, &self.pods.backends());
        self.store.replace_owned(
            "EndpointSlice",
            slices.into_iter().chain(endpoint_objects(&self.config)).collect(),
        );
        self.pods.write_objects(&mut self.store, &self.config);
        self.store.sync().context("cannot write the cluster folder")?;
        let zone = Zone::of(&self.store);
        self.zone.send_if_modified(|old| {
            let news = **old != zone;
            if news {
                *old = Arc::new(zone);
            }
            news
        });
        let forwarding = kubeproxy::ruleset(&self.config, &self.store);
        if forwarding != self.forwarding {
            kubeproxy::load(&self.kubelet, self.config.all_nodes().map(Some), &forwarding).await?;
            self.forwarding = forwarding;
        }
        let balancing = loadbalancer::ruleset(&self.config, &self.store);
        if balancing != self.balancing {
            kubeproxy::load(&self.kubelet, [None], &balancing).await?;
            self.balancing = balancing;
        }
        self.publish_report()
    }

    fn publish_data(&self) {
        let text = |value: &Value| value.as_str().map(|text| text.as_bytes().to_vec());
        let bytes = |value: &Value| decode::<ByteString>(value).ok().map(|bytes| bytes.0);
        let data = Data {
            config_maps: files_of(&self.store, "ConfigMap", text),
            secrets: files_of(&self.store, "Secret", bytes),
        };
        self.data.send_if_modified(|old| {
            let news = **old != data;
            if news {
                *old = Arc::new(data);
            }
            news
        });
    }

    fn publish_report(&mut self) -> Result<()> {
        let mut next = self.report.clone();
        next.pods = self.pods.reports();
        next.daemons.clone_from(&self.daemons);
        next.rejected.clone_from(&self.store.rejected);
        next.rejected.extend(self.pods.unschedulable().iter().cloned());
        if let Some(message) = &self.folder_error {
            next.rejected
                .push(crate::report::RejectedObject { message: message.clone(), ..Default::default() });
        }
        if self.published.as_ref() != Some(&next) {
            write_report(&self.config.state.report(), &next)?;
            self.published = Some(next);
        }
        Ok(())
    }

    async fn shut_down(&mut self, events: &mut mpsc::UnboundedReceiver<PodEvent>) -> Result<()> {
        self.pods.stop_all(LAST_GRACE);
        let patience = LAST_GRACE.saturating_mul(3);
        let all_gone = async {
            while !self.pods.is_empty() {
                let Some(event) = events.recv().await else { break };
                self.pods.take(event);
            }
        };
        if timeout(patience, all_gone).await.is_err() {
            tracing::warn!("some pods did not end in time; the lab ends without them");
        }
        self.publish_report()
    }
}

/// The `data` of all objects of a kind.
fn files_of(store: &Store, kind: &str, content: impl Fn(&Value) -> Option<Vec<u8>>) -> Files {
    let files = |object: &Value| {
        let data = object.get("data").and_then(Value::as_object).into_iter().flatten();
        data.filter_map(|(name, value)| Some((name.clone(), content(value)?))).collect::<BTreeMap<_, _>>()
    };
    let objects = store.kind(kind);
    objects.map(|(key, object)| ((key.namespace.clone(), key.name.clone()), files(object))).collect()
}

fn endpoint_objects(config: &LabConfig) -> impl Iterator<Item = (Key, Value)> {
    dns::objects(config).into_iter().filter(|(key, _)| key.kind == "EndpointSlice")
}

fn node_object(config: &LabConfig, node: crate::config::Node) -> (Key, Value) {
    let name = node.name();
    let mut ranges = vec![node.pod_range_v4()];
    if config.ipv6 {
        ranges.push(node.pod_range_v6());
    }
    let addresses: Vec<Value> =
        node.addresses(config.ipv6).iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": node.zone(),
        }},
        "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
        "status": {
            "addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now(), "reason": "KubeletReady"}],
        },
    });
    (Key::new("Node", "", &name), object)
}
