//! Connections that are older than their pod's capture, in namespaces of the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};

use support::*;
use weft_cni::kernel::sock_diag::TcpSocket;

struct Pair(TcpStream, TcpStream);

impl Pair {
    fn new(wire: &Wire, inbound: bool, server: &TcpListener, to: SocketAddr) -> Self {
        let client = dial(if inbound { &wire.peer } else { &wire.pod }, to).unwrap();
        Self(client, accept(server).0)
    }

    fn assert_alive(&mut self) {
        assert_alive(&mut self.0, &mut self.1);
    }
}

fn ends(found: &[TcpSocket]) -> BTreeSet<(SocketAddr, SocketAddr)> {
    found.iter().map(|socket| (socket.local, socket.remote)).collect()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[test]
fn connections_older_than_the_capture_are_found_and_reset_and_no_others() {
    let wire = Wire::new();
    let far = listen(&wire.peer, "[::]:9000");
    let near = listen(&wire.pod, "[::]:8000");
    let mut old: Vec<Pair> = POD.iter().map(|a| Pair::new(&wire, true, &near, at(a, 8000))).collect();
    old.extend(PEER.iter().map(|a| Pair::new(&wire, false, &far, at(a, 9000))));
    let mut gone = Pair::new(&wire, false, &far, at(PEER[0], 9000));
    // Not captured either when they are made now: inside the pod, and to where the mesh does not reach.
    let inside = [at("127.0.0.1", 8000), at("::1", 8000), at(POD[0], 8000), at(POD[1], 8000)];
    let mut others: Vec<Pair> = inside.iter().map(|to| Pair::new(&wire, false, &near, *to)).collect();
    others.extend(OUTSIDE.iter().map(|a| Pair::new(&wire, false, &far, at(a, 9000))));
    let capture = wire.capture();
    let [outbound, inbound, _] = &capture.listeners.as_ref().unwrap().0;
    // Captured ones, of which one still waits to be accepted.
    for (pod, to) in SERVICE.iter().enumerate() {
        let client = dial(&wire.pod, to.parse().unwrap()).unwrap();
        others.push(Pair(client, accept(outbound).0));
        let client = dial(&wire.peer, at(POD[pod], 8000)).unwrap();
        others.push(Pair(client, accept(inbound).0));
    }
    let waiting = dial(&wire.pod, SERVICE[0].parse().unwrap()).unwrap();

    let found = capture.old_connections().unwrap();
    let mut expected: BTreeSet<_> = old[..2]
        .iter()
        .map(|pair| (canonical(pair.1.local_addr().unwrap()), canonical(pair.1.peer_addr().unwrap())))
        .collect();
    for pair in old[2..].iter().chain([&gone]) {
        expected.insert((pair.0.local_addr().unwrap(), pair.0.peer_addr().unwrap()));
    }
    assert_eq!(ends(&found), expected);

    gone.assert_alive();
    let ended = gone.0.local_addr().unwrap();
    // The far end first: nothing of it stays in the pod then.
    drop(gone.1);
    assert_eq!(gone.0.read(&mut [0]).unwrap(), 0);
    drop(gone.0);
    let mut open = capture.still_open(&found).unwrap();
    for _ in 0..100 {
        if open.len() == old.len() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        open = capture.still_open(&found).unwrap();
    }
    expected.retain(|(local, _)| *local != ended);
    assert_eq!(ends(&open), expected);

    // Also with the one that has ended: it is no mistake, and is not counted.
    let (count, left) = capture.reset(&found).unwrap();
    assert_eq!((count, left.len()), (4, 0));
    for Pair(client, served) in &mut old {
        let mut kinds = [client, served].map(|end| end.read(&mut [0]).unwrap_err().kind());
        kinds.sort_by_key(|kind| *kind != ErrorKind::ConnectionAborted);
        assert_eq!(kinds, [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset]);
    }
    others.iter_mut().for_each(Pair::assert_alive);
    Pair(waiting, accept(outbound).0).assert_alive();
    assert_eq!(capture.old_connections().unwrap(), []);
    capture.remove();
}
