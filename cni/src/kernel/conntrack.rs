//! The kernel's memory of translated connections (`NETLINK_NETFILTER`, its subsystem ctnetlink). It outlives the rules by
//! which connections were translated, and the connections by minutes: a later connection that has the ports of such a
//! one, made while nothing was captured, would be translated by it as soon as connection tracking is on again, and be reset.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::KernelError;
use super::netlink::Netlink;

/// Forgets every connection that was redirected to one of these ports, in the namespace that this thread is in. Those that
/// still live are translated no more: call it when the rules are gone.
///
/// # Errors
/// When the kernel does not tell or does not forget (`CONFIG_NF_CT_NETLINK`, and `NET_ADMIN` in the namespace).
pub fn forget_redirected(ports: &[u16]) -> Result<(), KernelError> {
    forget(ports).map_err(KernelError::system("making the kernel forget translated connections"))
}

fn forget(ports: &[u16]) -> io::Result<()> {
    let mut kernel = Netlink::open(NETLINK_NETFILTER)?;
    for redirected in redirected(&mut kernel, ports)? {
        let delete = ConntrackMessage::Delete(vec![redirected.before]);
        kernel.send(message(redirected.family, delete), NLM_F_REQUEST | NLM_F_ACK)?;
        match kernel.receive::<NetfilterMessage>(&mut |_| {}) {
            // It had been forgotten by itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// A connection that was redirected.
struct Redirected {
    family: NetfilterProtoFamily,
    /// Its addresses before the translation, by which the kernel finds it.
    before: ConntrackAttribute,
}

fn redirected(kernel: &mut Netlink, ports: &[u16]) -> io::Result<Vec<Redirected>> {
    let mut all = Vec::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        kernel.send(message(family, ConntrackMessage::Get(Vec::new())), NLM_F_REQUEST | NLM_F_DUMP)?;
        kernel.receive(&mut |answer: NetfilterMessage| {
            let NetfilterMessageInner::Conntrack(ConntrackMessage::New(connection)) = answer.inner else {
                return;
            };
            if let Some(before) = before(connection, ports) {
                all.push(Redirected { family, before });
            }
        })?;
    }
    Ok(all)
}

fn message(family: NetfilterProtoFamily, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// The addresses before the translation of a connection that was redirected to one of `ports`.
fn before(connection: Vec<ConntrackAttribute>, ports: &[u16]) -> Option<ConntrackAttribute> {
    let (mut before, mut redirected, mut answers_from) = (None, false, None);
    for attribute in connection {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => before = Some(attribute),
            ConntrackAttribute::CtaTupleReply(reply) => answers_from = tcp_source(&reply),
            ConntrackAttribute::CtaStatus(status) => redirected = status.contains(Status::DstNat),
            _ => {}
        }
    }
    before.filter(|_| redirected && answers_from.is_some_and(|port| ports.contains(&port)))
}

/// The source port, if it is one of TCP.
fn tcp_source(addresses: &[Tuple]) -> Option<u16> {
    let parts =
        addresses.iter().find_map(|part| if let Tuple::Proto(parts) = part { Some(parts) } else { None })?;
    let port = parts
        .iter()
        .find_map(|part| if let ProtoTuple::SourcePort(port) = part { Some(*port) } else { None });
    port.filter(|_| parts.contains(&ProtoTuple::Protocol(Protocol::Tcp)))
}
