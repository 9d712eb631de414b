//! What the agent does with connections to pods while no proxy is connected for longer than `hold` (data-plane rule 12):
//! it resets them, so that callers learn at once what they would otherwise learn by a timeout, and counts them. Only
//! probes of the kubelet are carried to the application, unread, so that a proxy that cannot start does not make the
//! kubelet restart every container of the node.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use weft_api::node::{CallerKind, INBOUND_PLAINTEXT_PORT};
use weft_runtime::netns::NetNamespace;

use super::members::{Member, Members};
use crate::kernel::listen::{Waiting, reset};

/// How often waiting connections are looked at once `hold` is over.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long connecting to the application may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that a probe or hook is carried.
const LONGEST: Duration = Duration::from_secs(600);

/// Stands in for the proxy, for ever. A proxy that connects takes over at once: nothing more is accepted here.
pub(super) async fn run(members: Arc<Members>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let over = |members: &Members| {
            members.unserved_for(Instant::now()).is_some_and(|waited| waited >= members.config.hold)
        };
        for slot in members.slots().into_values() {
            if !over(&members) {
                break;
            }
            let Ok(mut member) = slot.try_lock() else { continue };
            let Some(member) = member.as_mut() else { continue };
            let waiting =
                member.capture.listeners.as_ref().map(crate::kernel::listen::Listeners::take_waiting);
            for connection in waiting.into_iter().flatten() {
                take(&members, member, connection);
            }
        }
    }
}

fn take(members: &Arc<Members>, member: &mut Member, waiting: Waiting) {
    while member.carried.try_join_next().is_some() {}
    match probed(members, member, &waiting) {
        Some(to) => {
            let probe = Probe {
                members: Arc::clone(members),
                namespace: member.capture.namespace.clone(),
                inbound_mark: member.pod.inbound_mark,
                from: waiting.from,
                to,
            };
            member.carried.spawn(probe.carry(waiting.connection));
        }
        None => {
            waiting.reset();
            count_reset(members);
        }
    }
}

fn count_reset(members: &Members) {
    members.board.update(|status| status.reset_connections += 1);
}

/// Where a connection was going that may be a probe: it comes from one of the node's addresses, to a port that the pod
/// declares a probe for.
fn probed(members: &Members, member: &Member, waiting: &Waiting) -> Option<SocketAddr> {
    let at_node = waiting.port == INBOUND_PLAINTEXT_PORT
        && members.node_addresses.borrow().contains(&waiting.from.ip());
    if !at_node {
        return None;
    }
    let local = waiting.connection.local_addr().ok()?.as_socket()?;
    let to = weft_runtime::fd::original_destination(&waiting.connection, local).ok()?;
    let declared = member.pod.probes.iter().any(|probe| probe.port == to.port());
    (declared && member.pod.addresses.contains(&to.ip())).then_some(to)
}

/// A connection that may be a probe.
struct Probe {
    members: Arc<Members>,
    namespace: NetNamespace,
    inbound_mark: u32,
    from: SocketAddr,
    to: SocketAddr,
}

impl Probe {
    /// Carries it to the application and back if the kubelet, or another process of the node itself, makes it.
    async fn carry(self, connection: Socket) {
        let caller = self.members.callers.judge(self.from, self.to).await;
        let Ok(mut client) = asynchronous(connection) else { return };
        if caller != CallerKind::Host {
            // A TCP probe is over by now, and nobody is refused anything.
            let over = matches!(client.try_read(&mut [0]), Ok(0));
            reset(&client);
            if !over {
                count_reset(&self.members);
            }
            return;
        }
        let connected = tokio::time::timeout(CONNECT, self.connect()).await;
        let mut application = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(application) => application,
            Err(error) => {
                tracing::debug!(to = %self.to, %error, "the application does not take a probe");
                return reset(&client);
            }
        };
        self.members.board.update(|status| status.carried_probes += 1);
        let carried = tokio::io::copy_bidirectional(&mut client, &mut application);
        if !matches!(tokio::time::timeout(LONGEST, carried).await, Ok(Ok(_))) {
            reset(&client);
            reset(&application);
        }
    }

    /// Connects to the application as the proxy would: from the caller's address, by the marked way over `lo` (rule 16).
    async fn connect(&self) -> io::Result<TcpStream> {
        let kind = Type::STREAM.nonblocking();
        let domain = Domain::for_address(self.to);
        let socket = self.namespace.run_in(|| Socket::new(domain, kind, Some(Protocol::TCP)))??;
        weft_runtime::fd::set_mark(&socket, self.inbound_mark)?;
        weft_runtime::fd::set_transparent(&socket, self.to.ip())?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(self.from.ip(), 0).into())?;
        TcpSocket::from_std_stream(socket.into()).connect(self.to).await
    }
}

fn asynchronous(connection: Socket) -> io::Result<TcpStream> {
    connection.set_nonblocking(true)?;
    TcpStream::from_std(connection.into())
}
