//! The agent client against a fake agent: real sockets on the loopback device, real descriptors over a socket pair.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_api::node::{Destinations, Intent};
use weft_model::workload::{Transition, WorkloadProtocol};
use weft_runtime::netns::NetNamespace;

use weft_api::node::CallerKind;

use super::*;
use crate::testing;

/// The agent's side.
struct FakeAgent {
    socket: SeqPacket,
    netns: NetNamespace,
    listeners: Vec<TcpListener>,
}

impl FakeAgent {
    fn new(socket: SeqPacket) -> Self {
        let bind = |_| {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        Self { socket, netns: NetNamespace::current().unwrap(), listeners: (0..3).map(bind).collect() }
    }

    fn address(&self, index: usize) -> SocketAddr {
        self.listeners[index].local_addr().unwrap()
    }

    async fn say(&self, message: &ToProxy, with_descriptors: bool) {
        let descriptors: Vec<_> =
            std::iter::once(self.netns.as_fd()).chain(self.listeners.iter().map(|l| l.as_fd())).collect();
        let descriptors = if with_descriptors { &descriptors[..] } else { &[] };
        self.socket.send(&serde_json::to_vec(message).unwrap(), descriptors).await.unwrap();
    }

    /// The next message that is not about what the proxy can do.
    async fn hear(&self) -> (ToAgent, Vec<OwnedFd>) {
        loop {
            let heard = self.hear_all().await;
            if !matches!(heard.0, ToAgent::Standing { .. }) {
                return heard;
            }
        }
    }

    async fn hear_all(&self) -> (ToAgent, Vec<OwnedFd>) {
        let received = tokio::time::timeout(Duration::from_secs(5), self.socket.receive()).await.unwrap();
        let (bytes, descriptors) = received.unwrap().unwrap();
        (serde_json::from_slice(&bytes).unwrap(), descriptors)
    }

    async fn add(&self, id: u64) -> Option<String> {
        self.say(&ToProxy::Add { id, pod: testing::enrolled("a", &["127.0.0.1"]) }, true).await;
        self.acked(id).await
    }

    async fn remove(&self, id: u64, cause: RemoveCause) -> Option<String> {
        self.say(&ToProxy::Remove { id, uid: "a".into(), cause }, false).await;
        self.acked(id).await
    }

    async fn acked(&self, expected: u64) -> Option<String> {
        match self.hear().await.0 {
            ToAgent::Ack { id, error } if id == expected => error,
            other => panic!("{other:?} instead of the ack of {expected}"),
        }
    }

    /// Greets, and returns which pods the proxy holds, with the number of descriptors beside each.
    async fn greet(&self) -> Vec<(Text, usize)> {
        self.say(&ToProxy::Hello { version: PROTOCOL_VERSION, node: "node-a".into() }, false).await;
        assert_eq!(self.hear().await.0, ToAgent::Hello { version: PROTOCOL_VERSION, may_be_succeeded: true });
        let mut held = Vec::new();
        loop {
            match self.hear().await {
                (ToAgent::Held { pod }, descriptors) => held.push((pod.uid, descriptors.len())),
                (ToAgent::HeldEnd, _) => return held,
                (other, _) => panic!("{other:?} among the pods held"),
            }
        }
    }
}

/// A client with its workers, serving one session; the task gives the client back when the session ends.
fn session(mut agent: Agent) -> (FakeAgent, tokio::task::JoinHandle<(Agent, AgentError)>) {
    let (near, far) = SeqPacket::pair().unwrap();
    let task = tokio::spawn(async move {
        let error = agent.serve(&near).await.unwrap_err();
        (agent, error)
    });
    (FakeAgent::new(far), task)
}

fn client(flags: &[&str]) -> (Agent, Arc<Shared>) {
    let shared = testing::shared(flags);
    let (crew, _threads) = Crew::start(&shared).unwrap();
    (Agent::new(shared.clone(), crew), shared)
}

async fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.is_ok()
}

/// How a connection ends that is refused, be it so soon that connecting fails already.
async fn refusal(address: SocketAddr) -> io::ErrorKind {
    let refused = async { TcpStream::connect(address).await?.read_u8().await };
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap().unwrap_err().kind()
}

#[tokio::test]
async fn an_added_pod_is_served_and_acked() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    assert_eq!(fake.greet().await, []);
    assert_eq!(fake.add(7).await, None);
    let pods = shared.pods.load();
    let pod = pods.by_uid("a").unwrap();
    assert_eq!(pod.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
    // Nobody redirected this connection, so it is a loop: accepted, and reset.
    assert_eq!(refusal(fake.address(0)).await, io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_restarted_agent_gets_every_descriptor_back_and_adding_again_changes_nothing() {
    let (agent, shared) = client(&[]);
    let (fake, task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    let before = shared.pods.load().by_uid("a").unwrap().clone();
    let FakeAgent { socket, netns, listeners } = fake;
    drop(socket);
    let (agent, error) = task.await.unwrap();
    assert!(matches!(error, AgentError::Closed), "{error}");

    let (mut fake, _task) = session(agent);
    (fake.netns, fake.listeners) = (netns, listeners);
    assert_eq!(fake.greet().await, [("a".into(), 4)]);
    assert_eq!(fake.add(2).await, None);
    assert!(Arc::ptr_eq(&before, shared.pods.load().by_uid("a").unwrap()));
    assert!(!before.scope.accepting.is_cancelled());
}

#[tokio::test]
async fn a_pod_that_comes_with_other_listeners_is_served_on_those() {
    let (agent, shared) = client(&[]);
    let (mut fake, _task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    let before = shared.pods.load().by_uid("a").unwrap().clone();
    fake.listeners = FakeAgent::new(SeqPacket::pair().unwrap().0).listeners;
    assert_eq!(fake.add(2).await, None);
    assert!(before.scope.accepting.is_cancelled());
    assert!(!Arc::ptr_eq(&before, shared.pods.load().by_uid("a").unwrap()));
    // Nobody redirected this connection either.
    assert_eq!(refusal(fake.address(0)).await, io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_pods_end_closes_its_connections_and_listeners_within_two_seconds() {
    let (agent, shared) = client(&[]);
    let (mut fake, _task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    // A tunnel that has not sent a byte yet: it would be waited for longer than that.
    let mut waiting = TcpStream::connect(fake.address(2)).await.unwrap();
    while shared.pods.load().by_uid("a").unwrap().scope.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (begun, address) = (Instant::now(), fake.address(2));
    assert_eq!(fake.remove(2, RemoveCause::PodEnd).await, None);
    // Two seconds by its own clocks; the machine's may be busy.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(ends(&mut waiting).await);
    assert!(shared.pods.load().by_uid("a").is_none());
    fake.listeners.clear();
    let error = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_pod_no_longer_enrolled_keeps_its_connections_until_it_ends() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    let mut waiting = TcpStream::connect(fake.address(2)).await.unwrap();
    let pod = shared.pods.load().by_uid("a").unwrap().clone();
    while pod.scope.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fake.remove(2, RemoveCause::Unenrolled).await, None);
    assert_eq!((pod.scope.connections(), pod.scope.ended.is_cancelled()), (1, false));
    drop(pod);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), waiting.read_u8()).await.is_err(), "still open");
    assert_eq!(fake.remove(3, RemoveCause::PodEnd).await, None);
    assert!(ends(&mut waiting).await);
}

#[tokio::test]
async fn an_unenrolled_pods_namespace_is_let_go_with_its_last_connection() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    let waiting = TcpStream::connect(fake.address(2)).await.unwrap();
    let pod = Arc::downgrade(shared.pods.load().by_uid("a").unwrap());
    while pod.upgrade().unwrap().scope.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fake.remove(2, RemoveCause::Unenrolled).await, None);
    assert!(pod.upgrade().is_some());
    drop(waiting);
    let gone = async {
        while pod.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Before its wait for a certificate (5 s) is over.
    tokio::time::timeout(Duration::from_secs(4), gone).await.unwrap();
}

#[tokio::test]
async fn a_draining_proxy_leaves_new_connections_to_its_successor() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    shared.ends.draining.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waiting = TcpStream::connect(fake.address(2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(shared.pods.load().by_uid("a").unwrap().scope.connections(), 0);
    assert_eq!(fake.listeners[2].accept().unwrap().1, waiting.local_addr().unwrap());
}

#[tokio::test]
async fn a_proxy_says_that_it_has_no_configuration_yet_and_that_it_drains() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    let says = |standing| ToAgent::Standing { standing };
    assert_eq!(fake.hear_all().await.0, says(Standing::Starting));
    shared.ends.draining.cancel();
    assert_eq!(fake.hear_all().await.0, says(Standing::Draining));
}

#[tokio::test]
async fn a_proxy_hears_that_another_has_taken_its_place() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    assert!(!shared.ends.succeeded.is_cancelled());
    fake.say(&ToProxy::Succeeded, false).await;
    tokio::time::timeout(Duration::from_secs(5), shared.ends.succeeded.cancelled()).await.unwrap();
}

#[tokio::test]
async fn a_draining_proxy_does_not_connect_to_an_agent_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = weft_runtime::fd::bind_seqpacket(&path).unwrap();
    let (agent, shared) = client(&["--agent-socket", path.to_str().unwrap()]);
    tokio::spawn(agent.run());
    let within = Duration::from_secs(5);
    drop(tokio::time::timeout(within, listener.accept()).await.unwrap().unwrap());
    let second = tokio::time::timeout(within, listener.accept()).await.unwrap().unwrap();
    shared.ends.draining.cancel();
    drop(second);
    // Its first pause is at most 100 ms, as the first connection has shown.
    assert!(tokio::time::timeout(Duration::from_secs(1), listener.accept()).await.is_err());
}

#[tokio::test]
async fn a_released_pod_is_reported_until_its_last_connection_has_ended() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    let mut reports = shared.served.reports();
    fake.greet().await;
    fake.say(&ToProxy::SnapshotEnd, false).await;
    assert_eq!(fake.add(1).await, None);
    // A tunnel that waits for its certificate.
    let open = TcpStream::connect(fake.address(2)).await.unwrap();
    let pod = shared.pods.load().by_uid("a").unwrap().clone();
    while pod.scope.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fake.remove(2, RemoveCause::Unenrolled).await, None);
    let within = Duration::from_secs(5);
    let told = async {
        loop {
            let report = reports.next().await;
            if report.pod_uids.is_empty() && !report.parting_pod_uids.is_empty() {
                return report.parting_pod_uids;
            }
        }
    };
    assert_eq!(tokio::time::timeout(within, told).await.unwrap(), ["a"]);
    drop(open);
    let last = tokio::time::timeout(within, reports.next()).await.unwrap();
    assert!(last.parting_pod_uids.is_empty() && last.pod_uids.is_empty(), "{last:?}");
}

#[tokio::test]
async fn removing_an_unknown_pod_is_done_already() {
    let (fake, _task) = session(client(&[]).0);
    fake.greet().await;
    assert_eq!(fake.remove(9, RemoveCause::PodEnd).await, None);
}

#[tokio::test]
async fn sockets_that_do_not_listen_are_refused_in_the_ack() {
    let (agent, shared) = client(&[]);
    let (mut fake, _task) = session(agent);
    fake.greet().await;
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&fake.listeners[1]),
        nix::sys::socket::Shutdown::Both,
    )
    .unwrap();
    let error = fake.add(1).await.unwrap();
    assert!(error.contains("does not listen"), "{error}");
    fake.listeners.pop();
    let error = fake.add(2).await.unwrap();
    assert!(error.contains("3 descriptors"), "{error}");
    assert!(shared.pods.load().by_uid("a").is_none());
}

#[tokio::test]
async fn more_connections_than_a_pod_may_have_are_reset() {
    let (agent, shared) = client(&["--max-connections-per-pod", "2"]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    let mut open = Vec::new();
    for count in 1..=2 {
        open.push(TcpStream::connect(fake.address(2)).await.unwrap());
        while shared.pods.load().by_uid("a").unwrap().scope.connections() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(refusal(fake.address(2)).await, io::ErrorKind::ConnectionReset);
    assert_eq!(shared.pods.load().by_uid("a").unwrap().scope.connections(), 2);
}

#[tokio::test]
async fn an_agent_of_another_version_that_closes_during_the_greeting_is_named() {
    let (mut agent, _) = client(&[]);
    let (near, far) = SeqPacket::pair().unwrap();
    let hello = ToProxy::Hello { version: PROTOCOL_VERSION + 1, node: "node-a".into() };
    far.send(&serde_json::to_vec(&hello).unwrap(), &[]).await.unwrap();
    drop(far);
    let error = agent.serve(&near).await.unwrap_err();
    assert!(matches!(error, AgentError::Version(version) if version == PROTOCOL_VERSION + 1), "{error}");
    assert!(error.to_string().contains("install one release of both"), "{error}");
}

#[tokio::test]
async fn another_version_or_node_ends_the_session_with_words() {
    let newer = PROTOCOL_VERSION + 1;
    let of_version = format!("version {newer}");
    for (version, node, word) in [(newer, "node-a", &*of_version), (PROTOCOL_VERSION, "node-b", "node-b")] {
        let (fake, task) = session(client(&[]).0);
        fake.say(&ToProxy::Hello { version, node: node.into() }, false).await;
        let (_, error) = task.await.unwrap();
        assert!(error.to_string().contains(word), "{error}");
    }
}

fn strict(version: u64, ports: &[u16]) -> crate::state::Snapshot {
    let workload = weft_model::workload::Workload {
        uid: "a".into(),
        pod: weft_model::ObjectName::new("shop", "a"),
        workload: "a".into(),
        node: "node-a".into(),
        addresses: vec![],
        identity: "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
        protocol: WorkloadProtocol::Tunnel,
        mtls: weft_model::workload::MtlsMode::Strict,
        plaintext_ports: ports.iter().copied().collect(),
        proxy_source_ports: Default::default(),
        filtered_by: None,
        refuses_udp: false,
        transition: None,
    };
    let resource = weft_model::Resource::Workload(workload);
    let empty = crate::state::Snapshot::empty(Arc::default(), crate::config::SameNode::Direct);
    empty.apply(version, [weft_api::delta::Change::Set(resource.name(), resource.into())])
}

#[tokio::test]
async fn the_agent_is_told_who_may_call_in_plaintext_whenever_that_changes() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    // Nothing is said of a pod that the configuration does not know.
    assert_eq!(fake.add(1).await, None);
    for (version, ports, said) in [(1, &[][..], true), (2, &[], false), (3, &[9090], true)] {
        shared.snapshot.swap(Arc::new(strict(version, ports)));
        if said {
            let expected = ToAgent::Plaintext { uid: "a".into(), ports: Some(ports.to_vec()) };
            assert_eq!(fake.hear().await.0, expected);
        }
    }
}

#[tokio::test]
async fn a_worker_gets_the_agents_answer_and_none_in_time_is_none() {
    let (agent, shared) = client(&[]);
    let (from, to) = ("10.0.0.1:4000".parse().unwrap(), "10.9.0.2:80".parse().unwrap());
    assert!(!shared.agent.is_of_node(Ipv4Addr::LOCALHOST.into()));
    let (fake, _task) = session(agent);
    fake.greet().await;
    fake.say(&ToProxy::NodeAddresses { addresses: vec![Ipv4Addr::LOCALHOST.into()] }, false).await;
    let asking = tokio::spawn({
        let shared = shared.clone();
        async move { shared.agent.who_calls(from, to).await }
    });
    let ToAgent::WhoCalls { id, from: asked_from, to: asked_to } = fake.hear().await.0 else { panic!() };
    assert_eq!((asked_from, asked_to), (from, to));
    fake.say(&ToProxy::Caller { id: id + 1, caller: CallerKind::Host }, false).await;
    fake.say(&ToProxy::Caller { id, caller: CallerKind::Pod }, false).await;
    assert_eq!(asking.await.unwrap(), Some(CallerKind::Pod));
    assert!(shared.agent.is_of_node("::ffff:127.0.0.1".parse().unwrap()));
    // The agent hears the question and says nothing.
    assert_eq!(shared.agent.who_calls(from, to).await, None);
}

#[tokio::test]
async fn the_agent_hears_of_the_first_refused_caller_at_once() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    let from = "10.0.0.1:4000".parse().unwrap();
    shared.agent.refused(&"a".into(), 80, from);
    assert_eq!(fake.hear().await.0, ToAgent::Refused { uid: "a".into(), port: 80, from, count: 1 });
}

#[tokio::test]
async fn a_running_pod_is_captured_only_with_configuration_and_certificate_and_released_when_peers_know() {
    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    assert!(fake.greet().await.is_empty());
    let identity: weft_model::Identity = "spiffe://cluster.local/ns/shop/sa/a".parse().unwrap();
    let mut id = 0;
    let mut may = async |intent| {
        id += 1;
        fake.say(&ToProxy::May { id, uid: "a".into(), intent }, false).await;
        fake.acked(id).await.unwrap_or_default()
    };
    let told = |protocol, transition| {
        let resources = [testing::mesh(), testing::workload("a", &identity, protocol, transition)];
        let changes = resources.map(|r| weft_api::delta::Change::Set(r.name(), Arc::new(r)));
        shared.snapshot.swap(Arc::new(shared.snapshot.load_full().apply(1, changes)));
    };
    assert!(may(Intent::Capture).await.contains("no configuration"));
    assert!(may(Intent::Release).await.contains("no configuration"));
    told(WorkloadProtocol::Plaintext, None);
    assert!(may(Intent::Capture).await.contains("taken notice"));
    assert_eq!(may(Intent::Release).await, "");
    told(WorkloadProtocol::Plaintext, Some(Transition::Enrolling));
    assert!(may(Intent::Capture).await.contains("no certificate"));
    assert_eq!(shared.certificates.expected(Instant::now()), std::slice::from_ref(&identity));
    testing::certify(&shared, &identity);
    assert_eq!(may(Intent::Capture).await, "");
    told(WorkloadProtocol::Tunnel, None);
    assert_eq!(may(Intent::Capture).await, "");
    assert!(may(Intent::Release).await.contains("other nodes' proxies"));
    told(WorkloadProtocol::Plaintext, Some(Transition::Leaving));
    assert!(may(Intent::Release).await.contains("other nodes' proxies"));
}

#[tokio::test]
async fn the_controller_is_told_what_is_served_once_the_agent_has_sent_everything() {
    let (agent, shared) = client(&[]);
    let mut reports = shared.served.reports();
    let (fake, _task) = session(agent);
    assert!(fake.greet().await.is_empty());
    assert_eq!(fake.add(1).await, None);
    let report = tokio::time::timeout(Duration::from_millis(200), reports.next()).await;
    assert!(report.is_err(), "another pod may still come: {report:?}");
    let pods = BTreeMap::from([("b".into(), "a port is taken".to_owned())]);
    fake.say(&ToProxy::Unserved { pods }, false).await;
    fake.say(&ToProxy::SnapshotEnd, false).await;
    let report = reports.next().await;
    assert_eq!(report.pod_uids, ["a"]);
    assert_eq!((&*report.unserved[0].pod_uid, &*report.unserved[0].why), ("b", "a port is taken"));
    assert_eq!(fake.remove(2, RemoveCause::PodEnd).await, None);
    assert!(reports.next().await.pod_uids.is_empty());
}

#[tokio::test]
async fn the_agent_is_told_what_else_to_capture_whenever_that_changes() {
    use weft_model::service::{AppProtocol, Service, ServicePort};
    use weft_model::{MeshConfig, ObjectName, Resource};

    let (agent, shared) = client(&[]);
    let (fake, _task) = session(agent);
    fake.greet().await;
    assert_eq!(fake.add(1).await, None);
    let mesh = Resource::MeshConfig(MeshConfig {
        trust_domain: weft_model::TrustDomain("cluster.local".into()),
        cluster_domain: "cluster.local".into(),
        service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
        pod_ranges: Vec::new(),
    });
    let service = |address: &str| {
        Resource::Service(Service {
            addresses: vec![address.parse().unwrap()],
            ports: vec![ServicePort { port: 80, name: None, protocol: AppProtocol::Http }],
            ..Service::new(ObjectName::new("shop", "cart"))
        })
    };
    let outside: Destinations =
        Destinations { tcp: ["192.0.2.1:80".parse().unwrap()].into(), ..Destinations::default() };
    // First also what is nothing: the agent may know something of the proxy before.
    let inside = service("10.96.0.1");
    let steps =
        [(mesh, Some(Destinations::default())), (inside, None), (service("192.0.2.1"), Some(outside))];
    for (version, (resource, said)) in (1..).zip(steps) {
        let change = weft_api::delta::Change::Set(resource.name(), resource.into());
        let next = shared.snapshot.load().apply(version, [change]);
        shared.snapshot.swap(Arc::new(next));
        if let Some(destinations) = said {
            assert_eq!(fake.hear().await.0, ToAgent::Destinations { uid: "a".into(), destinations });
        }
    }
}
