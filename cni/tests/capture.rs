//! The capture rules with real packets between two network namespaces. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::*;
use weft_cni::kernel::KernelError;
use weft_cni::kernel::capture::Capture;
use weft_cni::ruleset::TcpProbes;
use weft_runtime::fd;
use weft_runtime::netns::NetNamespace;

#[test]
fn outbound_connection_is_captured_with_its_original_destination() {
    let wire = Wire::new();
    let capture = wire.capture();
    let [outbound, ..] = &capture.listeners.as_ref().unwrap().0;
    for (service, pod) in SERVICE.into_iter().zip(POD) {
        let service: SocketAddr = service.parse().unwrap();
        let mut client = dial(&wire.pod, service).unwrap();
        let (mut captured, from) = accept(outbound);
        assert_eq!(from.ip(), pod.parse::<IpAddr>().unwrap());
        let local = captured.local_addr().unwrap();
        assert_eq!(fd::original_destination(&captured, local).unwrap(), service);
        assert_alive(&mut client, &mut captured);
    }
}

#[test]
fn a_namespace_that_is_captured_already_is_left_as_it_is() {
    let wire = Wire::new();
    let capture = wire.capture();
    let again = || {
        let probes = TcpProbes::default();
        Capture::install(wire.pod.clone(), &addresses(), &cluster(), (0x1111, 0x2222), probes, None)
    };
    assert!(matches!(again(), Err(KernelError::PortTaken { .. })), "{:?}", again());
    capture.verify().unwrap();
}

#[test]
fn inbound_connection_is_captured_and_the_tunnel_port_is_not() {
    let wire = Wire::new();
    let capture = wire.capture();
    let [_, inbound, tunnel] = &capture.listeners.as_ref().unwrap().0;
    for (pod, peer) in POD.into_iter().zip(PEER) {
        let peer: IpAddr = peer.parse().unwrap();
        let mut client = dial(&wire.peer, at(pod, 8080)).unwrap();
        let (mut captured, from) = accept(inbound);
        assert_eq!(from, SocketAddr::new(peer, client.local_addr().unwrap().port()));
        let local = captured.local_addr().unwrap();
        assert_eq!(fd::original_destination(&captured, local).unwrap(), at(pod, 8080));
        assert_alive(&mut client, &mut captured);
        let mut client = dial(&wire.peer, at(pod, 15008)).unwrap();
        let (mut direct, from) = accept(tunnel);
        assert_eq!(from.ip(), peer);
        assert_alive(&mut client, &mut direct);
    }
}

#[test]
fn own_addresses_destinations_outside_and_marked_sockets_are_not_captured() {
    let wire = Wire::new();
    let _capture = wire.capture();
    let application = listen(&wire.pod, "[::]:9000");
    for own in ["127.0.0.1", "::1", POD[0], POD[1]] {
        let mut client = dial(&wire.pod, at(own, 9000)).unwrap();
        let (mut served, _) = accept(&application);
        assert_alive(&mut client, &mut served);
    }
    let outside = listen(&wire.peer, "[::]:9001");
    for address in OUTSIDE {
        let mut client = dial(&wire.pod, at(address, 9001)).unwrap();
        let (mut served, _) = accept(&outside);
        assert_alive(&mut client, &mut served);
    }
    for address in PEER {
        let to = at(address, 9001);
        let socket =
            wire.pod.run_in(|| Socket::new(Domain::for_address(to), Type::STREAM, None)).unwrap().unwrap();
        fd::set_mark(&socket, 0x1234_5678).unwrap();
        socket.connect_timeout(&to.into(), LIMIT).unwrap();
        let (mut served, _) = accept(&outside);
        assert_alive(&mut TcpStream::from(socket), &mut served);
    }
}

#[test]
fn forwarded_tcp_of_an_inner_interface_is_the_pods_outbound_traffic() {
    let wire = Wire::new();
    let inner = namespace();
    let far = format!("/proc/{}/fd/{}", std::process::id(), {
        use std::os::fd::{AsFd, AsRawFd};
        inner.as_fd().as_raw_fd()
    });
    let links = format!(
        "link add inner0 type veth peer name eth0 netns {far}\nlink set inner0 up\naddr add 172.18.0.1/24 dev inner0\n"
    );
    run(&wire.pod, "ip", &["-batch", "-"], &links);
    let links = "link set lo up\nlink set eth0 up\naddr add 172.18.0.2/24 dev eth0\nroute add default via 172.18.0.1\n";
    run(&inner, "ip", &["-batch", "-"], links);
    run(&wire.pod, "sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], "");
    let capture = wire.capture();
    let [outbound, ..] = &capture.listeners.as_ref().unwrap().0;
    let service: SocketAddr = SERVICE[0].parse().unwrap();
    let mut client = dial(&inner, service).unwrap();
    let (mut captured, from) = accept(outbound);
    assert_eq!(from.ip(), "172.18.0.2".parse::<IpAddr>().unwrap());
    assert_eq!(fd::original_destination(&captured, captured.local_addr().unwrap()).unwrap(), service);
    assert_alive(&mut client, &mut captured);
}

#[test]
fn connections_live_through_enrolment_and_release() {
    let wire = Wire::new();
    let server = listen(&wire.peer, "[::]:9000");
    let application = listen(&wire.pod, "[::]:9000");
    let mut old = Vec::new();
    for (pod, peer) in POD.into_iter().zip(PEER) {
        let client = dial(&wire.pod, at(peer, 9000)).unwrap();
        old.push((client, accept(&server).0));
        let client = dial(&wire.peer, at(pod, 9000)).unwrap();
        old.push((client, accept(&application).0));
    }
    let mut capture = wire.capture();
    old.iter_mut().for_each(|(client, served)| assert_alive(client, served));
    let listeners = capture.listeners.as_ref().unwrap();
    let mut captured = Vec::new();
    for (service, pod) in SERVICE.into_iter().zip(POD) {
        let client = dial(&wire.pod, service.parse().unwrap()).unwrap();
        captured.push((client, accept(&listeners.0[0]).0));
        let client = dial(&wire.peer, at(pod, 9000)).unwrap();
        captured.push((client, accept(&listeners.0[1]).0));
    }
    // Replacing the table, as a repair does, breaks nothing either.
    run(&wire.pod, "nft", &["-f", "-"], &capture.ruleset.script());
    captured.iter_mut().for_each(|(client, served)| assert_alive(client, served));
    assert_eq!(capture.live_connections(), 4);

    capture.release().unwrap();
    capture.listeners = None;
    captured.iter_mut().chain(&mut old).for_each(|(client, served)| assert_alive(client, served));
    let mut fresh = dial(&wire.pod, at(PEER[0], 9000)).unwrap();
    assert_alive(&mut fresh, &mut accept(&server).0);
    let mut fresh = dial(&wire.peer, at(POD[1], 9000)).unwrap();
    assert_alive(&mut fresh, &mut accept(&application).0);

    drop(captured);
    let start = Instant::now();
    while capture.live_connections() > 0 {
        assert!(start.elapsed() < LIMIT, "captured connections do not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    capture.remove();
    old.iter_mut().for_each(|(client, served)| assert_alive(client, served));
    assert_eq!(run(&wire.pod, "nft", &["list", "tables"], ""), "");
    assert!(!run(&wire.pod, "ip", &["rule"], "").contains("15006"));
    assert!(!run(&wire.pod, "ip", &["-6", "rule"], "").contains("15006"));
}

/// Connects from a port that may have been used before.
fn dial_from(namespace: &NetNamespace, port: u16, to: SocketAddr) -> TcpStream {
    let socket =
        namespace.run_in(|| Socket::new(Domain::for_address(to), Type::STREAM, None)).unwrap().unwrap();
    socket.set_reuse_address(true).unwrap();
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, port).into()).unwrap();
    socket.connect_timeout(&to.into(), LIMIT).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

#[test]
fn an_old_connection_that_has_the_ports_of_an_earlier_captured_one_lives_through_another_enrolment() {
    let wire = Wire::new();
    let server = listen(&wire.peer, "[::]:9000");
    let application = listen(&wire.pod, "[::]:9000");
    let mut capture = wire.capture();
    let [outbound, inbound, _] = &capture.listeners.as_ref().unwrap().0;
    for (pod, peer) in POD.into_iter().zip(PEER) {
        for (from, to, at) in [(&wire.pod, at(peer, 9000), outbound), (&wire.peer, at(pod, 9000), inbound)] {
            let mut client = dial_from(from, 40_000, to);
            let (captured, _) = accept(at);
            // Whoever closes first keeps the port; that is to be the proxy.
            drop(captured);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    }
    capture.release().unwrap();
    capture.remove();
    let mut old = Vec::new();
    for (pod, peer) in POD.into_iter().zip(PEER) {
        old.push((dial_from(&wire.pod, 40_000, at(peer, 9000)), accept(&server).0));
        old.push((dial_from(&wire.peer, 40_000, at(pod, 9000)), accept(&application).0));
    }
    let _capture = wire.capture();
    old.iter_mut().for_each(|(client, served)| assert_alive(client, served));
}

#[test]
fn a_connection_with_the_ports_of_one_older_than_the_rules_is_captured() {
    let wire = Wire::new();
    let server = listen(&wire.peer, "[::]:9000");
    let application = listen(&wire.pod, "[::]:9000");
    let mut old = Vec::new();
    for (pod, peer) in POD.into_iter().zip(PEER) {
        old.push((dial_from(&wire.pod, 40_000, at(peer, 9000)), accept(&server).0));
        old.push((dial_from(&wire.peer, 40_000, at(pod, 9000)), accept(&application).0));
    }
    let capture = wire.capture();
    for (mut client, mut served) in old {
        // What the kernel sees first of it is an answer, and whoever closes first keeps the port.
        served.write_all(b"a").unwrap();
        served.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 1);
    }
    let [outbound, inbound, _] = &capture.listeners.as_ref().unwrap().0;
    for (pod, peer) in POD.into_iter().zip(PEER) {
        for (from, to, at) in [(&wire.pod, at(peer, 9000), outbound), (&wire.peer, at(pod, 9000), inbound)] {
            let mut client = dial_from(from, 40_000, to);
            assert_alive(&mut client, &mut accept(at).0);
        }
    }
}

/// The proxy's socket to the application, with the caller's address.
fn leg(wire: &Wire, caller: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = wire.pod.run_in(|| Socket::new(Domain::for_address(to), Type::STREAM, None)).unwrap()?;
    fd::set_transparent(&socket, to.ip())?;
    fd::set_mark(&socket, 0x0bad_cafe)?;
    socket.set_reuse_address(true)?;
    socket.bind(&caller.into())?;
    socket.connect_timeout(&to.into(), LIMIT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

#[test]
fn application_sees_the_callers_address_also_beside_a_live_flow_of_the_same_four() {
    let wire = Wire::new();
    let capture = wire.capture();
    let application = listen(&wire.pod, "[::]:8080");
    let [_, inbound, _] = &capture.listeners.as_ref().unwrap().0;
    for pod in POD {
        // Many connections, because a clash of the two flows shows only now and then.
        for _ in 0..50 {
            let mut client = dial(&wire.peer, at(pod, 8080)).unwrap();
            let (mut captured, caller) = accept(inbound);
            let mut proxy = leg(&wire, caller, at(pod, 8080)).unwrap();
            let (mut served, seen) = accept(&application);
            assert_eq!(seen, caller);
            assert_eq!(fd::mark(&served).unwrap(), 0x0bad_cafe);
            assert_alive(&mut proxy, &mut served);
            assert_alive(&mut client, &mut captured);
            drop(proxy);
            assert_alive(&mut client, &mut captured);
        }
    }
}

#[test]
fn pod_reaches_itself_through_its_own_service() {
    let wire = Wire::new();
    let capture = wire.capture();
    let application = listen(&wire.pod, "[::]:8080");
    let [outbound, ..] = &capture.listeners.as_ref().unwrap().0;
    for (service, pod) in SERVICE.into_iter().zip(POD) {
        let mut client = dial(&wire.pod, service.parse().unwrap()).unwrap();
        let (mut captured, caller) = accept(outbound);
        // The caller's address, but a port of its own: the caller's is in use in this very namespace.
        let mut proxy = leg(&wire, SocketAddr::new(caller.ip(), 0), at(pod, 8080)).unwrap();
        let (mut served, seen) = accept(&application);
        assert_eq!(seen.ip(), pod.parse::<IpAddr>().unwrap());
        assert_alive(&mut proxy, &mut served);
        assert_alive(&mut client, &mut captured);
    }
}

#[test]
fn closed_port_of_the_application_refuses_the_leg_at_once_and_leaves_the_caller_alone() {
    let wire = Wire::new();
    let capture = wire.capture();
    let [_, inbound, _] = &capture.listeners.as_ref().unwrap().0;
    for pod in POD {
        let mut client = dial(&wire.peer, at(pod, 8081)).unwrap();
        let (mut captured, caller) = accept(inbound);
        let start = Instant::now();
        assert_eq!(leg(&wire, caller, at(pod, 8081)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < LIMIT);
        assert_alive(&mut client, &mut captured);
    }
}

#[test]
fn tampering_is_noticed_and_repaired() {
    let wire = Wire::new();
    let mut capture = wire.capture();
    capture.verify().unwrap();
    for (program, arguments) in [
        ("nft", "flush chain inet weft outbound"),
        ("nft", "insert rule inet weft outbound accept"),
        ("nft", "add element inet weft cluster4 { 192.0.2.0/24 }"),
        ("nft", "delete table inet weft"),
        ("nft", "add chain inet weft more"),
        ("ip", "rule del pref 15006"),
        ("ip", "-6 rule del pref 15006"),
        ("ip", "rule add pref 15006 lookup main"),
        ("ip", "route flush table 15006"),
        ("ip", "-6 route flush table 15006"),
        ("sysctl", "-qw net.ipv4.tcp_fwmark_accept=0"),
        ("sysctl", "-qw net.ipv6.fwmark_reflect=0"),
        ("sysctl", "-qw net.netfilter.nf_conntrack_tcp_loose=1"),
    ] {
        run(&wire.pod, program, &arguments.split(' ').collect::<Vec<_>>(), "");
        let error = capture.verify().expect_err(arguments);
        assert!(matches!(error, KernelError::Differs { .. }), "{arguments}: {error}");
        assert!(!capture.repair().unwrap(), "{arguments}");
        capture.verify().unwrap();
    }
    let listener = TcpStream::from(capture.listeners.as_ref().unwrap().0[0].try_clone().unwrap());
    listener.shutdown(Shutdown::Both).unwrap();
    assert!(capture.verify().is_err());
    assert!(capture.repair().unwrap(), "the sockets were replaced");
    capture.verify().unwrap();
}

#[test]
fn taken_port_is_named_and_nothing_is_left_behind() {
    let wire = Wire::new();
    let _taken = listen(&wire.pod, "[::]:15006");
    let marks = (0x1234_5678, 0x0bad_cafe);
    let error =
        Capture::install(wire.pod.clone(), &addresses(), &cluster(), marks, TcpProbes::default(), None)
            .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("(pid {})", std::process::id())) && text.contains("15006"), "{text}");
    assert_eq!(run(&wire.pod, "nft", &["list", "tables"], ""), "");
    assert!(!run(&wire.pod, "ip", &["rule"], "").contains("15006"));
    assert_eq!(run(&wire.pod, "cat", &["/proc/sys/net/ipv4/tcp_fwmark_accept"], ""), "0\n");
    drop(listen(&wire.pod, "[::]:15001"));
}

#[test]
fn program_in_the_pod_cannot_share_a_port_with_a_listener() {
    let wire = Wire::new();
    let _capture = wire.capture();
    for port in [15001, 15006, 15008] {
        for address in ["0.0.0.0", "::", POD[0], POD[1], "127.0.0.1"] {
            let to = at(address, port);
            let bound = wire.pod.run_in(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(true)?;
                socket.bind(&to.into())
            });
            assert_eq!(bound.unwrap().unwrap_err().kind(), ErrorKind::AddrInUse, "{to}");
        }
    }
}

#[test]
fn pod_without_ipv6_loopback_fails_fast_on_captured_ipv6() {
    let wire = Wire::new();
    run(&wire.pod, "ip", &["addr", "del", "::1/128", "dev", "lo"], "");
    let capture = wire.capture();
    assert!(!capture.ruleset.ipv6);
    let start = Instant::now();
    assert!(dial(&wire.pod, SERVICE[1].parse().unwrap()).is_err());
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    dial(&wire.pod, SERVICE[0].parse().unwrap()).unwrap();
    accept(&capture.listeners.as_ref().unwrap().0[0]);
}
