//! Finding things in the kernel: the namespace that owns a pod's address, the program behind a port, live connections.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use weft_runtime::netns::NetNamespace;

use super::KernelError;

/// What a namespace has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Interface names and addresses.
    pub addresses: Vec<(String, IpAddr)>,
}

impl Interfaces {
    /// Those of the namespace that this thread is in.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn read() -> Result<Self, KernelError> {
        let all = getifaddrs()
            .map_err(|errno| KernelError::system("listing the pod's interfaces")(errno.into()))?;
        let addresses = all
            .filter_map(|interface| {
                let address = interface.address?;
                let ip = address
                    .as_sockaddr_in()
                    .map(|v4| IpAddr::from(v4.ip()))
                    .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))?;
                Some((interface.interface_name, ip))
            })
            .collect();
        Ok(Self { addresses })
    }

    /// Is the address one of these?
    #[must_use]
    pub fn own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, own)| *own == address)
    }

    /// Every address that others can reach.
    #[must_use]
    pub fn global(&self) -> Vec<IpAddr> {
        let global = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        };
        self.addresses.iter().map(|(_, address)| *address).filter(global).collect()
    }

    /// `lo` has `::1`.
    #[must_use]
    pub fn loopback_v6(&self) -> bool {
        self.own(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST))
    }

    /// The names of the interfaces that have any of these addresses.
    #[must_use]
    pub fn with(&self, addresses: &[IpAddr]) -> Vec<String> {
        let names: BTreeSet<&String> =
            self.addresses.iter().filter(|(_, own)| addresses.contains(own)).map(|(name, _)| name).collect();
        names.into_iter().cloned().collect()
    }
}

/// Does some process run in the namespace?
#[must_use]
pub fn is_inhabited(namespace: &NetNamespace) -> bool {
    let inside = |pid| NetNamespace::of_process(pid).is_ok_and(|its| its.id() == namespace.id());
    processes().any(inside)
}

/// The namespace, other than this process's own, in which some process runs and which owns all of a pod's addresses.
/// `None`: there is none, or more than one, which cannot be told apart.
#[must_use]
pub fn namespace_with(addresses: &[IpAddr]) -> Option<NetNamespace> {
    let home = NetNamespace::current().ok()?.id();
    let mut seen = BTreeSet::from([home]);
    let mut found = Vec::new();
    for pid in processes() {
        let Ok(namespace) = NetNamespace::of_process(pid) else { continue };
        if !seen.insert(namespace.id()) {
            continue;
        }
        let Ok(Ok(interfaces)) = namespace.run_in(Interfaces::read) else { continue };
        if !addresses.is_empty() && addresses.iter().all(|address| interfaces.own(*address)) {
            found.push(namespace);
        }
    }
    if found.len() == 1 { found.pop() } else { None }
}

pub(super) fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// One line of `/proc/net/tcp` or `tcp6`.
struct TcpLine {
    local_port: u16,
    state: u8,
    inode: u64,
}

const ESTABLISHED: u8 = 0x01;
const TIME_WAIT: u8 = 0x06;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

fn tcp_lines() -> Vec<TcpLine> {
    let files = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let text: String = files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    text.lines().filter_map(parse_tcp_line).collect()
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`, addresses as `HEX:PORT` (proc(5)).
fn parse_tcp_line(line: &str) -> Option<TcpLine> {
    let mut fields = line.split_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let local_port = u16::from_str_radix(port, 16).ok()?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    Some(TcpLine { local_port, state, inode })
}

/// The program that has a TCP port, as `name (pid N)`. Run inside the pod's namespace.
#[must_use]
pub fn listening_process(port: u16) -> Option<String> {
    let lines = tcp_lines();
    // A port may be bound without listening, which /proc does not show; listeners come first.
    let line = lines
        .iter()
        .find(|line| line.local_port == port && line.state == LISTEN)
        .or_else(|| lines.iter().find(|line| line.local_port == port && line.inode != 0))?;
    let socket = format!("socket:[{}]", line.inode);
    processes().find_map(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let mut targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.as_os_str() == socket.as_str()).then(|| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} (pid {pid})", name.trim())
        })
    })
}

/// How many connections, not counting listeners and ended ones, live on these local ports. Run inside the namespace.
#[must_use]
pub fn live_connections(ports: &[u16]) -> usize {
    tcp_lines()
        .iter()
        .filter(|line| ports.contains(&line.local_port))
        .filter(|line| (ESTABLISHED..LISTEN).contains(&line.state))
        .filter(|line| line.state != TIME_WAIT && line.state != CLOSE)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_proc_net_tcp_is_read() {
        let line = "   0: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let line = parse_tcp_line(line).unwrap();
        assert_eq!((line.local_port, line.state, line.inode), (15001, LISTEN, 4711));
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid";
        assert!(parse_tcp_line(heading).is_none());
    }
}
