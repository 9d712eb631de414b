//! What happens to one pod: enrolled, released, ended, checked. Operations on one pod wait for each other; different
//! pods do not.

mod member;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::member::Held;
pub(super) use self::member::{Member, MemberError};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use weft_api::node::{Destinations, EnrolledPod, RemoveCause, Standing};
use weft_api::probe::Probe;
use weft_model::Text;
use weft_runtime::netns::NetNamespace;

use super::bootstrap::Bootstrap;
use super::callers::Callers;
use super::config::Config;
use super::event::Refusals;
use super::foreign::{self, Foreign};
use super::host::NodeAddresses;
use super::link::{Link, LinkError};
use super::old::OldConnections;
use super::plaintext::Admitted;
use super::pods::{Pod, Pods};
use super::proxies::{CurrentLink, Proxies};
use super::release::Stage;
use super::status::StatusBoard;
use crate::kernel::capture::Capture;
use crate::kernel::listen::Listeners;
use crate::ruleset::TcpProbes;

/// How long the proxy may take to flush and close an ending pod's connections (data-plane rule 26).
pub(super) const END_LIMIT: Duration = Duration::from_secs(2);

/// How long proxies may take to find an agent that has restarted: they try every second.
const SETTLING: Duration = Duration::from_secs(2);

pub(super) type Slot = Arc<tokio::sync::Mutex<Option<Member>>>;

/// Everything the agent's parts share.
#[derive(Debug)]
pub(super) struct Members {
    pub(super) config: Config,
    pub(super) pods: Pods,
    pub(super) node_addresses: NodeAddresses,
    pub(super) callers: Arc<Callers>,
    pub(super) admitted: Admitted,
    /// What the proxy wants captured besides the cluster's ranges, by pod.
    pub(super) further: Mutex<HashMap<Text, Destinations>>,
    pub(super) refusals: Refusals,
    pub(super) bootstrap: Bootstrap,
    pub(super) link: watch::Sender<CurrentLink>,
    pub(super) board: StatusBoard,
    /// Asks for a reconciliation at once.
    pub(super) wanted: Notify,
    slots: Mutex<HashMap<Text, Slot>>,
    ending: Mutex<HashSet<Text>>,
    proxies: Mutex<Proxies>,
    started: Instant,
    /// Since when no proxy is connected.
    unserved_since: Mutex<Option<Instant>>,
}

impl Members {
    pub(super) fn new(config: Config, pods: Pods, node_addresses: NodeAddresses) -> Self {
        let (link, _) = watch::channel(None);
        let board = StatusBoard::new(&config);
        Self {
            callers: Arc::new(Callers::new(config.pod_cgroups.clone())),
            config,
            pods,
            node_addresses,
            admitted: Admitted::default(),
            further: Mutex::default(),
            refusals: Refusals::default(),
            bootstrap: Bootstrap::default(),
            link,
            board,
            wanted: Notify::new(),
            slots: Mutex::default(),
            ending: Mutex::default(),
            proxies: Mutex::default(),
            started: Instant::now(),
            unserved_since: Mutex::new(Some(Instant::now())),
        }
    }

    pub(super) fn slot(&self, uid: &Text) -> Slot {
        self.slots.lock().entry(uid.clone()).or_default().clone()
    }

    /// Every slot that may have a member.
    pub(super) fn slots(&self) -> BTreeMap<Text, Slot> {
        self.slots.lock().iter().map(|(uid, slot)| (uid.clone(), slot.clone())).collect()
    }

    /// Whether anything is or was done with a pod.
    pub(super) fn has_slot(&self, uid: &Text) -> bool {
        self.slots.lock().contains_key(uid)
    }

    /// Forgets slots that are empty and in nobody's hands.
    pub(super) fn tidy_slots(&self) {
        let vacant = |slot: &Slot| Arc::strong_count(slot) == 1 && slot.try_lock().is_ok_and(|m| m.is_none());
        self.slots.lock().retain(|_, slot| !vacant(slot));
    }

    /// A proxy has connected, and what it holds is being taken over.
    pub(super) fn proxy_joins(&self, number: u64, link: Arc<Link>) {
        self.choose_proxy(|proxies| proxies.join(number, link));
    }

    /// What a proxy held has been taken over.
    pub(super) fn proxy_adopted(&self, number: u64) {
        self.choose_proxy(|proxies| proxies.adopted(number));
    }

    /// Every proxy that was there before this agent has had the time to hand over what it holds. Until then nobody knows
    /// which pods are enrolled, and a proxy that is new is not to be told that it has them all.
    pub(super) fn is_settled(&self) -> bool {
        self.started.elapsed() >= self.config.hold.min(SETTLING) && !self.proxies.lock().is_adopting()
    }

    /// A connected proxy has said what it can do.
    pub(super) fn proxy_stands(&self, number: u64, standing: Standing) {
        self.choose_proxy(|proxies| proxies.stands(number, standing));
    }

    /// A proxy's connection ended, perhaps before it was one.
    pub(super) fn proxy_leaves(&self, number: u64) {
        self.choose_proxy(|proxies| proxies.leave(number));
    }

    fn choose_proxy(&self, change: impl FnOnce(&mut Proxies)) {
        let mut proxies = self.proxies.lock();
        change(&mut proxies);
        let best = proxies.best();
        let mut unserved = self.unserved_since.lock();
        // Who hands over serves.
        let served = best.is_some() || proxies.is_adopting();
        *unserved = if served { None } else { unserved.or_else(|| Some(Instant::now())) };
        drop(unserved);
        self.board.update(|status| status.proxy_connected = best.is_some());
        self.link.send_if_modified(|current| {
            let other =
                current.as_ref().map(|(number, _)| *number) != best.as_ref().map(|(number, _)| *number);
            *current = best;
            other
        });
    }

    /// Has every proxy close what it has of a pod: one that drains has connections too.
    pub(super) async fn remove_from_proxies(
        &self,
        uid: &Text,
        cause: RemoveCause,
        limit: Duration,
    ) -> Result<(), LinkError> {
        let all = self.proxies.lock().all();
        let removals = all.iter().map(|link| link.remove(uid.clone(), cause, limit));
        futures_util::future::join_all(removals).await.into_iter().collect()
    }

    pub(super) fn current_link(&self) -> CurrentLink {
        self.link.borrow().clone()
    }

    /// For how long no proxy has been connected; `None`: one is.
    pub(super) fn unserved_for(&self, now: Instant) -> Option<Duration> {
        self.unserved_since.lock().map(|since| now.saturating_duration_since(since))
    }

    /// The connected proxy, waiting for one up to `hold`.
    pub(super) async fn proxy(&self) -> Result<(u64, Arc<Link>), MemberError> {
        let mut link = self.link.subscribe();
        let wait = link.wait_for(Option::is_some);
        match tokio::time::timeout(self.config.hold, wait).await {
            Ok(Ok(current)) => current.clone().ok_or(MemberError::NoProxy),
            _ => Err(MemberError::NoProxy),
        }
    }

    /// Enrols a pod in its namespace; when it is enrolled there already, makes sure that the proxy has it.
    /// On failure nothing is left of it.
    pub(super) async fn enrol(
        &self,
        pod: &Pod,
        namespace: NetNamespace,
        container: Option<String>,
    ) -> Result<(), MemberError> {
        let proxy = self.proxy().await?;
        let slot = self.slot(&pod.uid);
        let mut slot = slot.lock().await;
        if slot.as_ref().is_some_and(|member| member.capture.namespace.id() != namespace.id()) {
            // The sandbox was made anew under the same pod: its old namespace is gone for the application.
            self.end_member(&mut slot).await;
        }
        let result = match slot.take() {
            Some(mut member) if !member.is_released() => {
                member.container = container.or(member.container);
                Ok(member)
            }
            other => self.capture(pod, namespace, container, other, None).await,
        };
        let outcome = match result {
            Ok(member) => self.confirm(slot.insert(member), &proxy).await.map_err(MemberError::from),
            Err(error) => Err(error),
        };
        if outcome.is_err()
            && let Some(member) = slot.take()
        {
            // A pod that was served before stays closed rather than open: its rules go only with a failed first time.
            if member.confirmed_by.is_some() { *slot = Some(member) } else { remove(member).await }
        }
        self.board.enrolment(&pod.name, &pod.uid, slot.as_ref(), outcome.as_ref().err());
        outcome
    }

    /// Takes back a pod that the proxy has kept while the agent was away.
    pub(super) async fn adopt(&self, pod: EnrolledPod, namespace: NetNamespace, listeners: Listeners) {
        let slot = self.slot(&pod.uid);
        let mut slot = slot.lock().await;
        if slot.is_some() {
            return;
        }
        let known = Pod {
            uid: pod.uid.clone(),
            name: pod.pod.clone(),
            service_account: pod.service_account.clone(),
            addresses: pod.addresses.clone(),
            node: None,
            host_network: false,
            terminal: false,
            label: None,
            sidecar: None,
            probes: pod.probes.clone(),
        };
        let marks = (pod.bypass_mark, pod.inbound_mark);
        let held = Held { marks, listeners: Some(listeners), settings: pod.settings };
        match self.capture(&known, namespace, None, None, Some(held)).await {
            Ok(member) => {
                tracing::info!(pod = %known.name, "listening sockets adopted from the proxy");
                self.board.enrolment(&known.name, &known.uid, Some(slot.insert(member)), None);
            }
            Err(error) => {
                tracing::error!(pod = %known.name, %error, "cannot adopt a pod from the proxy");
                self.board.enrolment(&known.name, &known.uid, None, Some(&error));
            }
        }
    }

    /// The kernel's side of an enrolment. `before`: the same pod, released but not finished.
    async fn capture(
        &self,
        pod: &Pod,
        namespace: NetNamespace,
        container: Option<String>,
        before: Option<Member>,
        held: Option<Held>,
    ) -> Result<Member, MemberError> {
        let cluster = self.config.cluster_ranges.clone();
        let probes = self.tcp_probes(&pod.uid, &pod.probes);
        let pod = pod.clone();
        // A pod that is being made has no connections yet.
        let grace = container.is_none().then_some(self.config.enrol_grace);
        let ask = held.is_none() && !self.config.allow_socket_load_balancer;
        let now = Instant::now();
        let work = move || {
            foreign::refuse(&pod, &namespace, ask)?;
            // Connections of before carry the old marks, so they stay.
            let kept = before.map(|member| Held::from(member.capture));
            let Held { marks, listeners, settings } = held.or(kept).unwrap_or_else(Held::nothing);
            let addresses = if pod.addresses.is_empty() {
                crate::kernel::inside(&namespace, crate::kernel::find::Interfaces::read)?.global()
            } else {
                pod.addresses.clone()
            };
            let mut capture = Capture::install(namespace, &addresses, &cluster, marks, probes, listeners)?;
            capture.remember(&settings);
            let pod = EnrolledPod {
                uid: pod.uid,
                pod: pod.name,
                service_account: pod.service_account,
                addresses,
                bypass_mark: marks.0,
                inbound_mark: marks.1,
                ipv6: capture.ruleset.ipv6,
                probes: pod.probes,
                settings: capture.settings(),
            };
            let carried = JoinSet::new();
            let old = grace.map_or_else(OldConnections::default, |grace| OldConnections::of(&capture, grace));
            let stage = Stage::Captured;
            let foreign = Foreign::new(now);
            Ok(Member { pod, capture, container, confirmed_by: None, stage, old, carried, foreign })
        };
        blocking(work).await?
    }

    /// Has the proxy confirm a member, unless this very proxy has.
    async fn confirm(&self, member: &mut Member, proxy: &(u64, Arc<Link>)) -> Result<(), LinkError> {
        let (number, link) = proxy;
        if member.confirmed_by == Some(*number) {
            return Ok(());
        }
        let Some(listeners) = &member.capture.listeners else { return Ok(()) };
        let [outbound, inbound, tunnel] = &listeners.0;
        let descriptors: [BorrowedFd<'_>; 4] =
            [member.capture.namespace.as_fd(), outbound.as_fd(), inbound.as_fd(), tunnel.as_fd()];
        link.add(member.pod.clone(), &descriptors, self.config.ack_timeout).await?;
        member.confirmed_by = Some(*number);
        Ok(())
    }

    /// Sends a member again to a proxy that has just connected.
    pub(super) async fn resend(&self, uid: &Text, proxy: &(u64, Arc<Link>)) {
        let slot = self.slot(uid);
        let mut slot = slot.lock().await;
        let Some(member) = slot.as_mut().filter(|member| !member.is_released()) else { return };
        let outcome = self.confirm(member, proxy).await.map_err(MemberError::from);
        let (name, uid) = (member.pod.pod.clone(), member.pod.uid.clone());
        self.board.enrolment(&name, &uid, Some(member), outcome.as_ref().err());
    }

    /// The pod has ended: the proxy flushes and closes, then every descriptor of the namespace is dropped. The rules
    /// go with the namespace. `only`: just if the member is this one. Returns whether it was.
    pub(super) async fn end(&self, uid: &Text, only: impl FnOnce(&Member) -> bool) -> bool {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let matches = guard.as_ref().is_some_and(only);
        if matches {
            self.end_member(&mut guard).await;
            self.board.forget(uid);
        }
        matches
    }

    /// DEL came for a pod: it is not enrolled again as a running one while its object and programs last.
    pub(super) fn ending(&self, uid: &Text) {
        self.ending.lock().insert(uid.clone());
    }

    /// ADD came for a pod, maybe after a DEL: a sandbox made anew.
    pub(super) fn starting(&self, uid: &Text) {
        self.ending.lock().remove(uid);
    }

    /// Is DEL the last that was heard of a pod?
    pub(super) fn is_ending(&self, uid: &Text) -> bool {
        self.ending.lock().contains(uid)
    }

    /// Forgets DELs, and what the proxy said, of pods that are gone.
    pub(super) fn tidy_gone(&self, exists: impl Fn(&Text) -> bool) {
        self.ending.lock().retain(|uid| exists(uid));
        self.further.lock().retain(|uid, _| exists(uid));
        self.admitted.tidy(exists);
    }

    fn tcp_probes(&self, uid: &Text, declared: &[Probe]) -> TcpProbes {
        self.admitted.tcp_probes(uid, declared, &self.node_addresses.borrow())
    }

    /// Makes a member's rules follow the node's addresses and what the proxy said.
    pub(super) async fn follow_rules(&self, uid: &Text) {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let Some(member) = guard.as_ref().filter(|member| !member.is_released()) else { return };
        let probes = self.tcp_probes(uid, &member.pod.probes);
        let known = self.further.lock().get(uid).cloned();
        let further = known.unwrap_or_else(|| member.capture.ruleset.further.clone());
        if member.capture.ruleset.probes == probes && member.capture.ruleset.further == further {
            return;
        }
        let Some(mut member) = guard.take() else { return };
        let outcome = blocking(move || {
            let outcome = member.capture.follow(probes, further);
            (member, outcome)
        })
        .await;
        let Ok((member, outcome)) = outcome else { return };
        if let Err(error) = outcome {
            tracing::warn!(pod = %member.pod.pod, %error, "cannot change the rules; trying again");
        }
        *guard = Some(member);
    }

    async fn end_member(&self, slot: &mut Option<Member>) {
        let Some(member) = slot.take() else { return };
        if let Err(error) = self.remove_from_proxies(&member.pod.uid, RemoveCause::PodEnd, END_LIMIT).await {
            tracing::warn!(pod = %member.pod.pod, %error, "the proxy did not confirm the pod's end");
        }
        tracing::info!(pod = %member.pod.pod, "ended");
    }

    /// Compares a member with the kernel. `None`: there is no such member.
    pub(super) async fn verify(&self, uid: &Text) -> Option<Result<(), MemberError>> {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let member = guard.take()?;
        let (member, outcome) = blocking(move || {
            let outcome = member.capture.verify();
            (member, outcome)
        })
        .await
        .ok()?;
        *guard = Some(member);
        Some(outcome.map_err(MemberError::from))
    }

    /// Compares a member with the kernel and puts back what differs.
    pub(super) async fn repair(&self, uid: &Text) {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let Some(mut member) = guard.take() else { return };
        let (now, ask) = (Instant::now(), !self.config.allow_socket_load_balancer);
        let every = self.config.verify_every.saturating_mul(foreign::SELDOM);
        let Ok((mut member, problem, outcome)) = blocking(move || {
            let problem = member.capture.verify().err();
            let outcome = if problem.is_some() { member.capture.repair() } else { Ok(false) };
            foreign::look(&mut member, now, every, ask);
            (member, problem, outcome)
        })
        .await
        else {
            return;
        };
        if let Some(problem) = problem {
            tracing::warn!(pod = %member.pod.pod, %problem, repaired = outcome.is_ok(), "capture was tampered with");
            self.board.update(|status| status.repairs += u64::from(outcome.is_ok()));
        }
        if matches!(outcome, Ok(true)) {
            member.confirmed_by = None;
        }
        let mut outcome = outcome.map(drop).map_err(MemberError::from);
        if outcome.is_ok()
            && !member.is_released()
            && let Some(proxy) = self.current_link()
        {
            outcome = self.confirm(&mut member, &proxy).await.map_err(MemberError::from);
        }
        let (name, uid) = (member.pod.pod.clone(), member.pod.uid.clone());
        let member = guard.insert(member);
        let error = outcome.as_ref().err().or_else(|| member.foreign.found());
        self.board.enrolment(&name, &uid, Some(member), error);
    }
}

/// Runs kernel steps away from the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, MemberError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| MemberError::Interrupted)
}

pub(super) async fn remove(member: Member) {
    let _ = blocking(move || member.capture.remove()).await;
}
