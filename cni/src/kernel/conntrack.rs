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
    let redirected = connection
        .iter()
        .any(|one| matches!(one, ConntrackAttribute::CtaStatus(status) if status.contains(Status::DstNat)));
    let answers_from = |port: u16| {
        let from = ProtoTuple::SourcePort(port);
        connection.iter().any(|one| match one {
            ConntrackAttribute::CtaTupleReply(reply) => reply.iter().any(|part| match part {
                Tuple::Proto(proto) => {
                    proto.contains(&ProtoTuple::Protocol(Protocol::Tcp)) && proto.contains(&from)
                }
                _ => false,
            }),
            _ => false,
        })
    };
    let ours = redirected && ports.iter().any(|port| answers_from(*port));
    let is_before = |one: &ConntrackAttribute| matches!(one, ConntrackAttribute::CtaTupleOrig(_));
    connection.into_iter().find(is_before).filter(|_| ours)
}
