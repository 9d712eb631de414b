//! Whether this node can enrol pods: the pods are known, the plugin is in place, a proxy is connected.

use tokio::sync::watch;

use super::install::Installed;
use super::pods::Pods;
use super::proxies::CurrentLink;

/// The three things that have to be there.
#[derive(Clone, Debug)]
pub(super) struct Health {
    pub(super) pods: Pods,
    pub(super) installed: watch::Receiver<Installed>,
    pub(super) link: watch::Receiver<CurrentLink>,
}

impl Health {
    /// What is missing, in words; `None`: nothing.
    pub(super) fn missing(&self) -> Option<String> {
        if self.pods.borrow().is_none() {
            return Some("the pods of this node are not known yet".into());
        }
        match &*self.installed.borrow() {
            Installed::Yes(_) => {}
            Installed::Unknown => return Some("weft-cni is being installed".into()),
            Installed::Removed => return Some("Weft is being uninstalled".into()),
            Installed::No(why) => return Some(format!("weft-cni is not installed: {why}")),
        }
        self.link.borrow().is_none().then(|| "no weft-proxy is connected on this node".into())
    }

    /// Waits until nothing is missing.
    pub(super) async fn ready(&self) {
        let mut now = self.clone();
        while self.missing().is_some() {
            tokio::select! {
                Ok(()) = now.pods.changed() => {}
                Ok(()) = now.installed.changed() => {}
                Ok(()) = now.link.changed() => {}
                // The agent is ending.
                else => std::future::pending().await,
            }
        }
    }
}
