//! What the agent knows, as JSON in `agent-status.json`, replaced whenever it changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use weft_model::{ObjectName, Text};

use super::config::Config;
use super::members::{Member, MemberError, Members};

/// The file's content.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    pub(super) node: String,
    pub(super) proxy_connected: bool,
    /// Connections reset because no proxy came within `hold`.
    pub(super) reset_connections: u64,
    /// How often a pod's rules, routes, settings or sockets had to be put back.
    pub(super) repairs: u64,
    /// By UID.
    pub(super) pods: BTreeMap<Text, PodStatus>,
}

/// One pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    pod: ObjectName,
    state: PodState,
    /// The last comparison with the kernel found everything as installed.
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum PodState {
    /// Captured, and the proxy has it.
    Enrolled,
    /// To be enrolled, but it is not: see the error.
    NotEnrolled,
    /// No longer enrolled; captured connections still live.
    Released,
}

/// The status and a bell for the writer.
#[derive(Debug)]
pub(super) struct StatusBoard {
    status: Mutex<Status>,
    changed: Notify,
    path: PathBuf,
}

impl StatusBoard {
    pub(super) fn new(config: &Config) -> Self {
        let status = Status { node: config.node.clone(), ..Status::default() };
        let path = config.runtime_dir.join("agent-status.json");
        let changed = Notify::new();
        changed.notify_one();
        Self { status: Mutex::new(status), changed, path }
    }

    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let result = change(&mut self.status.lock());
        self.changed.notify_one();
        result
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
            Some(member) if member.released => PodState::Released,
            Some(_) if error.is_none() => PodState::Enrolled,
            _ => PodState::NotEnrolled,
        };
        let error = error.map(ToString::to_string);
        let fresh = PodStatus { pod: name.clone(), state, verified: error.is_none(), error };
        let before = self.update(|status| status.pods.insert(uid.clone(), fresh.clone()));
        let same = before.is_some_and(|old| old.state == fresh.state && old.error == fresh.error);
        match &fresh.error {
            _ if same => {}
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
                pod.state = state;
            }
        });
    }

    pub(super) fn forget(&self, uid: &Text) {
        self.update(|status| status.pods.remove(uid));
    }
}

/// Writes the file at every change, for ever. A full disk is logged; the agent's work does not depend on the file.
pub(super) async fn write_changes(members: Arc<Members>) {
    let board = &members.board;
    let mut written = String::new();
    loop {
        board.changed.notified().await;
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
