//! Connects in a network namespace made for each test, with the routes that the agent sets up. They need root (or a
//! user namespace with NET_ADMIN) and fail without.

use std::net::{IpAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::testing;

const OWN_V4: &str = "10.244.0.5";
const OWN_V6: &str = "fd00:244::5";

/// A namespace with the pod's addresses on `lo`, and what carries `inbound_mark` routed to `lo`.
fn namespace() -> NetNamespace {
    let script = format!(
        "set -e
        ip link set lo up
        ip addr add {OWN_V4}/32 dev lo
        ip addr add {OWN_V6}/128 dev lo nodad
        sysctl -qw net.ipv4.tcp_fwmark_accept=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.route_localnet=1
        for family in -4 -6; do
            ip $family rule add pref 1508 fwmark 0x7002 lookup 1508
            ip $family route add local default dev lo table 1508
        done"
    );
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs SYS_ADMIN and NET_ADMIN");
        let status = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(status.success(), "ip (iproute2) and sysctl (procps) must be there");
        NetNamespace::current().unwrap()
    });
    made.join().unwrap()
}

fn pod(netns: &NetNamespace) -> LocalPod {
    let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let enrolled = testing::enrolled("a", &[OWN_V4, OWN_V6]);
    LocalPod::new(enrolled, identity, netns.clone(), &Ends::default())
}

fn application(netns: &NetNamespace, ip: &str) -> (TcpListener, SocketAddr) {
    let address = SocketAddr::new(ip.parse().unwrap(), 0);
    let listener = netns.run_in(|| TcpListener::bind(address)).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn peer_seen(
    pod: &LocalPod,
    application: &TcpListener,
    to: SocketAddr,
    source: SocketAddr,
) -> SocketAddr {
    let connect = pod.connect_application(to, source);
    let _stream = tokio::time::timeout(Duration::from_secs(5), connect).await.unwrap().unwrap();
    application.accept().unwrap().1
}

#[tokio::test]
async fn the_application_sees_the_callers_address_and_port() {
    let netns = namespace();
    let pod = pod(&netns);
    for (own, caller) in [(OWN_V4, "192.0.2.7:4242"), (OWN_V6, "[2001:db8::7]:4242")] {
        let (listener, to) = application(&netns, own);
        let caller: SocketAddr = caller.parse().unwrap();
        assert_eq!(peer_seen(&pod, &listener, to, caller).await, caller);
    }
}

#[tokio::test]
async fn a_source_port_in_use_costs_the_port_and_not_the_address() {
    let netns = namespace();
    let pod = pod(&netns);
    let (listener, to) = application(&netns, OWN_V4);
    let caller: SocketAddr = "192.0.2.7:4242".parse().unwrap();
    let _first = pod.connect_application(to, caller).await.unwrap();
    listener.accept().unwrap();
    let seen = peer_seen(&pod, &listener, to, caller).await;
    assert_eq!(seen.ip(), caller.ip());
    assert_ne!(seen.port(), caller.port());
}

#[tokio::test]
async fn a_pod_that_calls_itself_keeps_its_address_and_not_its_port() {
    let netns = namespace();
    let pod = pod(&netns);
    let (listener, to) = application(&netns, OWN_V4);
    let caller = SocketAddr::new(OWN_V4.parse::<IpAddr>().unwrap(), 4242);
    let seen = peer_seen(&pod, &listener, to, caller).await;
    assert_eq!(seen.ip(), caller.ip());
    assert_ne!(seen.port(), caller.port());
}

#[tokio::test]
async fn only_the_pods_own_addresses_and_no_port_of_ours_are_dialled_as_application() {
    let netns = namespace();
    let pod = pod(&netns);
    let caller: SocketAddr = "192.0.2.7:4242".parse().unwrap();
    for to in ["127.0.0.1:80", "10.244.0.6:80", "10.244.0.5:15001", "10.244.0.5:15006", "10.244.0.5:15008"] {
        let error = pod.connect_application(to.parse().unwrap(), caller).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{to}");
    }
    let error = pod.connect_application(format!("[{OWN_V6}]:80").parse().unwrap(), caller).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn connections_leave_from_the_pods_namespace_with_its_mark() {
    let netns = namespace();
    let pod = pod(&netns);
    let (listener, to) = application(&netns, OWN_V4);
    let stream = pod.connect(to).await.unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), to.ip());
    assert_eq!(fd::mark(&stream).unwrap(), 0x7001);
}

#[tokio::test]
async fn an_ended_pod_opens_no_socket() {
    let netns = namespace();
    let pod = pod(&netns);
    pod.drop_netns();
    let error = pod.connect("10.244.0.5:80".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}
