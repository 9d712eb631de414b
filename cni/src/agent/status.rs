//! What the agent knows, as JSON in `agent-status.json`, replaced whenever it changes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use weft_model::workload::{MESH_LABEL, MTLS_LABEL, PLAINTEXT_PORTS_LABEL};
use weft_model::{ObjectName, Text};

use super::config::Config;
use super::members::{Member, MemberError, Members};
use super::old::OldConnections;

/// The most pods, and the longest reason in bytes, that the proxy is told of: one message has to hold them.
const MOST_TOLD: usize = 100;
const LONGEST_WHY: usize = 400;

/// The file's content.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) node: String,
    pub(super) proxy_connected: bool,
    /// Connections reset because no proxy came within `hold`.
    pub(super) reset_connections: u64,
    /// Probes of the kubelet that the agent carried to applications meanwhile.
    pub(super) carried_probes: u64,
    /// How often a pod's rules, routes, settings or sockets had to be put back.
    pub(super) repairs: u64,
    /// Connections older than a pod's enrolment that were reset when their grace was over.
    pub(super) old_connections_ended: u64,
    /// Pods that ran outside the mesh when this agent started, although they are to be in it.
    pub(super) found_unmeshed: u64,
    /// Network namespaces that agent or proxy hold open although no pod that is served has them.
    pub(super) stray_namespaces: u64,
    /// By UID.
    pub(super) pods: BTreeMap<Text, PodStatus>,
    /// Callers in plaintext that were refused, by the pod's UID and the port called.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) refused_plaintext: BTreeMap<Text, BTreeMap<u16, RefusedPlaintext>>,
}

/// Refused callers of one port.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefusedPlaintext {
    /// Who called last.
    from: SocketAddr,
    count: u64,
}

/// One pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) pod: ObjectName,
    pub(super) state: PodState,
    /// One word: for the error, or for the state without one.
    pub(super) reason: &'static str,
    /// The capture rules have been installed.
    pub(super) captured: bool,
    /// The last comparison with the kernel found everything as installed.
    pub(super) verified: bool,
    /// Open connections that are older than the enrolment and pass beside the mesh.
    pub(super) old_connections: usize,
    /// When they will be reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) old_connections_end: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl PodStatus {
    pub(super) fn new(pod: ObjectName, state: PodState, error: Option<&MemberError>) -> Self {
        let reason = error.map_or_else(|| state.reason(), MemberError::reason);
        // A proxy that failed says nothing about the rules.
        let verified = !matches!(error, Some(MemberError::Kernel(_) | MemberError::NoNamespace));
        Self {
            pod,
            state,
            reason,
            captured: false,
            verified,
            old_connections: 0,
            old_connections_end: None,
            error: error.map(ToString::to_string),
        }
    }

    /// Shows the connections that are older than the enrolment.
    fn set_old(&mut self, old: &OldConnections) {
        (self.old_connections, self.old_connections_end) = (old.count(), old.end());
    }
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PodState {
    /// Captured, and the proxy has it.
    Enrolled,
    /// To be enrolled, but it is not: see the error.
    NotEnrolled,
    /// To be enrolled in a moment: the error says what is waited for.
    Waiting,
    /// No longer to be enrolled, but still captured: the error says what is waited for.
    Leaving,
    /// No longer enrolled; captured connections still live.
    Released,
}

impl PodState {
    /// As it is written everywhere.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::NotEnrolled => "notEnrolled",
            Self::Waiting => "waiting",
            Self::Leaving => "leaving",
            Self::Released => "released",
        }
    }
}

/// The status and a bell for those who pass it on.
#[derive(Debug)]
pub(super) struct StatusBoard {
    status: Mutex<Status>,
    changed: watch::Sender<()>,
    path: PathBuf,
}

impl StatusBoard {
    pub(super) fn new(config: &Config) -> Self {
        let status = Status { node: config.node.clone(), ..Status::default() };
        let path = config.runtime_dir.join("agent-status.json");
        let changed = watch::Sender::default();
        Self { status: Mutex::new(status), changed, path }
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let result = change(&mut self.status.lock());
        self.changed.send_replace(());
        result
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&self.status.lock())
    }

    /// Rings when something may have changed.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Records how an enrolment, or its last comparison, went; logs what is new.
    pub(super) fn enrolment(
        &self,
        name: &ObjectName,
        uid: &Text,
        member: Option<&Member>,
        error: Option<&MemberError>,
    ) {
        let state = match member {
            Some(member) if member.is_released() => PodState::Released,
            Some(_) if error.is_none() => PodState::Enrolled,
            _ if matches!(error, Some(MemberError::Waits(_))) => PodState::Waiting,
            _ => PodState::NotEnrolled,
        };
        let captured = member.is_some_and(|member| !member.is_released());
        let mut fresh = PodStatus { captured, ..PodStatus::new(name.clone(), state, error) };
        if let Some(member) = member {
            fresh.set_old(&member.old);
        }
        let before = self.update(|status| status.pods.insert(uid.clone(), fresh.clone()));
        let same = before.is_some_and(|old| old.state == fresh.state && old.error == fresh.error);
        match &fresh.error {
            _ if same => {}
            Some(why) if state == PodState::Waiting => tracing::info!(pod = %name, why, "pod waits"),
            Some(error) if captured => tracing::error!(pod = %name, error, "pod is captured, but not well"),
            Some(error) => tracing::error!(pod = %name, error, "pod is not enrolled"),
            None => tracing::info!(pod = %name, ?state, "pod"),
        }
    }

    /// A running pod whose network namespace cannot be found.
    pub(super) fn unreachable(&self, name: &ObjectName, uid: &Text) {
        self.enrolment(name, uid, None, Some(&MemberError::NoNamespace));
    }

    pub(super) fn state(&self, uid: &Text, state: PodState) {
        self.update(|status| {
            if let Some(pod) = status.pods.get_mut(uid) {
                (pod.state, pod.error, pod.reason) = (state, None, state.reason());
                pod.set_old(&OldConnections::default());
            }
        });
    }

    /// Shows what became of the connections that are older than a pod's enrolment.
    pub(super) fn old_connections(&self, uid: &Text, old: &OldConnections, ended: u64) {
        self.update(|status| {
            status.old_connections_ended += ended;
            if let Some(pod) = status.pods.get_mut(uid) {
                pod.set_old(old);
            }
        });
    }

    /// Records refused callers in plaintext; the first of a pod's port is worth a line.
    /// Returns the pod, if there is such a one.
    pub(super) fn refused(&self, uid: &Text, port: u16, from: SocketAddr, count: u64) -> Option<ObjectName> {
        let (pod, first) = self.update(|status| {
            let pod = status.pods.get(uid).map(|pod| pod.pod.clone())?;
            let ports = status.refused_plaintext.entry(uid.clone()).or_default();
            let before = ports.get(&port).map_or(0, |refused| refused.count);
            ports.insert(port, RefusedPlaintext { from, count: before.saturating_add(count) });
            Some((pod, before == 0))
        })?;
        if first {
            tracing::warn!(%pod, port, %from, "a caller in plaintext was refused: {}", remedy(port));
        }
        Some(pod)
    }

    /// A pod that is to be released waits for peers.
    pub(super) fn leaving(&self, uid: &Text, why: &str) {
        self.update(|status| {
            if let Some(pod) = status.pods.get_mut(uid) {
                pod.state = PodState::Leaving;
                (pod.error, pod.reason) = (Some(why.to_owned()), pod.state.reason());
            }
        });
    }

    /// Pods that are to be enrolled and are not, with the reason.
    pub(super) fn unserved(&self) -> BTreeMap<Text, String> {
        let status = self.status.lock();
        let told = status.pods.iter().filter_map(|(uid, pod)| match pod.state {
            PodState::NotEnrolled | PodState::Waiting => {
                Some((uid.clone(), shortened(pod.error.as_deref()?)))
            }
            _ => None,
        });
        told.take(MOST_TOLD).collect()
    }

    /// Forgets pods that are gone and never were members.
    pub(super) fn retain(&self, exists: impl Fn(&Text) -> bool) {
        let gone = self.status.lock().pods.keys().any(|uid| !exists(uid));
        if gone {
            self.update(|status| status.pods.retain(|uid, _| exists(uid)));
        }
    }

    pub(super) fn forget(&self, uid: &Text) {
        self.update(|status| {
            status.refused_plaintext.remove(uid);
            status.pods.remove(uid)
        });
    }
}

/// What to do about a refused caller in plaintext.
pub(super) fn remedy(port: u16) -> String {
    format!(
        "enrol the caller ({MESH_LABEL}=enabled on its namespace), or open the port to everybody \
         ({PLAINTEXT_PORTS_LABEL}={port} on the pod), or admit all plaintext while you migrate \
         ({MTLS_LABEL}=permissive on the pod's namespace)"
    )
}

/// Writes the file at every change, for ever. A full disk is logged; the agent's work does not depend on the file.
pub(super) async fn write_changes(members: Arc<Members>) {
    let board = &members.board;
    let mut written = String::new();
    let mut changes = board.changes();
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        let text = serde_json::to_string_pretty(&*board.status.lock()).unwrap_or_default();
        if text == written {
            continue;
        }
        let temporary = board.path.with_extension("tmp");
        let outcome =
            std::fs::write(&temporary, &text).and_then(|()| std::fs::rename(&temporary, &board.path));
        match outcome {
            Ok(()) => written = text,
            Err(error) => tracing::warn!(path = %board.path.display(), %error, "status not written"),
        }
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=LONGEST_WHY.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}
