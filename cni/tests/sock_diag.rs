//! Sockets as the kernel lists them, in namespaces of the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod support;

use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;

use support::*;
use weft_cni::kernel::sock_diag::{SockDiag, TcpState};

fn inode(socket: &impl AsRawFd) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').to_owned()
}

#[test]
fn connection_is_found_by_its_addresses_and_by_nothing_else() {
    let wire = Wire::new();
    for (family, address) in POD.iter().enumerate() {
        let server = listen(&wire.pod, "[::]:9000");
        let client = dial(&wire.peer, at(address, 9000)).unwrap();
        let (served, _) = accept(&server);
        let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let mut peer = wire.peer.run_in(SockDiag::open).unwrap().unwrap();
        let found = peer.find(local, remote).unwrap().unwrap();
        assert_eq!((found.local, found.remote, found.state), (local, remote, TcpState::Established));
        assert_eq!(found.inode.to_string(), inode(&client));
        assert_eq!(found.uid, nix::unistd::getuid().as_raw());
        // The server's side of it is in the other namespace; there the client's does not exist.
        let mut pod = wire.pod.run_in(SockDiag::open).unwrap().unwrap();
        assert_eq!(pod.find(local, remote).unwrap(), None);
        assert_eq!(pod.find(remote, local).unwrap().unwrap().inode.to_string(), inode(&served));
        // A listening socket is not a connection to whomever is asked for.
        assert_eq!(pod.find(remote, at(PEER[family], 1)).unwrap(), None);
        // A closed one no longer belongs to anybody.
        drop(client);
        let left = peer.find(local, remote).unwrap();
        assert!(left.is_none_or(|socket| socket.inode == 0));
    }
}

#[test]
fn every_socket_of_a_namespace_is_listed_once() {
    let wire = Wire::new();
    let server = listen(&wire.pod, "[::]:9000");
    let connect = |n: usize| (dial(&wire.peer, at(POD[n % 2], 9000)).unwrap(), accept(&server).0);
    let (clients, served): (Vec<_>, Vec<_>) = (0..500).map(connect).unzip();
    let mut all = wire.pod.run_in(SockDiag::open).unwrap().unwrap();
    let all = all.dump().unwrap();
    let listening: Vec<_> = all.iter().filter(|socket| socket.state == TcpState::Listen).collect();
    assert_eq!(listening.len(), 1);
    assert_eq!(listening[0].inode.to_string(), inode(&server));
    let mut found: Vec<_> =
        all.iter().filter(|s| s.state == TcpState::Established).map(|s| s.inode.to_string()).collect();
    let mut expected: Vec<_> = served.iter().map(inode).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(clients.iter().all(|c| all.iter().any(|s| s.remote == c.local_addr().unwrap())));
}

#[test]
fn destroyed_connection_ends_on_both_sides_and_no_other_does() {
    let wire = Wire::new();
    let server = listen(&wire.pod, "[::]:9000");
    let mut pod = wire.pod.run_in(SockDiag::open).unwrap().unwrap();
    // IPv4 on a dual-stack socket is the one that the kernel lists in another form.
    for address in POD {
        let mut victim = dial(&wire.peer, at(address, 9000)).unwrap();
        let mut ended = accept(&server).0;
        let mut other = dial(&wire.peer, at(address, 9000)).unwrap();
        let mut lives = accept(&server).0;
        let found = pod.find(victim.peer_addr().unwrap(), victim.local_addr().unwrap()).unwrap().unwrap();
        pod.destroy(&found).unwrap();
        assert_eq!(ended.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(victim.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_alive(&mut other, &mut lives);
        assert_eq!(pod.destroy(&found).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
