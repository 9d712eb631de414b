//! The agent's and the plugin's binaries with a proxy of the test's own and pods that are network namespaces.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;
use weft_api::node::{EnrolledPod, Intent, PROTOCOL_VERSION, RemoveCause, Standing, ToAgent, ToProxy};
use weft_model::Text;
use weft_runtime::fd::SeqPacket;
use weft_runtime::netns::NetNamespace;

/// A node: folder of objects, agent, one pod `shop/cart` on a wire.
struct Node {
    folder: tempfile::TempDir,
    wire: Wire,
    agent: Child,
}

/// Held by a test whose pod has a program in it, which makes its namespace findable: all pods here have the same
/// addresses, and two with the same cannot be told apart.
static FINDABLE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill_agent();
    }
}

impl Node {
    fn new(namespace_label: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wire = Wire::new();
        label(folder.path(), namespace_label);
        let agent = start_agent(folder.path());
        Self { folder, wire, agent }
    }

    fn kill_agent(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }

    fn restart_agent(&mut self) {
        self.kill_agent();
        self.agent = start_agent(self.folder.path());
    }

    /// The pod object, with addresses once the pod runs.
    fn pod(&self, running: bool) {
        let ips: Vec<Value> = POD.iter().map(|ip| json!({"ip": ip})).collect();
        let object = json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": "cart", "uid": "u1"},
            "spec": {"nodeName": "one", "serviceAccountName": "cart-sa"},
            "status": {"phase": if running {"Running"} else {"Pending"}, "podIPs": if running {ips} else {vec![]}}});
        write(self.folder.path(), "Pod/shop/cart.json", &object);
    }

    fn plugin(&self, command: &str) -> (bool, Value) {
        let namespace = format!("/proc/{}/fd/{}", std::process::id(), self.wire.pod.as_fd().as_raw_fd());
        self.plugin_with(command, &namespace, &json!([{"containerID": "c1", "ifname": "eth0"}]))
    }

    /// As the runtime calls it for the namespace at this path, with these attachments in use (for GC).
    fn plugin_with(&self, command: &str, namespace: &str, attachments: &Value) -> (bool, Value) {
        let config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "weft-cni", "timeout": 10,
            "agentSocket": self.folder.path().join("run/cni.sock"),
            "cni.dev/valid-attachments": attachments,
            "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}, {"address": "fd01::2/64"}]}});
        let mut child = Command::new(env!("CARGO_BIN_EXE_weft-cni"))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", namespace)
            .env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart;K8S_POD_UID=u1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    fn tables(&self) -> String {
        run(&self.wire.pod, "nft", &["list", "tables"], "")
    }

    fn status(&self) -> Value {
        let text = std::fs::read(self.folder.path().join("run/agent-status.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

fn start_agent(folder: &Path) -> Child {
    start_agent_with(folder, &[])
}

fn start_agent_with(folder: &Path, more: &[&str]) -> Child {
    let socket = folder.join("run/agent.sock");
    let _ = std::fs::remove_file(&socket);
    let ranges: Vec<String> = cluster().iter().map(ToString::to_string).collect();
    let agent = Command::new(env!("CARGO_BIN_EXE_weft-agent"))
        .args(["--node", "one", "--hold", "1s", "--pod-wait", "2s", "--verify-every", "300ms"])
        .args(["--cluster-range", &ranges.join(",")])
        .arg("--folder")
        .arg(folder)
        .arg("--runtime-dir")
        .arg(folder.join("run"))
        .args(more)
        .spawn()
        .unwrap();
    eventually("the agent listens", || socket.exists());
    agent
}

fn write(folder: &Path, path: &str, object: &Value) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path.with_extension("tmp"), object.to_string()).unwrap();
    std::fs::rename(path.with_extension("tmp"), path).unwrap();
}

fn label(folder: &Path, value: &str) {
    let object =
        json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"weft-mesh.dev/mesh": value}}});
    write(folder, "Namespace/_/shop.json", &object);
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < 2 * LIMIT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A proxy that says yes.
struct Proxy {
    packets: SeqPacket,
    pods: HashMap<String, (EnrolledPod, Vec<OwnedFd>)>,
    /// What it answers when it is asked whether something may be done with a running pod now.
    missing: Option<String>,
    /// What it was told of pods that cannot be enrolled.
    unserved: BTreeMap<Text, String>,
}

impl Proxy {
    async fn connect(folder: &Path, held: HashMap<String, (EnrolledPod, Vec<OwnedFd>)>) -> Self {
        let mut proxy = Self::greet(folder, held).await;
        proxy.until_the_end_of_the_snapshot().await;
        proxy
    }

    async fn greet(folder: &Path, held: HashMap<String, (EnrolledPod, Vec<OwnedFd>)>) -> Self {
        let packets = connect_to_agent(folder);
        let mut proxy = Self { packets, pods: held, missing: None, unserved: BTreeMap::new() };
        proxy.say(&ToAgent::Hello { version: PROTOCOL_VERSION, may_be_succeeded: true }).await;
        for (pod, descriptors) in proxy.pods.values() {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let message = serde_json::to_vec(&ToAgent::Held { pod: pod.clone() }).unwrap();
            proxy.packets.send(&message, &descriptors).await.unwrap();
        }
        proxy.say(&ToAgent::HeldEnd).await;
        let ToProxy::Hello { node, .. } = proxy.next().await else { panic!() };
        assert_eq!(&*node, "one");
        proxy
    }

    async fn until_the_end_of_the_snapshot(&mut self) {
        while !matches!(self.next().await, ToProxy::SnapshotEnd) {}
    }

    async fn stands(&self, standing: Standing) {
        self.say(&ToAgent::Standing { standing }).await;
    }

    /// Waits until the agent has heard all that was said: it answers what comes after.
    async fn is_heard(&mut self) {
        self.say(&ToAgent::WhoCalls { id: 0, from: service(), to: service() }).await;
        while !matches!(self.next().await, ToProxy::Caller { id: 0, .. }) {}
    }

    async fn say(&self, message: &ToAgent) {
        self.packets.send(&serde_json::to_vec(message).unwrap(), &[]).await.unwrap();
    }

    /// The next order, obeyed and confirmed; questions in between are answered.
    async fn next(&mut self) -> ToProxy {
        loop {
            let message = self.take().await;
            if !matches!(message, ToProxy::May { .. } | ToProxy::Unserved { .. }) {
                return message;
            }
        }
    }

    async fn take(&mut self) -> ToProxy {
        let received =
            tokio::time::timeout(2 * LIMIT, self.packets.receive()).await.expect("the agent is silent");
        let (bytes, descriptors) = received.unwrap().expect("the agent closed");
        let message: ToProxy = serde_json::from_slice(&bytes).unwrap();
        match &message {
            ToProxy::Add { id, pod } => {
                assert_eq!(descriptors.len(), 4);
                self.pods.insert(pod.uid.to_string(), (pod.clone(), descriptors));
                self.say(&ToAgent::Ack { id: *id, error: None }).await;
            }
            ToProxy::Remove { id, uid, .. } => {
                self.pods.remove(&**uid);
                self.say(&ToAgent::Ack { id: *id, error: None }).await;
            }
            ToProxy::May { id, .. } => {
                self.say(&ToAgent::Ack { id: *id, error: self.missing.clone() }).await;
            }
            ToProxy::Unserved { pods } => self.unserved.clone_from(pods),
            _ => {}
        }
        message
    }

    fn listener(&self, place: usize) -> &OwnedFd {
        &self.pods["u1"].1[place]
    }
}

fn service() -> SocketAddr {
    SERVICE[0].parse().unwrap()
}

async fn added(node: &Node, proxy: &mut Proxy) {
    node.pod(false);
    std::thread::scope(|scope| {
        let plugin = scope.spawn(|| node.plugin("ADD"));
        let message =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(proxy.next()));
        let ToProxy::Add { pod, .. } = message else { panic!("{message:?}") };
        assert_eq!((&*pod.service_account, pod.addresses), ("cart-sa", addresses()));
        let (success, printed) = plugin.join().unwrap();
        assert!(success, "{printed}");
        assert_eq!(printed["ips"][0]["address"], "10.1.0.2/24");
    });
    node.pod(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_pod_is_served_by_the_proxy_until_it_ends() {
    let node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    let namespace = NetNamespace::from_descriptor(proxy.listener(0).try_clone().unwrap()).unwrap();
    assert_eq!(namespace.id(), node.wire.pod.id());
    let mut client = dial(&node.wire.pod, service()).unwrap();
    assert_alive(&mut client, &mut accept(proxy.listener(1)).0);
    for command in ["CHECK", "STATUS"] {
        assert!(node.plugin(command).0, "{command}");
    }
    assert_eq!(node.status()["pods"]["u1"]["state"], "enrolled");
    std::thread::scope(|scope| {
        let plugin = scope.spawn(|| node.plugin("DEL"));
        let message =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(proxy.next()));
        assert!(matches!(message, ToProxy::Remove { cause: RemoveCause::PodEnd, .. }), "{message:?}");
        assert!(plugin.join().unwrap().0);
    });
    let _alone = FINDABLE.lock().await;
    // Its object and its programs may last a while; that is no reason to enrol it again.
    let program = node.wire.pod.run_in(|| Command::new("sleep").arg("300").spawn().unwrap()).unwrap();
    let _program = Kill(program);
    // The node's addresses are its own matter: another program may change them.
    let enrolled = async {
        loop {
            match proxy.next().await {
                ToProxy::NodeAddresses { .. } => {}
                other => return other,
            }
        }
    };
    let silence = tokio::time::timeout(Duration::from_millis(2500), enrolled).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_a_meshed_pod_does_not_start_and_others_do() {
    let node = Node::new("enabled");
    node.pod(false);
    let (success, printed) = node.plugin("ADD");
    assert!(!success && printed["code"] == 11, "{printed}");
    assert_eq!(node.plugin("STATUS").1["code"], 50);
    assert_eq!(node.tables(), "");
    label(node.folder.path(), "disabled");
    eventually("an unmeshed pod starts", || node.plugin("ADD").0);
    assert_eq!(node.tables(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_the_proxy_refuses_leaves_nothing_behind() {
    let node = Node::new("enabled");
    let proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    node.pod(false);
    std::thread::scope(|scope| {
        let plugin = scope.spawn(|| node.plugin("ADD"));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let (bytes, _) = proxy.packets.receive().await.unwrap().unwrap();
                let ToProxy::Add { id, .. } = serde_json::from_slice(&bytes).unwrap() else { panic!() };
                proxy.say(&ToAgent::Ack { id, error: Some("full".to_owned()) }).await;
            });
        });
        let (success, printed) = plugin.join().unwrap();
        assert!(!success && printed["msg"].as_str().unwrap().contains("full"), "{printed}");
    });
    assert_eq!(node.tables(), "");
    drop(listen(&node.wire.pod, "[::]:15001"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_with_another_meshs_rules_does_not_start_and_is_told_why() {
    let node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    node.pod(false);
    let rules = "table ip other {\nchain base {\ntype nat hook output priority -100;\nmeta l4proto tcp redirect to :15001\n}\n}\n";
    run(&node.wire.pod, "nft", &["-f", "-"], rules);
    let (success, printed) = node.plugin("ADD");
    assert!(!success && printed["msg"].as_str().unwrap().contains("redirected by Istio"), "{printed}");
    eventually("the status says so", || node.status()["pods"]["u1"]["reason"] == "ForeignSidecar");
    run(&node.wire.pod, "nft", &["delete", "table", "ip", "other"], "");
    added(&node, &mut proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_made_while_the_proxy_is_away_is_served_by_the_next() {
    let node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    drop(proxy);
    let mut client = dial(&node.wire.pod, service()).unwrap();
    client.write_all(b"early").unwrap();
    let proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    let (mut served, _) = accept(proxy.listener(1));
    let mut early = [0; 5];
    served.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
    assert_alive(&mut client, &mut served);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_longer_than_hold_are_reset() {
    let node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    drop(proxy);
    let start = Instant::now();
    let mut client = dial(&node.wire.pod, service()).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(start.elapsed() > Duration::from_millis(700), "{:?}", start.elapsed());
    eventually("the reset is counted", || node.status()["resetConnections"] == 1);
    let proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    let mut client = dial(&node.wire.pod, service()).unwrap();
    assert_alive(&mut client, &mut accept(proxy.listener(1)).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_agent_gets_the_sockets_back_from_the_proxy() {
    let mut node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    let mut old = dial(&node.wire.pod, service()).unwrap();
    let (mut old_served, _) = accept(proxy.listener(1));
    node.restart_agent();
    let mut waiting = dial(&node.wire.pod, service()).unwrap();
    let before = proxy.pods["u1"].0.clone();
    let proxy = Proxy::connect(node.folder.path(), proxy.pods).await;
    assert_eq!(proxy.pods["u1"].0, before);
    assert!(node.plugin("CHECK").0);
    assert_alive(&mut old, &mut old_served);
    assert_alive(&mut waiting, &mut accept(proxy.listener(1)).0);
    // Adopted for real: the agent alone keeps the port open now.
    drop(proxy);
    let mut late = dial(&node.wire.pod, service()).unwrap();
    let proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    assert_alive(&mut late, &mut accept(proxy.listener(1)).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn successor_is_given_the_pods_when_it_is_ready_and_keeps_them_although_the_old_proxy_connects_again() {
    let mut node = Node::new("enabled");
    let mut old = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut old).await;
    old.stands(Standing::Ready).await;
    old.is_heard().await;
    let mut new = Proxy::greet(node.folder.path(), HashMap::new()).await;
    assert!(matches!(new.next().await, ToProxy::NodeAddresses { .. }));
    let silent = tokio::time::timeout(Duration::from_millis(500), new.packets.receive()).await;
    assert!(silent.is_err(), "a proxy without configuration was given pods beside one that serves them");
    new.stands(Standing::Ready).await;
    new.until_the_end_of_the_snapshot().await;
    assert!(new.pods.contains_key("u1"));
    old.stands(Standing::Draining).await;
    node.restart_agent();
    let new = Proxy::greet(node.folder.path(), new.pods).await;
    new.stands(Standing::Ready).await;
    let old = Proxy::greet(node.folder.path(), old.pods).await;
    old.stands(Standing::Draining).await;
    drop(old);
    // Longer than `hold`: the agent must not take the place of a proxy that is there.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(node.status()["proxyConnected"], true);
    let mut client = dial(&node.wire.pod, service()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_alive(&mut client, &mut accept(new.listener(1)).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_pod_is_enrolled_and_released_by_its_namespaces_label() {
    let mut node = Node::new("disabled");
    let _alone = FINDABLE.lock().await;
    let program = node.wire.pod.run_in(|| Command::new("sleep").arg("300").spawn().unwrap()).unwrap();
    let _program = Kill(program);
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    node.pod(true);
    let server = listen(&node.wire.peer, "[::]:9000");
    let mut old = dial(&node.wire.pod, at(PEER[0], 9000)).unwrap();
    let (mut old_served, _) = accept(&server);
    assert_eq!(node.tables(), "");
    proxy.missing = Some("nobody knows it yet".to_owned());
    label(node.folder.path(), "enabled");
    while !matches!(proxy.take().await, ToProxy::May { intent: Intent::Capture, .. }) {}
    while !proxy.unserved.get("u1").is_some_and(|why| why.contains("nobody knows it yet")) {
        proxy.take().await;
    }
    eventually("waits", || node.status()["pods"]["u1"]["state"] == "waiting");
    assert_eq!(node.tables(), "", "captured although its connections would break");
    proxy.missing = None;
    assert!(matches!(proxy.next().await, ToProxy::Add { .. }));
    let mut captured = dial(&node.wire.pod, service()).unwrap();
    let (mut captured_served, _) = accept(proxy.listener(1));
    eventually("the old one is counted", || node.status()["pods"]["u1"]["oldConnections"] == 1);
    assert!(node.status()["pods"]["u1"]["oldConnectionsEnd"].is_string(), "{}", node.status());
    proxy.missing = Some("peers call it by tunnel".to_owned());
    label(node.folder.path(), "disabled");
    while !matches!(proxy.take().await, ToProxy::May { intent: Intent::Release, .. }) {}
    eventually("waits for peers", || node.status()["pods"]["u1"]["state"] == "leaving");
    let mut still = dial(&node.wire.pod, service()).unwrap();
    assert_alive(&mut still, &mut accept(proxy.listener(1)).0);
    drop(still);
    proxy.missing = None;
    assert!(matches!(proxy.next().await, ToProxy::Remove { cause: RemoveCause::Unenrolled, .. }));
    eventually("released", || node.status()["pods"]["u1"]["state"] == "released");
    std::thread::sleep(Duration::from_millis(1500));
    assert_alive(&mut captured, &mut captured_served);
    assert_alive(&mut old, &mut old_served);
    let mut direct = dial(&node.wire.pod, at(PEER[0], 9000)).unwrap();
    assert_alive(&mut direct, &mut accept(&server).0);
    drop((captured, captured_served));
    eventually("the rules are gone", || node.tables().is_empty());
    assert_alive(&mut old, &mut old_served);
    assert_eq!(node.status()["oldConnectionsEnded"], 0);
    label(node.folder.path(), "enabled");
    assert!(matches!(proxy.next().await, ToProxy::Add { .. }));
    eventually("both are counted", || node.status()["pods"]["u1"]["oldConnections"] == 2);
    drop(direct);
    eventually("an ended one is not", || node.status()["pods"]["u1"]["oldConnections"] == 1);
    let mut captured = dial(&node.wire.pod, service()).unwrap();
    let (mut captured_served, _) = accept(proxy.listener(1));
    assert_alive(&mut old, &mut old_served);
    // An agent that starts again finds them again; this one lets them no time.
    node.kill_agent();
    node.agent = start_agent_with(node.folder.path(), &["--enrol-grace", "0s"]);
    let _proxy = Proxy::connect(node.folder.path(), proxy.pods).await;
    assert_eq!(old.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    eventually("it is counted", || node.status()["oldConnectionsEnded"] == 1);
    assert_eq!(node.status()["pods"]["u1"]["oldConnections"], 0);
    assert_alive(&mut captured, &mut captured_served);
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_rules_fail_check_and_are_put_back() {
    let node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    run(&node.wire.pod, "nft", &["delete", "table", "inet", "weft"], "");
    eventually("the table is back", || node.tables().contains("weft"));
    eventually("the repair is counted", || node.status()["repairs"] == 1);
    assert!(node.plugin("CHECK").0);
    let mut client = dial(&node.wire.pod, service()).unwrap();
    assert_alive(&mut client, &mut accept(proxy.listener(1)).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_another_mesh_that_come_later_are_told_of_until_they_are_gone_and_open_nothing() {
    let node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    let rules = "table ip other {\nchain base {\ntype nat hook output priority -50;\nmeta l4proto tcp redirect to :15001\n}\n}\n";
    run(&node.wire.pod, "nft", &["-f", "-"], rules);
    eventually("the status says so", || node.status()["pods"]["u1"]["reason"] == "ForeignSidecar");
    let pod = node.status()["pods"]["u1"].clone();
    assert_eq!(pod["captured"], true, "{pod}");
    assert!(pod["error"].as_str().unwrap().contains("take that sidecar out"), "{pod}");
    assert!(node.tables().contains("weft"));
    run(&node.wire.pod, "nft", &["delete", "table", "ip", "other"], "");
    eventually("the status forgets it", || node.status()["pods"]["u1"]["state"] == "enrolled");
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_ends_the_pods_that_the_runtime_no_longer_has_and_no_other() {
    let node = Node::new("enabled");
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    assert!(node.plugin("GC").0);
    assert!(node.plugin("CHECK").0, "GC took a pod whose attachment is valid");
    std::thread::scope(|scope| {
        let other = json!([{"containerID": "another", "ifname": "eth0"}]);
        let plugin = scope.spawn(move || node.plugin_with("GC", "", &other));
        let message =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(proxy.next()));
        assert!(matches!(message, ToProxy::Remove { cause: RemoveCause::PodEnd, .. }), "{message:?}");
        assert!(plugin.join().unwrap().0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_vanished_without_del_is_ended_when_its_last_program_has() {
    let node = Node::new("enabled");
    let _alone = FINDABLE.lock().await;
    let mut proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    added(&node, &mut proxy).await;
    let program = node.wire.pod.run_in(|| Command::new("sleep").arg("300").spawn().unwrap()).unwrap();
    let program = Kill(program);
    std::fs::remove_file(node.folder.path().join("Pod/shop/cart.json")).unwrap();
    // Several comparisons long.
    let silence = tokio::time::timeout(Duration::from_secs(2), proxy.packets.receive()).await;
    assert!(silence.is_err(), "{silence:?}");
    let mut client = dial(&node.wire.pod, service()).unwrap();
    assert_alive(&mut client, &mut accept(proxy.listener(1)).0);
    drop(program);
    let ended = proxy.next().await;
    assert!(matches!(ended, ToProxy::Remove { cause: RemoveCause::PodEnd, .. }), "{ended:?}");
    eventually("it is forgotten", || node.status()["pods"]["u1"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_whose_namespace_has_vanished_is_refused_and_its_end_is_no_error() {
    let node = Node::new("enabled");
    let _proxy = Proxy::connect(node.folder.path(), HashMap::new()).await;
    node.pod(false);
    let gone = node.folder.path().join("gone").display().to_string();
    let (success, printed) = node.plugin_with("ADD", &gone, &json!([]));
    assert!(!success && printed["code"] == 4, "{printed}");
    assert!(node.plugin_with("DEL", &gone, &json!([])).0);
    assert!(node.status()["pods"]["u1"].is_null(), "{}", node.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_of_another_version_hears_the_agents_and_is_let_go() {
    let node = Node::new("enabled");
    let proxy = connect_to_agent(node.folder.path());
    let hello = serde_json::to_vec(&ToAgent::Hello { version: PROTOCOL_VERSION + 1, may_be_succeeded: true })
        .unwrap();
    proxy.send(&hello, &[]).await.unwrap();
    let heard = tokio::time::timeout(2 * LIMIT, proxy.receive()).await.unwrap().unwrap().unwrap().0;
    let ToProxy::Hello { version, .. } = serde_json::from_slice(&heard).unwrap() else { panic!("{heard:?}") };
    assert_eq!(version, PROTOCOL_VERSION);
    assert!(tokio::time::timeout(2 * LIMIT, proxy.receive()).await.unwrap().unwrap().is_none());
    let (success, printed) = node.plugin("STATUS");
    assert!(!success && printed["code"] == 50, "{printed}");
}
