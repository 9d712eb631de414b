//! Brings pods and kernel together: enrols running pods that are to be enrolled, releases those that no longer are,
//! ends those that are gone, and reads rules back at intervals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_api::node::Intent;
use weft_runtime::netns::NetNamespace;

use super::members::{MemberError, Members, Slot, blocking};
use super::pods::{Decision, Pod, Table};
use crate::kernel::{find, nft};

/// How often unfinished business is looked at again.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reconciles for ever: when pods change, when asked, and at intervals.
pub(super) async fn run(members: Arc<Members>) {
    let mut pods = members.pods.clone();
    let mut link = members.link.subscribe();
    let mut addresses = members.node_addresses.clone();
    let mut verified = Instant::now();
    loop {
        let table = pods.borrow_and_update().clone();
        if let Some(table) = table {
            let verify = verified.elapsed() >= members.config.verify_every;
            if verify {
                verified = Instant::now();
            }
            existing(&members, &table, verify).await;
            missing(&members, &table).await;
            members.tidy_slots();
            members.board.retain(|uid| {
                members.has_slot(uid) || table.pods.values().any(|pod| pod.uid == *uid && !pod.terminal)
            });
            members.tidy_gone(|uid| table.pods.values().any(|pod| pod.uid == *uid));
        }
        tokio::select! {
            _ = pods.changed() => {}
            _ = link.changed() => {}
            _ = addresses.changed() => {}
            () = members.wanted.notified() => verified -= members.config.verify_every,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Members whose pod is gone, or is no longer to be enrolled.
async fn existing(members: &Members, table: &Table, verify: bool) {
    for (uid, slot) in members.slots() {
        let Some(name) = slot.lock().await.as_ref().map(|member| member.pod.pod.clone()) else { continue };
        let pod = table.pods.get(&name).filter(|pod| pod.uid == uid);
        let vanished = pod.is_none();
        let pod = pod.filter(|pod| !pod.terminal);
        match pod.map(|pod| table.decide(pod)) {
            // Its object is gone before its programs: it was deleted by force, or its end was never told. Nothing is
            // taken from programs that still run; that they have ended is looked for at intervals.
            None if vanished && (!verify || is_inhabited(&slot).await) => {}
            None => {
                members.end(&uid, |_| true).await;
            }
            Some(Decision::Leave) => members.leave(&uid, Instant::now()).await,
            // A namespace that vanished is no reason to open a pod.
            Some(Decision::Enrol | Decision::Unknown) => {
                members.follow_rules(&uid).await;
                members.stay(&uid).await;
                members.follow_old_connections(&uid, Instant::now(), verify).await;
                if verify {
                    members.repair(&uid).await;
                }
            }
        }
    }
}

async fn is_inhabited(slot: &Slot) -> bool {
    let namespace = slot.lock().await.as_ref().map(|member| member.capture.namespace.clone());
    let Some(namespace) = namespace else { return false };
    // When it cannot be told: nothing is ended.
    blocking(move || find::is_inhabited(&namespace)).await.unwrap_or(true)
}

/// Running pods that are to be enrolled and are not. Pods without an address have not been through the CNI yet.
async fn missing(members: &Members, table: &Table) {
    if members.current_link().is_none() || !members.is_settled() {
        return;
    }
    for pod in table.pods.values() {
        let wanted = !pod.addresses.is_empty() && table.decide(pod) == Decision::Enrol;
        // In this order: whether it is a member may be known only when DEL has ended it.
        if !wanted || is_member(members, pod).await || members.is_ending(&pod.uid) {
            continue;
        }
        let addresses = pod.addresses.clone();
        let Ok(Some(namespace)) = blocking(move || find::namespace_with(&addresses)).await else {
            members.board.unreachable(&pod.name, &pod.uid);
            continue;
        };
        // The outcome is in the status.
        let _ = enrol_running(members, table, pod, namespace).await;
    }
    members.bootstrap.first_look_is_done();
}

/// A pod that has been without rules until now is captured only when the proxy knows what to do with its connections:
/// one that is captured too early would have them refused.
async fn enrol_running(
    members: &Members,
    table: &Table,
    pod: &Pod,
    namespace: NetNamespace,
) -> Result<(), MemberError> {
    let inside = namespace.clone();
    let captured = blocking(move || crate::kernel::inside(&inside, || Ok(nft::is_installed()))).await??;
    if !captured && members.bootstrap.meets(pod, table, members) {
        members.board.enrolment(&pod.name, &pod.uid, None, Some(&MemberError::Evicted));
        return Err(MemberError::Evicted);
    }
    if !captured && let Err(why) = members.may(&pod.uid, Intent::Capture).await {
        let waits = MemberError::Waits(why);
        members.board.enrolment(&pod.name, &pod.uid, None, Some(&waits));
        return Err(waits);
    }
    members.enrol(pod, namespace, None).await
}

async fn is_member(members: &Members, pod: &Pod) -> bool {
    match members.slots().get(&pod.uid) {
        Some(slot) => slot.lock().await.as_ref().is_some_and(|member| !member.is_released()),
        None => false,
    }
}
