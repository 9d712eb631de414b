//! `sessionAffinity: ClientIP`: a pod keeps the endpoint that it was balanced to until it has not called the Service port
//! for a while. Kept with the calling pod, shared by all workers, and only for Services that ask for it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ahash::HashMap;
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_model::ObjectName;
use weft_model::service::PortProtocol;

use super::balance::{Balancer, Picked};
use super::route::Target;

/// From so many kept endpoints on, those that have run out are forgotten.
const SWEEP_AT: usize = 64;

/// What a Service port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The Service port.
    pub port: (ObjectName, PortProtocol, u16),
    /// How long an endpoint is kept after its last use.
    pub timeout: Duration,
}

/// The endpoints that one pod keeps. Its addresses of the two families are two clients, as to kube-proxy.
#[derive(Debug, Default)]
pub struct Kept {
    endpoints: Mutex<HashMap<(ObjectName, PortProtocol, u16, Family), Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    endpoint: SocketAddr,
    until: Instant,
}

impl Kept {
    /// Picks as [`Balancer::pick`] does, but the endpoint that is kept for the target's Service port if there is one and it
    /// may be chosen. What is picked is kept from `now` on.
    pub fn pick<'a>(
        &self,
        balancer: &Balancer,
        target: &'a Target<'_>,
        dialled: IpAddr,
        excluded: &[SocketAddr],
        now: Instant,
    ) -> Option<Picked<'a>> {
        let Some(affinity) = &target.affinity else {
            return balancer.pick(&target.endpoints, dialled, excluded, now);
        };
        let (service, protocol, port) = affinity.port.clone();
        let family = if dialled.is_ipv4() { Family::V4 } else { Family::V6 };
        let mut endpoints = self.endpoints.lock();
        let key = (service, protocol, port, family);
        let kept = endpoints.get(&key).filter(|entry| now < entry.until).map(|entry| entry.endpoint);
        let again = kept.and_then(|kept| {
            let mut usable = target.endpoints.iter();
            usable.find(|one| one.address == kept && one.ready && !excluded.contains(&kept))
        });
        let picked = match again {
            Some(endpoint) => balancer.take(endpoint, now),
            None => balancer.pick(&target.endpoints, dialled, excluded, now)?,
        };
        if endpoints.len() >= SWEEP_AT {
            endpoints.retain(|_, entry| now < entry.until);
        }
        endpoints.insert(key, Entry { endpoint: picked.endpoint.address, until: now + affinity.timeout });
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use weft_model::service::{AppProtocol, Endpoint, TrafficPolicy};

    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

    fn target(port: u16, endpoints: &[(u8, bool)]) -> Target<'static> {
        let endpoint = |(last, ready): &(u8, bool)| Endpoint {
            ready: *ready,
            ..Endpoint::at(([10, 0, 0, *last], 80).into())
        };
        let service = ObjectName::new("shop", "cart");
        Target {
            tls: None,
            service: Some((service.clone(), port)),
            protocol: AppProtocol::Unspecified,
            endpoints: Cow::Owned(endpoints.iter().map(endpoint).collect()),
            affinity: Some(Affinity {
                port: (service, PortProtocol::Tcp, port),
                timeout: Duration::from_secs(10),
            }),
            traffic: None,
            policy: TrafficPolicy::Cluster,
            trouble: None,
        }
    }

    const ALL: [(u8, bool); 8] =
        [(1, true), (2, true), (3, true), (4, true), (5, true), (6, true), (7, true), (8, true)];

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_kept_until_it_was_not_used_for_the_timeout() {
        let (kept, target, start) = (Kept::default(), target(80, &ALL), Instant::now());
        // Several workers, each with a balancer of its own.
        let pick = |now| kept.pick(&Balancer::default(), &target, V4, &[], now).unwrap().endpoint.address;
        let first = pick(start);
        for second in 1..100 {
            assert_eq!(pick(start + Duration::from_secs(9 * second)), first);
        }
        let last = start + Duration::from_secs(9 * 99);
        let after: ahash::HashSet<_> = (1..100).map(|n| pick(last + Duration::from_secs(10 * n))).collect();
        assert!(after.len() > 1, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn ports_and_pods_have_each_their_own() {
        let balancer = Balancer::default();
        let pick = |kept: &Kept, port| {
            let target = target(port, &ALL);
            let picked = kept.pick(&balancer, &target, V4, &[], Instant::now()).unwrap();
            picked.endpoint.address
        };
        let by_pod: ahash::HashSet<_> = (0..100).map(|_| pick(&Kept::default(), 80)).collect();
        let one = Kept::default();
        let by_port: ahash::HashSet<_> = (1..100).map(|port| pick(&one, port)).collect();
        assert!(by_pod.len() > 1 && by_port.len() > 1, "{by_pod:?} {by_port:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_may_not_be_chosen_is_kept_no_longer() {
        let (kept, balancer, now) = (Kept::default(), Balancer::default(), Instant::now());
        let pick = |endpoints: &[(u8, bool)], excluded: &[SocketAddr]| {
            let target = target(80, endpoints);
            kept.pick(&balancer, &target, V4, excluded, now).map(|picked| picked.endpoint.address)
        };
        let first = pick(&[(1, true), (2, false)], &[]).unwrap();
        assert_eq!(pick(&[(1, true), (2, true)], &[]), Some(first));
        let other = pick(&[(1, false), (2, true)], &[]).unwrap();
        assert_ne!(other, first);
        assert_eq!(pick(&[(1, true), (2, true)], &[]), Some(other), "the new one is kept");
        assert_eq!(pick(&[(1, true), (2, true)], &[other]), Some(first), "it could not be reached");
        assert_eq!(pick(&[(1, true), (2, true)], &[]), Some(first));
        assert_eq!(pick(&[(3, false)], &[]), None);
    }
}
