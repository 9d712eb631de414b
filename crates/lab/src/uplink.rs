//! The link between the machine and the lab, and the range of addresses that load balancers give: each lab has its own, so
//! that several can be up. One end is in the lab's namespace, so that nothing stays when the lab ends, however it ends.
//! The machine can reach load balancers; nothing in the lab can reach the machine.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use weft_runtime::netns::ip;

use crate::config::{LAB_V4, LAB_V6};

/// The lab's end.
pub(crate) const INTERFACE: &str = "uplink";
/// Labs with a link at a time.
const MOST: u8 = 250;
/// Addresses below are the link's own.
const FIRST: u8 = 10;

/// Whose addresses are `198.18.N.0/24` (a range that is routed nowhere, RFC 2544) and `fd00:198:18:N::/112`.
/// N is 0 for a lab without a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uplink(u8);

impl Uplink {
    /// Makes the link from the lab's new network namespace to that of the process `machine`, with the first name that is
    /// free there.
    pub(crate) fn make(machine: i32) -> io::Result<Self> {
        let mut last = io::Error::other("there are too many labs");
        for number in 1..=MOST {
            let link = Self(number);
            let name = link.name();
            match ip(None, &format!("link add {INTERFACE} type veth peer name {name} netns {machine}\n")) {
                Ok(()) => return Ok(link),
                Err(error) if error.to_string().contains("File exists") => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Whether there is a link.
    pub(crate) const fn exists(self) -> bool {
        self.0 > 0
    }

    /// The machine's end.
    fn name(self) -> String {
        format!("weft-lab-{}", self.0)
    }

    /// Gives the machine's end its addresses and routes; in the machine's network namespace.
    pub(crate) fn set_up_machine(self, ipv6: bool) -> io::Result<()> {
        let name = self.name();
        let mut script = format!("link set {name} up\n");
        for (family, range) in self.ranges(ipv6) {
            let (own, lab, bits) = (self.at(1, family), self.at(2, family), if family { 126 } else { 30 });
            let nodad = if family { " nodad" } else { "" };
            script += &format!("addr add {own}/{bits} dev {name}{nodad}\nroute add {range} via {lab}\n");
        }
        ip(None, &script)
    }

    /// Removes the link while the lab has it: it would go with the lab's namespace, but a moment later.
    pub(crate) fn remove(self) -> io::Result<()> {
        ip(None, &format!("link del {}\n", self.name()))
    }

    /// Commands for the lab's end.
    pub(crate) fn lab_script(self, ipv6: bool) -> String {
        if !self.exists() {
            return String::new();
        }
        let mut script =
            format!("link set {INTERFACE} up\naddr add {}/30 dev {INTERFACE}\n", self.at(2, false));
        if ipv6 {
            script += &format!("addr add {}/126 dev {INTERFACE} nodad\n", self.at(2, true));
        }
        script
    }

    /// Commands for a node: answers to the machine go back through the lab's namespace.
    pub(crate) fn node_routes(self, ipv6: bool) -> String {
        let via = |family| if family { IpAddr::V6(LAB_V6) } else { IpAddr::V4(LAB_V4) };
        let route = |(family, range)| format!("route add {range} via {}\n", via(family));
        self.ranges(ipv6).into_iter().map(route).collect()
    }

    fn ranges(self, ipv6: bool) -> Vec<(bool, String)> {
        let mut all = vec![(false, format!("{}/24", self.at(0, false)))];
        all.extend(ipv6.then(|| (true, format!("{}/112", self.at(0, true)))));
        all
    }

    /// An address of the range.
    fn at(self, low: u8, ipv6: bool) -> IpAddr {
        match ipv6 {
            false => IpAddr::V4(Ipv4Addr::new(198, 18, self.0, low)),
            true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x198, 0x18, self.0.into(), 0, 0, 0, low.into())),
        }
    }

    /// The addresses that load balancers may give, from some place on and all around.
    pub(crate) fn addresses(self, from: u64, ipv6: bool) -> impl Iterator<Item = IpAddr> {
        let count = u64::from(u8::MAX - FIRST);
        (0..count).filter_map(move |step| {
            let low = u8::try_from((from.wrapping_add(step)) % count).ok()?.checked_add(FIRST)?;
            Some(self.at(low, ipv6))
        })
    }

    /// Whether load balancers may give an address.
    pub(crate) fn has(self, address: IpAddr) -> bool {
        self.addresses(0, address.is_ipv6()).any(|one| one == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_balancers_addresses_are_apart_from_the_links_own() {
        let link = Uplink(3);
        let all: Vec<IpAddr> = link.addresses(200, false).collect();
        assert_eq!(all.len(), 245);
        assert_eq!(all[0].to_string(), "198.18.3.210");
        assert!(link.has("198.18.3.10".parse().unwrap()) && link.has("198.18.3.254".parse().unwrap()));
        assert!(link.has("fd00:198:18:3::1f".parse().unwrap()));
        for other in ["198.18.3.1", "198.18.3.2", "198.18.3.255", "198.18.4.10", "10.0.0.1"] {
            assert!(!link.has(other.parse().unwrap()), "{other}");
        }
    }
}
