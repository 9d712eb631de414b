//! Looks up the hosts outside the cluster that XBackends name: in the background, by the system's resolver, again and again.
//! No request waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_model::Text;

use crate::state::hosts::{Found, Hosts};
use crate::worker::Shared;

/// How soon what was found is asked for again. The system's resolver does not tell how long it holds.
const AGAIN: Duration = Duration::from_secs(30);
/// The same after a failure; after each further one in a row twice as long, until it is [`AGAIN`].
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// For so long what was found counts while it cannot be asked for again.
const STALE: Duration = Duration::from_secs(300);
/// How long one lookup is waited for. The resolver's own limits are lower, as a rule.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lookups at a time.
const AT_A_TIME: usize = 8;
/// So many addresses of a host are used.
const MOST: usize = 16;

/// One lookup's end.
type Answer = Result<Vec<IpAddr>, String>;

/// Looks up whatever the configuration names, for ever.
pub(crate) async fn run(shared: &Shared) -> Infallible {
    let mut changes = shared.snapshot.changes();
    let (mut lookups, mut asking) = (Lookups::default(), JoinSet::new());
    let hosts = Arc::clone(shared.snapshot.load().hosts());
    loop {
        changes.borrow_and_update();
        lookups.follow(shared.snapshot.load().hosts_to_look_up(), Instant::now());
        while asking.len() < AT_A_TIME
            && let Some(host) = lookups.take_due(Instant::now())
        {
            asking.spawn(look_up(host));
        }
        let next = lookups.next_due().filter(|_| asking.len() < AT_A_TIME);
        tokio::select! {
            Ok(()) = changes.changed() => {}
            Some(Ok((host, answer))) = asking.join_next() => {
                lookups.learn(&host, answer, Instant::now());
                hosts.store(Arc::new(lookups.found()));
            }
            () = until(next) => {}
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The dot behind the name keeps the resolver from trying it inside the cluster's domains.
async fn look_up(host: Text) -> (Text, Answer) {
    let asked = tokio::net::lookup_host((format!("{host}."), 0));
    let answer = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(found)) => {
            let addresses: BTreeSet<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
            Ok(addresses.into_iter().take(MOST).collect())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within the deadline".to_owned()),
    };
    (host, answer)
}

/// What is known of which host, and when it is asked for again.
#[derive(Debug, Default)]
struct Lookups(BTreeMap<Text, Host>);

#[derive(Debug)]
struct Host {
    /// `None`: it is being asked for.
    due: Option<Instant>,
    /// `None`: it has not been asked for yet.
    found: Option<Found>,
    /// When addresses were found last.
    renewed: Instant,
    /// How soon it is asked for again if the next lookup fails.
    wait: Duration,
}

impl Lookups {
    /// Takes up new hosts, and forgets those that nobody names any more.
    fn follow(&mut self, named: BTreeSet<Text>, now: Instant) {
        self.0.retain(|host, _| named.contains(host));
        for host in named {
            let new = || Host { due: Some(now), found: None, renewed: now, wait: AFTER_FAILURE };
            self.0.entry(host).or_insert_with(new);
        }
    }

    /// A host that is to be asked for now: the one that has waited longest, so that many slow ones keep no other from its turn.
    fn take_due(&mut self, now: Instant) -> Option<Text> {
        let due = |host: &Host| host.due.filter(|due| *due <= now);
        let waiting = self.0.iter_mut().filter_map(|(name, host)| Some((due(host)?, name, host)));
        let (_, name, host) = waiting.min_by_key(|(since, ..)| *since)?;
        host.due = None;
        Some(name.clone())
    }

    fn next_due(&self) -> Option<Instant> {
        self.0.values().filter_map(|host| host.due).min()
    }

    fn learn(&mut self, name: &str, answer: Answer, now: Instant) {
        let Some(host) = self.0.get_mut(name) else { return };
        let found = host.found.get_or_insert_default();
        match answer {
            Ok(addresses) => {
                *found = Found { addresses, trouble: None };
                (host.due, host.renewed, host.wait) = (Some(now + AGAIN), now, AFTER_FAILURE);
            }
            Err(trouble) => {
                if found.trouble.is_none() {
                    tracing::warn!(
                        host = name,
                        error = trouble,
                        "a host outside the cluster could not be looked up"
                    );
                }
                found.trouble = Some(trouble.into());
                host.due = Some(now + host.wait);
                host.wait = AGAIN.min(host.wait * 2);
                if now >= host.renewed + STALE {
                    found.addresses.clear();
                }
            }
        }
    }

    /// Those that have been asked for.
    fn found(&self) -> Hosts {
        self.0.iter().filter_map(|(name, host)| Some((name.clone(), host.found.clone()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> BTreeSet<Text> {
        names.iter().map(|name| Text::from(*name)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_asked_for_when_it_is_named_and_again_when_its_answer_is_old() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.follow(named(&["a.example"]), start);
        assert_eq!(lookups.take_due(start).as_deref(), Some("a.example"));
        assert_eq!((lookups.take_due(start), lookups.next_due()), (None, None), "one lookup at a time");
        let address: IpAddr = [203, 0, 113, 1].into();
        lookups.learn("a.example", Ok(vec![address]), start);
        assert_eq!(lookups.found()["a.example"].addresses, [address]);
        lookups.follow(named(&["a.example"]), start);
        assert_eq!((lookups.take_due(start), lookups.next_due()), (None, Some(start + AGAIN)));
        assert!(lookups.take_due(start + AGAIN).is_some());
        lookups.follow(BTreeSet::new(), start);
        lookups.learn("a.example", Ok(vec![address]), start);
        assert!(lookups.found().is_empty(), "nobody names it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_outlives_failures_for_a_while() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.follow(named(&["a.example"]), start);
        let address: IpAddr = [203, 0, 113, 1].into();
        lookups.learn("a.example", Ok(vec![address]), start);
        lookups.learn("a.example", Err("no such host".to_owned()), start + AGAIN);
        assert_eq!(lookups.next_due(), Some(start + AGAIN + AFTER_FAILURE));
        assert_eq!(lookups.found()["a.example"].addresses, [address]);
        lookups.learn("a.example", Err("no such host".to_owned()), start + STALE);
        let found = Found { addresses: Vec::new(), trouble: Some("no such host".into()) };
        assert_eq!(lookups.found()["a.example"], found);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_fails_is_asked_for_less_and_less_often() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.follow(named(&["a.example"]), start);
        for seconds in [5, 10, 20, 30, 30] {
            lookups.learn("a.example", Err("no such host".to_owned()), start);
            assert_eq!(lookups.next_due(), Some(start + Duration::from_secs(seconds)));
        }
        lookups.learn("a.example", Ok(Vec::new()), start);
        lookups.learn("a.example", Err("no such host".to_owned()), start);
        assert_eq!(lookups.next_due(), Some(start + AFTER_FAILURE));
    }

    #[tokio::test(start_paused = true)]
    async fn the_host_that_has_waited_longest_is_asked_for_first() {
        let (mut lookups, start) = (Lookups::default(), Instant::now());
        lookups.follow(named(&["z.example"]), start);
        let later = start + Duration::from_secs(1);
        lookups.follow(named(&["a.example", "z.example"]), later);
        assert_eq!(lookups.take_due(later).as_deref(), Some("z.example"));
        assert_eq!(lookups.take_due(later).as_deref(), Some("a.example"));
    }
}
