//! The node's own addresses, kept current. The kubelet calls pods from one of them, and so do others: an address alone
//! proves nothing.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tokio::sync::watch;

use crate::kernel::KernelError;
use crate::kernel::find::Interfaces;

/// The newest list, sorted.
pub(super) type NodeAddresses = watch::Receiver<Arc<Vec<IpAddr>>>;

/// How often the list is read although nobody said that it changed.
const INTERVAL: Duration = Duration::from_secs(60);
/// Several changes in a row are one.
const SETTLING: Duration = Duration::from_millis(100);
/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` (rtnetlink(7)).
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;
/// kube-proxy in IPVS mode puts every Service address here; nothing is sent from them.
const SERVICES: &str = "kube-ipvs0";

/// The addresses that this process's network namespace has now.
pub(super) fn addresses() -> Result<Vec<IpAddr>, KernelError> {
    let mut interfaces = Interfaces::read()?;
    interfaces.addresses.retain(|(name, _)| name != SERVICES);
    let mut addresses = interfaces.global();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Publishes the list whenever it has changed, for ever.
pub(super) async fn follow(list: watch::Sender<Arc<Vec<IpAddr>>>) -> io::Error {
    let changes = match Changes::subscribe() {
        Ok(changes) => changes,
        Err(error) => return error,
    };
    loop {
        match addresses() {
            Ok(addresses) => {
                list.send_if_modified(|current| {
                    let news = **current != addresses;
                    if news {
                        tracing::info!(?addresses, "the node's own addresses");
                        *current = Arc::new(addresses);
                    }
                    news
                });
            }
            Err(error) => tracing::warn!(%error, "the node's addresses stay as they were known"),
        }
        // Whatever ends the wait, the list is read again.
        let _ = tokio::time::timeout(INTERVAL, changes.next()).await;
        tokio::time::sleep(SETTLING).await;
    }
}

/// What the kernel says about addresses that come and go.
struct Changes {
    socket: Socket,
    ready: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
}

impl Changes {
    fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, ADDRESS_GROUPS))?;
        let ready = weft_runtime::fd::watch(socket.as_fd().try_clone_to_owned()?)?;
        Ok(Self { socket, ready })
    }

    /// Completes when something changed. What exactly is not read: the list is.
    async fn next(&self) {
        let Ok(mut ready) = self.ready.readable().await else { return };
        let mut message = Vec::with_capacity(8192);
        while self.socket.recv(&mut message, 0).is_ok() {
            message.clear();
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root: it runs in a network namespace of its own.
    #[test]
    fn addresses_that_come_and_go_are_seen() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root, to make a network namespace");
        let ip = |arguments: &str| {
            let done = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(done.success(), "{arguments}");
        };
        ip("link set lo up");
        ip("link add kube-ipvs0 type veth peer name other");
        ip("address add 10.96.0.1/32 dev kube-ipvs0");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, mut list) = watch::channel(Arc::default());
            let follower = tokio::spawn(follow(sender));
            for (change, expected) in [
                ("address add 192.0.2.7/32 dev lo", &["192.0.2.7"][..]),
                ("address add fd00::7/128 dev lo", &["192.0.2.7", "fd00::7"]),
                ("address del 192.0.2.7/32 dev lo", &["fd00::7"]),
            ] {
                ip(change);
                let expected: Vec<IpAddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
                let seen = list.wait_for(|list| **list == expected);
                tokio::time::timeout(Duration::from_secs(10), seen).await.expect(change).unwrap();
            }
            follower.abort();
        });
    }
}
