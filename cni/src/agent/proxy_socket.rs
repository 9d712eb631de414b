//! The socket where the node's proxy connects: greeting, hand-over of held sockets in both directions, then answers.
//! `agent/proxies.rs` says which proxy is used.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_api::node::{EnrolledPod, PROTOCOL_VERSION, ToAgent, ToProxy};
use weft_runtime::fd::{SeqPacket, SeqPacketListener};
use weft_runtime::netns::NetNamespace;

use super::callers::Callers;
use super::event::Refusal;
use super::host::NodeAddresses;
use super::link::Link;
use super::members::Members;
use super::peer;
use crate::kernel::listen::Listeners;

/// How long a proxy may take to say what it holds.
const GREETING: Duration = Duration::from_secs(5);

/// How often it is looked whether every proxy has handed over what it holds.
const SETTLED: Duration = Duration::from_millis(50);

/// Serves proxies for ever.
pub(super) async fn serve(listener: SeqPacketListener, members: Arc<Members>) -> io::Result<()> {
    // What a proxy holds can be judged only when the pods are known.
    let _ = members.pods.clone().wait_for(Option::is_some).await;
    let mut number = 0_u64;
    loop {
        let packets = match listener.accept().await {
            Ok(packets) => packets,
            Err(error) => {
                tracing::warn!(%error, "accepting a proxy");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        number += 1;
        let members = members.clone();
        tokio::spawn(async move {
            let outcome = talk(packets, number, &members).await;
            members.proxy_leaves(number);
            match outcome {
                Ok(()) => tracing::warn!("the proxy disconnected"),
                Err(error) => tracing::warn!(%error, "the connection to the proxy ended"),
            }
        });
    }
}

async fn talk(packets: SeqPacket, number: u64, members: &Arc<Members>) -> io::Result<()> {
    peer::authenticate(&packets, members).await?;
    let link = Arc::new(Link::new(packets));
    let held = tokio::time::timeout(GREETING, greet(&link, members))
        .await
        .map_err(|_| io::Error::other("the proxy did not say in time what it holds"))??;
    members.proxy_joins(number, link.clone());
    tracing::info!(pods = held.len(), "a proxy connected");
    let mut telling = tokio::task::JoinSet::new();
    telling.spawn(serve_proxy(link.clone(), number, held, members.clone()));
    telling.spawn(send_unserved(link.clone(), members.clone()));
    let outcome = listen(&link, number, members).await;
    link.end();
    outcome
}

/// Takes over what the proxy holds, and tells it what it has to know. Meanwhile its questions are answered.
async fn serve_proxy(link: Arc<Link>, number: u64, held: Vec<Held>, members: Arc<Members>) {
    let adoptions =
        held.into_iter().map(|(pod, namespace, listeners)| members.adopt(pod, namespace, listeners));
    futures_util::future::join_all(adoptions).await;
    members.proxy_adopted(number);
    while !members.is_settled() {
        tokio::time::sleep(SETTLED).await;
    }
    tell(link, number, members).await;
}

type Held = (EnrolledPod, NetNamespace, Listeners);

async fn greet(link: &Link, members: &Members) -> io::Result<Vec<Held>> {
    let mut held = Vec::new();
    let node = members.config.node.as_str().into();
    match next(link).await? {
        Some((ToAgent::Hello { version: PROTOCOL_VERSION, may_be_succeeded }, _)) => {
            link.set_may_be_succeeded(may_be_succeeded);
        }
        Some((ToAgent::Hello { version, .. }, _)) => {
            // Our own version goes out as well, so that both logs say it.
            link.say(&ToProxy::Hello { version: PROTOCOL_VERSION, node }, &[]).await?;
            return Err(io::Error::other(format!(
                "the proxy speaks version {version}, this agent {PROTOCOL_VERSION}: install the same release of both"
            )));
        }
        _ => return Err(io::Error::other("the proxy did not greet first")),
    }
    link.say(&ToProxy::Hello { version: PROTOCOL_VERSION, node }, &[]).await?;
    loop {
        match next(link).await? {
            Some((ToAgent::Held { pod }, descriptors)) => {
                let Ok([namespace, outbound, inbound, tunnel]) = <[OwnedFd; 4]>::try_from(descriptors) else {
                    return Err(io::Error::other("a held pod came without its four descriptors"));
                };
                let listeners = Listeners([outbound, inbound, tunnel]);
                held.push((pod, NetNamespace::from_descriptor(namespace)?, listeners));
            }
            Some((ToAgent::HeldEnd, _)) => return Ok(held),
            Some(_) => return Err(io::Error::other("an answer came before the end of the greeting")),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

async fn next(link: &Link) -> io::Result<Option<(ToAgent, Vec<OwnedFd>)>> {
    let Some((bytes, descriptors)) = link.packets.receive().await? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&bytes)?, descriptors)))
}

/// Tells the node's addresses, now and whenever they change, all pods each time that this proxy becomes the one that is
/// used, and that another has taken its place.
async fn tell(link: Arc<Link>, number: u64, members: Arc<Members>) {
    let mut addresses = members.node_addresses.clone();
    let mut used = members.link.subscribe();
    let mut served = false;
    let outcome = async {
        send_addresses(&link, &mut addresses).await?;
        loop {
            let now = used.borrow_and_update().as_ref().map(|(number, _)| *number);
            let serves = now == Some(number);
            if serves && !served {
                send_pods(&link, number, &members).await;
                link.say(&ToProxy::SnapshotEnd, &[]).await?;
            } else if served && !serves && now.is_some() {
                link.succeeded().await?;
            }
            served = serves;
            tokio::select! {
                Ok(()) = addresses.changed() => send_addresses(&link, &mut addresses).await?,
                Ok(()) = used.changed() => {}
                else => return Ok::<_, io::Error>(()),
            }
        }
    }
    .await;
    if let Err(error) = outcome {
        tracing::warn!(%error, "sending to the proxy");
    }
}

async fn send_addresses(link: &Link, known: &mut NodeAddresses) -> io::Result<()> {
    let addresses = known.borrow_and_update().to_vec();
    link.say(&ToProxy::NodeAddresses { addresses }, &[]).await
}

async fn send_pods(link: &Arc<Link>, number: u64, members: &Arc<Members>) {
    let mut tasks = tokio::task::JoinSet::new();
    for uid in members.slots().into_keys() {
        let (members, proxy) = (members.clone(), (number, link.clone()));
        tasks.spawn(async move { members.resend(&uid, &proxy).await });
    }
    while tasks.join_next().await.is_some() {}
}

/// Tells which pods cannot be enrolled and why, now and when that changes.
async fn send_unserved(link: Arc<Link>, members: Arc<Members>) {
    let mut changes = members.board.changes();
    // A proxy begins each connection with none.
    let mut told = BTreeMap::new();
    loop {
        let pods = members.board.unserved();
        if told != pods {
            if let Err(error) = link.say(&ToProxy::Unserved { pods: pods.clone() }, &[]).await {
                tracing::warn!(%error, "sending to the proxy");
            }
            told = pods;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Takes what the proxy says after its greeting.
async fn listen(link: &Arc<Link>, number: u64, members: &Arc<Members>) -> io::Result<()> {
    // Those who asked are gone with the connection.
    let mut questions = tokio::task::JoinSet::new();
    while let Some((message, _)) = next(link).await? {
        while questions.try_join_next().is_some() {}
        match message {
            ToAgent::Ack { id, error } => link.answered(id, error),
            ToAgent::Standing { standing } => members.proxy_stands(number, standing),
            ToAgent::WhoCalls { id, from, to } => {
                questions.spawn(answer(Arc::clone(link), members.callers.clone(), id, from, to));
            }
            ToAgent::Plaintext { uid, ports } => {
                members.admitted.set(uid.clone(), ports);
                let members = Arc::clone(members);
                tokio::spawn(async move { members.follow_rules(&uid).await });
            }
            ToAgent::Destinations { uid, destinations } => {
                members.further.lock().insert(uid.clone(), destinations);
                let members = Arc::clone(members);
                tokio::spawn(async move { members.follow_rules(&uid).await });
            }
            ToAgent::Refused { uid, port, from, count } => {
                if let Some(pod) = members.board.refused(&uid, port, from, count) {
                    let refusal = Refusal { uid, pod, port, from };
                    members.refusals.note(refusal, members.pods.borrow().as_deref(), Instant::now());
                }
            }
            other => return Err(io::Error::other(format!("unexpected after the greeting: {other:?}"))),
        }
    }
    Ok(())
}

async fn answer(link: Arc<Link>, callers: Arc<Callers>, id: u64, from: SocketAddr, to: SocketAddr) {
    let caller = callers.judge(from, to).await;
    if let Err(error) = link.say(&ToProxy::Caller { id, caller }, &[]).await {
        tracing::warn!(%error, "answering the proxy");
    }
}
