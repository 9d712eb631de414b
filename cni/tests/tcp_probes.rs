//! TCP probes with real packets: they reach the application itself, and no byte passes on them. The peer plays the node.
//! Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::*;
use weft_api::node::Destinations;
use weft_cni::kernel::capture::Capture;
use weft_cni::ruleset::TcpProbes;
use weft_runtime::fd;

/// Only probed by TCP, and probed otherwise too.
const BARE: u16 = 9000;
const SHARED: u16 = 9001;

fn probes() -> TcpProbes {
    let node = PEER.map(|address| address.parse().unwrap()).to_vec();
    TcpProbes { node, bare: vec![BARE], shared: vec![SHARED] }
}

fn refused(wire: &Wire, to: SocketAddr) -> bool {
    dial(&wire.peer, to).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn inbound(capture: &Capture) -> &std::os::fd::OwnedFd {
    &capture.listeners.as_ref().unwrap().0[1]
}

/// A probe of the bare port, at the application.
fn probe(wire: &Wire, application: &TcpListener, address: &str) -> (TcpStream, TcpStream) {
    let client = dial(&wire.peer, at(address, BARE)).unwrap();
    let (served, from) = accept(application);
    assert_eq!(from, client.local_addr().unwrap());
    (client, served)
}

fn nothing_arrives(at: &mut TcpStream) {
    at.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let outcome = at.read(&mut [0; 8]);
    assert!(outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "{outcome:?}");
}

fn is_reset(at: &mut TcpStream) {
    let outcome = at.read(&mut [0; 8]);
    assert!(outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{outcome:?}");
}

#[test]
fn probe_succeeds_only_while_the_application_listens() {
    let wire = Wire::new();
    let _capture = wire.capture_with(probes());
    for address in POD {
        assert!(refused(&wire, at(address, BARE)));
        let application = listen(&wire.pod, "[::]:9000");
        let (client, mut served) = probe(&wire, &application, address);
        drop(client);
        assert_eq!(served.read(&mut [0]).unwrap(), 0, "the end of the probe arrives");
        drop((served, application));
        assert!(refused(&wire, at(address, BARE)));
        // Reachable from inside alone, so not ready.
        let _inside = listen(&wire.pod, "127.0.0.1:9000");
        assert!(refused(&wire, at(address, BARE)));
    }
}

#[test]
fn no_byte_passes_on_a_probes_connection_in_either_direction() {
    let wire = Wire::new();
    let _capture = wire.capture_with(probes());
    let application = listen(&wire.pod, "[::]:9000");
    for address in POD {
        let (mut client, mut served) = probe(&wire, &application, address);
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        is_reset(&mut client);
        nothing_arrives(&mut served);
        let (mut client, mut served) = probe(&wire, &application, address);
        served.write_all(b"SSH-2.0-server\r\n").unwrap();
        is_reset(&mut served);
        nothing_arrives(&mut client);
    }
}

/// A caller that overlooks the reset, while the kernel forgets the connection whose tracking carried the mark.
#[test]
fn no_byte_passes_when_the_tracking_has_forgotten_the_connection() {
    let wire = Wire::new();
    let _capture = wire.capture_with(probes());
    let forget = "net.netfilter.nf_conntrack_tcp_timeout_close=1";
    run(&wire.pod, "sysctl", &["-w", forget], "");
    let deaf = "table inet deaf { chain input { type filter hook input priority 0; tcp flags rst drop; }; }";
    run(&wire.peer, "nft", &["-f", "-"], deaf);
    let application = listen(&wire.pod, "[::]:9000");
    for address in POD {
        let (mut client, mut served) = probe(&wire, &application, address);
        client.write_all(b"late").unwrap();
        // The client's kernel sends it again at 0.2, 0.6, 1.4, 3 and 6.2 s.
        served.set_read_timeout(Some(Duration::from_secs(7))).unwrap();
        let outcome = served.read(&mut [0; 8]);
        assert!(outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock), "{outcome:?}");
    }
}

#[test]
fn others_than_the_node_are_captured() {
    let wire = Wire::new();
    let capture = wire.capture_with(probes());
    let _application = listen(&wire.pod, "[::]:9000");
    for (address, other) in POD.into_iter().zip(OUTSIDE) {
        let (to, from) = (at(address, BARE), at(other, 0));
        let mut client = wire
            .peer
            .run_in(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                socket.bind(&from.into()).unwrap();
                socket.connect_timeout(&to.into(), LIMIT).unwrap();
                TcpStream::from(socket)
            })
            .unwrap();
        let (mut captured, caller) = accept(inbound(&capture));
        assert_eq!(caller.ip(), other.parse::<IpAddr>().unwrap());
        client.set_read_timeout(Some(LIMIT)).unwrap();
        assert_alive(&mut client, &mut captured);
    }
}

#[test]
fn shared_port_leads_to_the_proxy_only_while_the_application_listens() {
    let wire = Wire::new();
    let capture = wire.capture_with(probes());
    for address in POD {
        let to = at(address, SHARED);
        assert!(refused(&wire, to));
        let application = listen(&wire.pod, "[::]:9001");
        let mut client = dial(&wire.peer, to).unwrap();
        let (mut captured, _) = accept(inbound(&capture));
        let local = captured.local_addr().unwrap();
        assert_eq!(fd::original_destination(&captured, local).unwrap(), to);
        assert_alive(&mut client, &mut captured);
        drop(application);
        // A socket of any kind counts, such as a transparent proxy's.
        let transparent = wire
            .pod
            .run_in(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                fd::set_transparent(&socket, to.ip()).unwrap();
                socket.bind(&to.into()).unwrap();
                socket.listen(1).unwrap();
                socket
            })
            .unwrap();
        let mut client = dial(&wire.peer, to).unwrap();
        assert_alive(&mut client, &mut accept(inbound(&capture)).0);
        drop(transparent);
        assert!(refused(&wire, to));
    }
}

#[test]
fn rules_that_change_keep_old_probes_without_bytes_and_read_back() {
    let wire = Wire::new();
    let mut capture = wire.capture_with(probes());
    let application = listen(&wire.pod, "[::]:9000");
    let (mut client, mut served) = probe(&wire, &application, POD[0]);
    let open = TcpProbes { bare: vec![], shared: vec![BARE, SHARED], ..probes() };
    capture.follow(open, Destinations::default()).unwrap();
    capture.verify().unwrap();
    let mut captured = dial(&wire.peer, at(POD[0], BARE)).unwrap();
    assert_alive(&mut captured, &mut accept(inbound(&capture)).0);
    client.write_all(b"x").unwrap();
    is_reset(&mut client);
    nothing_arrives(&mut served);
    run(&wire.pod, "nft", &["delete", "chain", "inet", "weft", "probe_input"], "");
    assert!(capture.verify().is_err());
    capture.repair().unwrap();
    capture.follow(probes(), Destinations::default()).unwrap();
    probe(&wire, &application, POD[1]);
    capture.follow(TcpProbes::default(), Destinations::default()).unwrap();
    let mut captured = dial(&wire.peer, at(POD[0], BARE)).unwrap();
    assert_alive(&mut captured, &mut accept(inbound(&capture)).0);
}

/// The proxy calls the application from the address of its caller, which may be the node's.
#[test]
fn the_proxys_own_way_to_the_application_carries_bytes() {
    let wire = Wire::new();
    let capture = wire.capture_with(probes());
    let application = listen(&wire.pod, "[::]:9000");
    for (address, caller) in POD.into_iter().zip(PEER) {
        let (to, from) = (at(address, BARE), at(caller, 0));
        let mut client = wire
            .pod
            .run_in(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                fd::set_mark(&socket, capture.ruleset.inbound_mark).unwrap();
                fd::set_transparent(&socket, to.ip()).unwrap();
                socket.bind(&from.into()).unwrap();
                socket.connect_timeout(&to.into(), LIMIT).unwrap();
                TcpStream::from(socket)
            })
            .unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        assert_alive(&mut client, &mut accept(&application).0);
    }
}
