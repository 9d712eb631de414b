//! Connections that a running pod had before it was enrolled: counted, shown, and reset when their grace is over
//! (data-plane rule 4).

use std::time::{Duration, Instant};

use jiff::Timestamp;
use weft_model::Text;

use super::members::{Members, blocking};
use super::release::Stage;
use crate::kernel::capture::Capture;
use crate::kernel::sock_diag::TcpSocket;

/// Until the next attempt, when some could not be reset.
const AGAIN: Duration = Duration::from_secs(60);

/// Those of one pod that are still open.
#[derive(Debug, Default)]
pub(super) struct OldConnections {
    sockets: Vec<TcpSocket>,
    /// When they are reset; `None`: at no time that a clock can show.
    due: Option<(Instant, Timestamp)>,
}

impl OldConnections {
    /// Those that are open although the rules are in force. Blocks.
    pub(super) fn of(capture: &Capture, grace: Duration) -> Self {
        let sockets = capture.old_connections().unwrap_or_else(|error| {
            tracing::warn!(%error, "connections older than the enrolment cannot be listed: they live until they end");
            Vec::new()
        });
        Self { sockets, due: after(grace) }
    }

    pub(super) const fn count(&self) -> usize {
        self.sockets.len()
    }

    /// When they will be reset, if there are any.
    pub(super) fn end(&self) -> Option<String> {
        let (_, time) = self.due.filter(|_| !self.sockets.is_empty())?;
        Some(format!("{time:.0}"))
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|(due, _)| due <= now)
    }

    /// Forgets those that have ended; resets the others when it is time. Returns how many were reset.
    fn follow(&mut self, capture: &Capture, due: bool) -> std::io::Result<u64> {
        if !due {
            self.sockets = capture.still_open(&self.sockets)?;
            return Ok(0);
        }
        let (ended, left) = capture.reset(&self.sockets)?;
        if let Some((_, error)) = left.first() {
            tracing::warn!(%error, connections = left.len(), "connections cannot be reset; trying again in a minute");
            self.due = after(AGAIN);
        }
        self.sockets = left.into_iter().map(|(socket, _)| socket).collect();
        Ok(ended)
    }
}

fn after(wait: Duration) -> Option<(Instant, Timestamp)> {
    Some((Instant::now().checked_add(wait)?, Timestamp::now().checked_add(wait).ok()?))
}

impl Members {
    /// Looks after a captured pod's older connections: at every comparison, and when their grace is over. A pod that is
    /// on its way out keeps them.
    pub(super) async fn follow_old_connections(&self, uid: &Text, now: Instant, verify: bool) {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let Some(due) = guard
            .as_ref()
            .filter(|member| member.stage == Stage::Captured && member.old.count() > 0)
            .map(|member| member.old.is_due(now))
            .filter(|due| *due || verify)
        else {
            return;
        };
        let Some(mut member) = guard.take() else { return };
        let Ok((member, outcome)) = blocking(move || {
            let outcome = member.old.follow(&member.capture, due);
            (member, outcome)
        })
        .await
        else {
            return;
        };
        let ended = outcome.unwrap_or_else(|error| {
            tracing::warn!(pod = %member.pod.pod, %error, "cannot look after connections older than the enrolment; trying again");
            0
        });
        if ended > 0 {
            tracing::info!(pod = %member.pod.pod, connections = ended, "reset: they were older than the enrolment");
        }
        self.board.old_connections(uid, &member.old, ended);
        *guard = Some(member);
    }
}
