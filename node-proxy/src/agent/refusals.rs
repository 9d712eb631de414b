//! Refused callers in plaintext, gathered so that the agent hears of the first at once and of others at intervals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use weft_api::node::ToAgent;
use weft_model::Text;

/// How often one port of a pod is told of.
const INTERVAL: Duration = Duration::from_secs(60);
/// Ports that are kept in mind; of further ones nothing is told but in log and metrics.
const MOST: usize = 4096;

/// What has not been told yet, and when something was told last.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    ports: BTreeMap<(Text, u16), Refused>,
}

#[derive(Debug)]
struct Refused {
    from: SocketAddr,
    count: u64,
    told: Option<Instant>,
}

impl Refusals {
    pub(crate) fn note(&mut self, uid: &Text, port: u16, from: SocketAddr) {
        if let Some(known) = self.ports.get_mut(&(uid.clone(), port)) {
            known.count += 1;
            known.from = from;
        } else if self.ports.len() < MOST {
            self.ports.insert((uid.clone(), port), Refused { from, count: 1, told: None });
        }
    }

    /// What is to be told at `now`; it counts as told. Ports where nothing happened for an interval are forgotten.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<ToAgent> {
        self.ports.retain(|_, refused| refused.count > 0 || refused.due_at().is_some_and(|due| due > now));
        let mut messages = Vec::new();
        for ((uid, port), refused) in &mut self.ports {
            if refused.count > 0 && refused.due_at().is_none_or(|due| due <= now) {
                let Refused { from, count, .. } = *refused;
                messages.push(ToAgent::Refused { uid: uid.clone(), port: *port, from, count });
                refused.count = 0;
                refused.told = Some(now);
            }
        }
        messages
    }

    /// When something that waits becomes due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.ports.values().filter(|refused| refused.count > 0).filter_map(Refused::due_at).min()
    }
}

impl Refused {
    /// `None`: at once.
    fn due_at(&self) -> Option<Instant> {
        self.told.map(|told| told + INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn told(refusals: &mut Refusals, now: Instant) -> Vec<(u16, u16, u64)> {
        let of = |message| match message {
            ToAgent::Refused { port, from, count, .. } => (port, from.port(), count),
            other => panic!("{other:?}"),
        };
        refusals.due(now).into_iter().map(of).collect()
    }

    #[test]
    fn first_refusal_is_told_at_once_and_more_at_intervals() {
        let (mut refusals, uid, start) = (Refusals::default(), Text::from("u"), Instant::now());
        refusals.note(&uid, 80, from(1));
        assert_eq!(told(&mut refusals, start), [(80, 1, 1)]);
        for n in 2..=4 {
            refusals.note(&uid, 80, from(n));
        }
        refusals.note(&uid, 81, from(9));
        assert_eq!(told(&mut refusals, start + INTERVAL / 2), [(81, 9, 1)]);
        assert_eq!(refusals.next_due(), Some(start + INTERVAL));
        assert_eq!(told(&mut refusals, start + INTERVAL), [(80, 4, 3)]);
        assert_eq!(refusals.next_due(), None);
    }

    #[test]
    fn what_nobody_calls_any_more_is_forgotten() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        for n in 0..2 * MOST {
            refusals.note(&format!("u{n}").into(), 80, from(1));
        }
        assert_eq!(told(&mut refusals, start).len(), MOST);
        assert!(told(&mut refusals, start + INTERVAL).is_empty());
        assert!(refusals.ports.is_empty());
    }
}
