//! What this proxy tells the controller of its node's pods: which it serves, and why others are not served. The
//! controller has callers use tunnels to the former, and knows by this when a namespace is wholly in the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use weft_api::proto;
use weft_model::Text;

/// Reports that fall into this time are told as one: pods often come in groups.
const TOGETHER: Duration = Duration::from_millis(50);

/// One report; each replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// UIDs of the pods whose listening sockets were adopted and whose rules are in force.
    pub served: BTreeSet<Text>,
    /// UIDs of pods that have left the mesh, while connections of theirs go on here: what these call is still needed.
    pub parting: BTreeSet<Text>,
    /// Pods that are to be enrolled and cannot be, by UID, with the agent's reason.
    pub unserved: BTreeMap<Text, String>,
}

/// The newest report; `None` until the agent has sent its first whole list of pods. Before that, pods that another
/// process of this node served are only not known yet.
#[derive(Debug)]
pub struct Served(watch::Sender<Option<Arc<Report>>>);

impl Default for Served {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Served {
    /// Takes the place of the report before; returns whether it says something else.
    pub fn report(&self, report: Report) -> bool {
        self.0.send_if_modified(|last| {
            let changed = last.as_deref() != Some(&report);
            if changed {
                *last = Some(Arc::new(report));
            }
            changed
        })
    }

    /// The newest report, as soon as there is one, and all later ones.
    pub fn reports(&self) -> Reports {
        let mut reports = self.0.subscribe();
        reports.mark_changed();
        Reports { reports, due: None }
    }
}

/// The reports as one stream to the controller tells them.
#[derive(Debug)]
pub struct Reports {
    reports: watch::Receiver<Option<Arc<Report>>>,
    /// When the one that is there is told.
    due: Option<Instant>,
}

impl Reports {
    /// The next one. May be dropped and called again without losing any.
    pub async fn next(&mut self) -> proto::Served {
        loop {
            let due = match self.due {
                Some(due) => due,
                // The sender lives as long as the process.
                None if self.reports.changed().await.is_err() => std::future::pending().await,
                None => *self.due.insert(Instant::now() + TOGETHER),
            };
            tokio::time::sleep_until(due).await;
            self.due = None;
            if let Some(report) = self.reports.borrow_and_update().as_deref() {
                return report.to_message();
            }
        }
    }
}

impl Report {
    /// As it travels.
    pub fn to_message(&self) -> proto::Served {
        let unserved =
            |(uid, why): (&Text, &String)| proto::Unserved { pod_uid: uid.to_string(), why: why.clone() };
        proto::Served {
            pod_uids: self.served.iter().map(ToString::to_string).collect(),
            unserved: self.unserved.iter().map(unserved).collect(),
            parting_pod_uids: self.parting.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn report(served: &[&str]) -> Report {
        Report { served: served.iter().map(|uid| Text::from(*uid)).collect(), ..Report::default() }
    }

    #[tokio::test]
    async fn changes_close_together_are_told_as_one_and_none_is_lost() {
        let served = Served::default();
        let mut reports = served.reports();
        served.report(report(&["a"]));
        // As when a message of the controller comes in between.
        assert!(reports.next().now_or_never().is_none());
        served.report(report(&["a", "b"]));
        assert!(reports.next().now_or_never().is_none());
        assert_eq!(reports.next().await.pod_uids, ["a", "b"]);
        served.report(report(&["a", "b"]));
        assert!(!reports.reports.has_changed().unwrap(), "nothing is new");
        served.report(report(&[]));
        assert!(reports.next().await.pod_uids.is_empty());
        assert!(
            served.reports().next().await.pod_uids.is_empty(),
            "another stream begins with what is known"
        );
    }
}
