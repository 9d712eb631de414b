//! The agent's part in probes: who calls, what it does without a proxy, and the rules for TCP probes. The agent runs in
//! the peer's namespace, which plays the node. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::*;
use weft_api::node::{CallerKind, EnrolledPod, PROTOCOL_VERSION, ToAgent, ToProxy};
use weft_api::probe::{Probe, ProbeAction};
use weft_cni::kernel::listen::{self, Listeners};
use weft_runtime::fd::SeqPacket;
use weft_runtime::netns::NetNamespace;

const HTTP: u16 = 8080;
const TCP: u16 = 9000;

/// Killed at the end of a test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent that serves one enrolled pod, and the pod's proxy, which is the test.
struct Node {
    wire: Wire,
    folder: tempfile::TempDir,
    pod: EnrolledPod,
    descriptors: Vec<OwnedFd>,
    _agent: Running,
}

struct Proxy {
    packets: SeqPacket,
    addresses: BTreeSet<IpAddr>,
    ports_said: u64,
}

impl Node {
    async fn new() -> (Self, Proxy) {
        let (folder, wire) = (tempfile::tempdir().unwrap(), Wire::new());
        let probes = vec![
            Probe { port: HTTP, action: ProbeAction::Http { target: "/".into(), headers: vec![] } },
            Probe { port: TCP, action: ProbeAction::Tcp },
        ];
        let pod = EnrolledPod {
            uid: "u1".into(),
            pod: weft_model::ObjectName::new("shop", "cart"),
            service_account: "cart".into(),
            addresses: addresses(),
            bypass_mark: 0x1234_5678,
            inbound_mark: 0x0bad_cafe,
            ipv6: true,
            probes,
            // As they are in a namespace that nobody has touched.
            settings: [
                ("ipv4/fwmark_reflect", 0),
                ("ipv4/tcp_fwmark_accept", 0),
                ("ipv6/fwmark_reflect", 0),
                ("netfilter/nf_conntrack_tcp_loose", 1),
            ]
            .map(|(name, value)| (format!("/proc/sys/net/{name}").into(), value))
            .into(),
        };
        let ips: Vec<Value> = POD.iter().map(|ip| json!({"ip": ip})).collect();
        let container = json!({"livenessProbe": {"httpGet": {"port": HTTP}}, "readinessProbe": {"tcpSocket": {"port": TCP}}});
        let object = json!({"kind": "Pod", "metadata": {"namespace": "shop", "name": "cart", "uid": "u1"},
            "spec": {"nodeName": "one", "containers": [container]}, "status": {"phase": "Running", "podIPs": ips}});
        write(folder.path(), "Pod/shop/cart.json", &object);
        let namespace = json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"weft-mesh.dev/mesh": "enabled"}}});
        write(folder.path(), "Namespace/_/shop.json", &namespace);
        let agent = wire.peer.run_in(|| start_agent(folder.path())).unwrap();
        let Listeners(listeners) = wire.pod.run_in(listen::open).unwrap().unwrap();
        let mut descriptors = vec![wire.pod.as_fd().try_clone_to_owned().unwrap()];
        descriptors.extend(listeners);
        let node = Self { wire, folder, pod, descriptors, _agent: Running(agent) };
        let proxy = node.connect().await;
        (node, proxy)
    }

    /// A proxy that holds the pod already.
    async fn connect(&self) -> Proxy {
        let packets = connect_to_agent(self.folder.path());
        let mut proxy = Proxy { packets, addresses: BTreeSet::new(), ports_said: 0 };
        proxy.say(&ToAgent::Hello { version: PROTOCOL_VERSION, may_be_succeeded: true }).await;
        let borrowed: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let held = serde_json::to_vec(&ToAgent::Held { pod: self.pod.clone() }).unwrap();
        proxy.packets.send(&held, &borrowed).await.unwrap();
        proxy.say(&ToAgent::HeldEnd).await;
        loop {
            match proxy.next().await {
                ToProxy::SnapshotEnd => return proxy,
                ToProxy::Add { id, pod } => {
                    assert_eq!(pod, self.pod);
                    proxy.say(&ToAgent::Ack { id, error: None }).await;
                }
                _ => {}
            }
        }
    }

    fn listener(&self) -> &OwnedFd {
        &self.descriptors[2]
    }

    fn status(&self) -> Value {
        let text = std::fs::read(self.folder.path().join("run/agent-status.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Answers one connection with what it says, in the pod.
    fn echo_once(&self, port: u16) -> std::thread::JoinHandle<SocketAddr> {
        let application = listen(&self.wire.pod, &format!("[::]:{port}"));
        std::thread::spawn(move || {
            let (mut served, from) = accept(&application);
            let mut said = [0; 4];
            served.read_exact(&mut said).unwrap();
            served.write_all(&said).unwrap();
            from
        })
    }
}

impl Proxy {
    async fn say(&self, message: &ToAgent) {
        self.packets.send(&serde_json::to_vec(message).unwrap(), &[]).await.unwrap();
    }

    async fn next(&mut self) -> ToProxy {
        let received =
            tokio::time::timeout(2 * LIMIT, self.packets.receive()).await.expect("the agent is silent");
        let (bytes, _) = received.unwrap().expect("the agent closed");
        let message = serde_json::from_slice(&bytes).unwrap();
        if let ToProxy::NodeAddresses { addresses } = &message {
            self.addresses = addresses.iter().copied().collect();
        }
        message
    }

    async fn who_calls(&mut self, from: SocketAddr, to: SocketAddr) -> CallerKind {
        self.ports_said += 1;
        self.say(&ToAgent::WhoCalls { id: self.ports_said, from, to }).await;
        loop {
            if let ToProxy::Caller { id, caller } = self.next().await {
                assert_eq!(id, self.ports_said);
                return caller;
            }
        }
    }
}

fn start_agent(folder: &std::path::Path) -> Child {
    let socket = folder.join("run/agent.sock");
    let agent = Command::new(env!("CARGO_BIN_EXE_weft-agent"))
        .args(["--node", "one", "--hold", "1s", "--verify-every", "300ms", "--folder"])
        .arg(folder)
        .arg("--runtime-dir")
        .arg(folder.join("run"))
        .spawn()
        .unwrap();
    eventually("the agent listens", || socket.exists());
    agent
}

fn write(folder: &std::path::Path, path: &str, object: &Value) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, object.to_string()).unwrap();
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < 2 * LIMIT, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn dial_from(namespace: &NetNamespace, from: &str, to: SocketAddr) -> TcpStream {
    let connect = || {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
        socket.bind(&at(from, 0).into()).unwrap();
        socket.connect_timeout(&to.into(), LIMIT).unwrap();
        TcpStream::from(socket)
    };
    let stream = namespace.run_in(connect).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn is_reset(stream: &mut TcpStream) {
    let outcome = stream.read(&mut [0; 8]);
    assert!(outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_is_known_by_the_owner_of_its_socket() {
    let (node, mut proxy) = Node::new().await;
    let all: BTreeSet<IpAddr> = PEER.into_iter().chain(OUTSIDE).map(|a| a.parse().unwrap()).collect();
    assert_eq!(proxy.addresses, all);
    for (address, peer) in POD.into_iter().zip(PEER) {
        let to = at(address, HTTP);
        // This test is a process of the node: it runs in its namespace and in no pod's cgroup.
        let client = dial(&node.wire.peer, to).unwrap();
        let (_served, from) = accept(node.listener());
        assert_eq!(proxy.who_calls(from, to).await, CallerKind::Host);
        assert_eq!(proxy.who_calls(from, at(address, HTTP + 1)).await, CallerKind::Nobody);
        // A socket that listens on the port is not the caller.
        let listening = listen(&node.wire.peer, "[::]:0");
        let other = at(peer, listening.local_addr().unwrap().port());
        assert_eq!(proxy.who_calls(other, to).await, CallerKind::Nobody);
        drop(client);
        assert_eq!(proxy.who_calls(from, to).await, CallerKind::Nobody);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_in_a_pods_cgroup_is_not_the_kubelet_though_it_has_the_nodes_address() {
    let (node, mut proxy) = Node::new().await;
    let cgroup = PodCgroup::new();
    let to = at(POD[0], HTTP);
    // The kubelet calls first, so that the agent has somebody to ask first.
    let _kubelet = dial(&node.wire.peer, to).unwrap();
    let (_served, from) = accept(node.listener());
    assert_eq!(proxy.who_calls(from, to).await, CallerKind::Host);
    let script =
        format!("echo $$ > {}; exec 3<>/dev/tcp/{}/{HTTP}; sleep 300 & wait", cgroup.procs(), POD[0]);
    let pod = node.wire.peer.run_in(|| Command::new("bash").args(["-c", &script]).spawn().unwrap()).unwrap();
    let pod = Running(pod);
    let (_served, from) = accept(node.listener());
    assert_eq!(proxy.who_calls(from, to).await, CallerKind::Pod);
    // Its child has the socket too, and would outlive it.
    run(&node.wire.peer, "pkill", &["-P", &pod.0.id().to_string()], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_probes_pass_and_all_others_are_reset_and_counted() {
    let (node, proxy) = Node::new().await;
    drop(proxy);
    let (peer, to) = (&node.wire.peer, at(POD[0], HTTP));
    for (address, source) in POD.into_iter().zip(PEER) {
        let application = node.echo_once(HTTP);
        let mut kubelet = dial(peer, at(address, HTTP)).unwrap();
        kubelet.write_all(b"ping").unwrap();
        let mut answer = [0; 4];
        kubelet.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
        assert_eq!(kubelet.read(&mut [0]).unwrap(), 0, "the end arrives");
        assert_eq!(application.join().unwrap().ip(), source.parse::<IpAddr>().unwrap());
    }
    eventually("carried probes are counted", || node.status()["carriedProbes"] == 2);
    // Nobody listens there: the probe learns it.
    is_reset(&mut dial(peer, to).unwrap());
    let _application = listen(&node.wire.pod, "[::]:8081");
    is_reset(&mut dial(peer, at(POD[0], 8081)).unwrap());
    is_reset(&mut dial(&node.wire.pod, SERVICE[0].parse().unwrap()).unwrap());
    eventually("resets are counted", || node.status()["resetConnections"] == 2);
    // Another address of the node is no less the node's, and one that is not the node's is nobody's.
    let _application = listen(&node.wire.pod, "[::]:8080");
    let proxy = node.connect().await;
    let mut client = dial(peer, to).unwrap();
    assert_alive(&mut client, &mut accept(node.listener()).0);
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_a_pod_at_the_nodes_address_is_reset() {
    let (node, proxy) = Node::new().await;
    drop(proxy);
    let cgroup = PodCgroup::new();
    let application = listen(&node.wire.pod, "[::]:8080");
    let script = format!(
        "echo $$ > {}; exec 3<>/dev/tcp/{}/{HTTP}; echo ping >&3; cat <&3 2>&1; true",
        cgroup.procs(),
        POD[0]
    );
    let printed = run(&node.wire.peer, "bash", &["-c", &script], "");
    assert!(printed.contains("reset"), "{printed:?}");
    eventually("the reset is counted", || node.status()["resetConnections"] == 1);
    assert_eq!(node.status()["carriedProbes"], 0);
    nothing_waits(&application);
}

fn nothing_waits(application: &TcpListener) {
    application.set_nonblocking(true).unwrap();
    assert_eq!(application.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_probe_reaches_the_application_once_the_proxy_admits_nobody_else_there() {
    let (node, proxy) = Node::new().await;
    let application = listen(&node.wire.pod, "[::]:9000");
    let to = at(POD[0], TCP);
    // Until then the proxy judges: a caller may have more to say than a probe has.
    let mut client = dial_from(&node.wire.peer, PEER[0], to);
    assert_alive(&mut client, &mut accept(node.listener()).0);
    let direct = || {
        let _client = dial(&node.wire.peer, to).unwrap();
        let waits = |listener: &dyn Fn() -> bool| {
            (0..20).any(|_| {
                listener() || {
                    std::thread::sleep(Duration::from_millis(5));
                    false
                }
            })
        };
        let application = TcpListener::from(application.as_fd().try_clone_to_owned().unwrap());
        let proxy = TcpListener::from(node.listener().try_clone().unwrap());
        application.set_nonblocking(true).unwrap();
        let direct = waits(&|| application.accept().is_ok());
        assert!(direct || proxy.accept().is_ok());
        direct
    };
    proxy.say(&ToAgent::Plaintext { uid: "u1".into(), ports: Some(vec![]) }).await;
    eventually("probes go to the application", direct);
    proxy.say(&ToAgent::Plaintext { uid: "u1".into(), ports: Some(vec![TCP]) }).await;
    eventually("callers that are admitted go to the proxy", || !direct());
    proxy.say(&ToAgent::Plaintext { uid: "u1".into(), ports: Some(vec![]) }).await;
    eventually("probes go to the application again", direct);
    // The node gets another address, and the kubelet may call from it at once.
    run(&node.wire.peer, "ip", &["address", "add", "10.1.0.77/32", "dev", "lo"], "");
    let from_new = || {
        let _client = dial_from(&node.wire.peer, "10.1.0.77", to);
        let proxy = TcpListener::from(node.listener().try_clone().unwrap());
        std::thread::sleep(Duration::from_millis(50));
        proxy.accept().is_err()
    };
    eventually("the rules know the new address", from_new);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_callers_are_in_the_status() {
    let (node, proxy) = Node::new().await;
    let from = at(PEER[0], 40_000);
    for count in [1, 5] {
        proxy.say(&ToAgent::Refused { uid: "u1".into(), port: 80, from, count }).await;
    }
    let expected = json!({"from": from, "count": 6});
    eventually("the status says who was refused", || {
        node.status()["refusedPlaintext"]["u1"]["80"] == expected
    });
}
