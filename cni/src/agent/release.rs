//! How a running pod leaves the mesh without breaking a connection (data-plane rule 4): the proxies of its callers are
//! told first; then nothing new is captured; then the listeners are closed; and when the last captured connection has
//! ended everything is taken away.

use std::time::{Duration, Instant};

use weft_api::node::{Intent, RemoveCause};
use weft_model::Text;

use super::members::{Members, blocking, remove};
use super::old::OldConnections;
use super::status::PodState;

/// Between the last packet that can have been redirected and the closing of the listeners: handshakes end meanwhile,
/// and what waits in the backlog is accepted.
const LINGER: Duration = Duration::from_secs(1);

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Captured.
    Captured,
    /// To be released since then; captured until peers know.
    Leaving(Instant),
    /// Nothing new has been captured since then; the proxy still accepts.
    Uncaptured(Instant),
    /// The listeners are closed; captured connections may live.
    Closed,
}

impl Members {
    /// The next step of a pod's release, if it is time for it.
    pub(super) async fn leave(&self, uid: &Text, now: Instant) {
        let slot = self.slot(uid);
        let stage = {
            let mut guard = slot.lock().await;
            let Some(member) = guard.as_mut() else { return };
            if member.stage == Stage::Captured {
                member.stage = Stage::Leaving(now);
            }
            member.stage
        };
        match stage {
            Stage::Captured => {}
            Stage::Leaving(since) => {
                if let Err(why) = self.may(uid, Intent::Release).await {
                    let waited = now.saturating_duration_since(since);
                    if waited < self.config.release_wait {
                        return self.board.leaving(uid, &why);
                    }
                    tracing::warn!(%uid, why, ?waited, "a pod is released without waiting any longer");
                }
                self.uncapture(uid, now).await;
            }
            Stage::Uncaptured(since) if now.saturating_duration_since(since) < LINGER => {}
            Stage::Uncaptured(_) => self.close(uid).await,
            Stage::Closed => self.finish(uid).await,
        }
    }

    /// A pod that was on its way out is to stay after all.
    pub(super) async fn stay(&self, uid: &Text) {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        if let Some(member) = guard.as_mut().filter(|member| matches!(member.stage, Stage::Leaving(_))) {
            member.stage = Stage::Captured;
            self.board.enrolment(&member.pod.pod, uid, Some(member), None);
        }
    }

    /// Asks the proxy whether something may be done with a running pod now.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(super) async fn may(&self, uid: &Text, intent: Intent) -> Result<(), String> {
        let Some((_, link)) = self.current_link() else {
            return Err("no weft-proxy is connected on this node".to_owned());
        };
        link.may(uid.clone(), intent, self.config.ack_timeout).await.map_err(|error| error.told())
    }

    /// Nothing new is captured from now on; what was captured lives on.
    async fn uncapture(&self, uid: &Text, now: Instant) {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let Some(mut member) = guard.take() else { return };
        let outcome = blocking(move || {
            let outcome = member.capture.release();
            (member, outcome)
        })
        .await;
        let Ok((mut member, outcome)) = outcome else { return };
        match outcome {
            Ok(()) => {
                member.stage = Stage::Uncaptured(now);
                member.old = OldConnections::default();
                tracing::info!(pod = %member.pod.pod, "released: new connections are no longer captured");
                self.board.state(uid, PodState::Released);
            }
            Err(error) => {
                tracing::warn!(pod = %member.pod.pod, %error, "cannot stop capturing; trying again");
            }
        }
        *guard = Some(member);
    }

    /// The proxy accepts no more.
    async fn close(&self, uid: &Text) {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let Some(member) = guard.as_mut() else { return };
        if let Err(error) =
            self.remove_from_proxies(uid, RemoveCause::Unenrolled, self.config.ack_timeout).await
        {
            tracing::warn!(pod = %member.pod.pod, %error, "the proxy did not confirm the release");
        }
        member.capture.listeners = None;
        member.stage = Stage::Closed;
    }

    /// Takes a released pod's rules away once its last captured connection has ended.
    async fn finish(&self, uid: &Text) {
        let slot = self.slot(uid);
        let mut guard = slot.lock().await;
        let Some(member) = guard.take() else { return };
        let Ok((member, live)) = blocking(move || {
            let live = member.capture.live_connections();
            (member, live)
        })
        .await
        else {
            return;
        };
        if member.stage == Stage::Closed && live == 0 {
            remove(member).await;
            self.board.forget(uid);
        } else {
            *guard = Some(member);
        }
    }
}
