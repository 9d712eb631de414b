//! The proxies that are connected: mostly one; two while one replaces the other. Which of them is used.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_api::node::Standing;

use super::link::Link;

/// The proxy connection that is in use and its number.
pub(super) type CurrentLink = Option<(u64, Arc<Link>)>;

/// All connected proxies by the number of their connection, which grows.
#[derive(Debug, Default)]
pub(super) struct Proxies(BTreeMap<u64, Proxy>);

#[derive(Debug)]
struct Proxy {
    link: Arc<Link>,
    standing: Standing,
    /// When its process started: an old one may connect to a new agent last.
    born: Option<u64>,
    /// What it held when it connected has been taken over.
    adopted: bool,
}

impl Proxies {
    /// One has connected, and what it holds is being taken over.
    pub(super) fn join(&mut self, number: u64, link: Arc<Link>) {
        let pid = link.packets.peer().ok().and_then(|peer| u32::try_from(peer.pid()).ok());
        let born = pid.and_then(weft_runtime::process::started);
        self.0.insert(number, Proxy { link, standing: Standing::Starting, born, adopted: false });
    }

    /// What one held has been taken over.
    pub(super) fn adopted(&mut self, number: u64) {
        if let Some(proxy) = self.0.get_mut(&number) {
            proxy.adopted = true;
        }
    }

    /// Whether what some proxy holds is still being taken over.
    pub(super) fn is_adopting(&self) -> bool {
        self.0.values().any(|proxy| !proxy.adopted)
    }

    /// One has said what it can do.
    pub(super) fn stands(&mut self, number: u64, standing: Standing) {
        if let Some(proxy) = self.0.get_mut(&number) {
            proxy.standing = standing;
        }
    }

    /// One has gone.
    pub(super) fn leave(&mut self, number: u64) {
        self.0.remove(&number);
    }

    /// The one that pods are given to: a draining one is none.
    pub(super) fn best(&self) -> CurrentLink {
        let usable = self.0.iter().filter(|(_, proxy)| proxy.adopted && proxy.standing != Standing::Draining);
        let best = usable.max_by_key(|(number, proxy)| (proxy.standing, proxy.born, **number));
        best.map(|(number, proxy)| (*number, proxy.link.clone()))
    }

    /// Every one: each may have sockets of a pod.
    pub(super) fn all(&self) -> Vec<Arc<Link>> {
        self.0.values().map(|proxy| proxy.link.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use weft_runtime::fd::SeqPacket;

    use super::*;

    fn link() -> Arc<Link> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = weft_runtime::fd::bind_seqpacket(&path).unwrap();
        Arc::new(Link::new(SeqPacket::connect(&path).unwrap()))
    }

    fn used(proxies: &Proxies) -> Option<u64> {
        proxies.best().map(|(number, _)| number)
    }

    #[tokio::test]
    async fn the_newest_of_those_that_can_do_most_is_used_and_a_draining_one_never() {
        let mut proxies = Proxies::default();
        proxies.join(1, link());
        assert_eq!((used(&proxies), proxies.is_adopting()), (None, true));
        proxies.adopted(1);
        assert!(!proxies.is_adopting());
        assert_eq!(used(&proxies), Some(1), "a proxy alone is used before it has a configuration");
        proxies.stands(1, Standing::Ready);
        proxies.join(2, link());
        proxies.adopted(2);
        assert_eq!(used(&proxies), Some(1), "a new one waits for its configuration");
        proxies.stands(2, Standing::Ready);
        assert_eq!(used(&proxies), Some(2));
        proxies.join(3, link());
        proxies.adopted(3);
        proxies.stands(3, Standing::Draining);
        assert_eq!(used(&proxies), Some(2), "an old one that connects again is not used");
        proxies.leave(3);
        assert_eq!(used(&proxies), Some(2), "and takes nothing along when it goes");
        proxies.leave(2);
        assert_eq!(used(&proxies), Some(1));
        proxies.stands(1, Standing::Draining);
        assert_eq!(used(&proxies), None);
        assert_eq!(proxies.all().len(), 1);
    }
}
