//! What the balancer prefers.

use super::*;

const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 100));

fn endpoint(last: u8, ready: bool) -> Endpoint {
    Endpoint { ready, ..Endpoint::at(([10, 0, 0, last], 80).into()) }
}

fn address(last: u8) -> SocketAddr {
    ([10, 0, 0, last], 80).into()
}

/// How often each of 1,000 picks fell on each endpoint, when each request ends before the next begins.
fn shares(balancer: &Balancer, endpoints: &[Endpoint], now: Instant) -> HashMap<SocketAddr, u32> {
    let mut shares = HashMap::default();
    for _ in 0..1_000 {
        *shares.entry(balancer.pick(endpoints, V4, &[], now).unwrap().endpoint.address).or_default() += 1;
    }
    shares
}

#[test]
fn no_ready_endpoint_is_none() {
    let balancer = Balancer::default();
    assert!(balancer.pick(&[], V4, &[], Instant::now()).is_none());
    assert!(balancer.pick(&[endpoint(1, false)], V4, &[], Instant::now()).is_none());
}

#[test]
fn endpoints_not_ready_or_excluded_are_never_picked() {
    let endpoints = [endpoint(1, true), endpoint(2, false), endpoint(3, true), endpoint(4, true)];
    let balancer = Balancer::seeded(1);
    for _ in 0..1_000 {
        let picked = balancer.pick(&endpoints, V4, &[address(3)], Instant::now()).unwrap();
        assert!([address(1), address(4)].contains(&picked.endpoint.address));
    }
}

#[test]
fn endpoints_of_the_dialled_family_go_first() {
    let six = |last| Endpoint::at(([0xfd00, 0, 0, 0, 0, 0, 0, last], 80).into());
    let endpoints = [endpoint(1, true), six(1), endpoint(2, true), six(2)];
    let balancer = Balancer::seeded(1);
    let dialled: IpAddr = ([0xfd00, 0, 0, 0, 0, 0, 0, 9]).into();
    for _ in 0..1_000 {
        assert!(balancer.pick(&endpoints, V4, &[], Instant::now()).unwrap().endpoint.address.is_ipv4());
        assert!(balancer.pick(&endpoints, dialled, &[], Instant::now()).unwrap().endpoint.address.is_ipv6());
    }
    let excluded = [address(1), address(2)];
    assert!(balancer.pick(&endpoints, V4, &excluded, Instant::now()).unwrap().endpoint.address.is_ipv6());
    assert!(balancer.pick(&endpoints[..1], dialled, &[], Instant::now()).is_some());
}

#[test]
fn equal_endpoints_get_equal_shares() {
    let endpoints = [endpoint(1, true), endpoint(2, true), endpoint(3, true), endpoint(4, true)];
    let shares = shares(&Balancer::seeded(1), &endpoints, Instant::now());
    assert!(endpoints.iter().all(|e| (200..300).contains(&shares[&e.address])), "{shares:?}");
}

#[test]
fn requests_in_flight_push_new_ones_to_the_other_endpoint() {
    let endpoints = [endpoint(1, true), endpoint(2, true)];
    let balancer = Balancer::seeded(1);
    let now = Instant::now();
    let held: Vec<_> = (0..100).map(|_| balancer.pick(&endpoints, V4, &[], now).unwrap()).collect();
    let first = held.iter().filter(|p| p.endpoint.address == address(1)).count();
    assert_eq!(first, 50);
}

#[test]
fn a_failed_endpoint_is_avoided_and_tried_again_when_that_is_forgotten() {
    let endpoints = [endpoint(1, true), endpoint(2, true)];
    let balancer = Balancer::seeded(1);
    let now = Instant::now();
    balancer.pick(&endpoints[..1], V4, &[], now).unwrap().in_flight.failed(now);
    assert_eq!(shares(&balancer, &endpoints, now).get(&address(1)), None);
    let later = now + 20 * DECAY;
    assert!(shares(&balancer, &endpoints, later)[&address(1)] > 300);
}

#[test]
fn a_slow_endpoint_gets_less_than_a_fast_one() {
    let endpoints = [endpoint(1, true), endpoint(2, true), endpoint(3, true)];
    let balancer = Balancer::seeded(1);
    let now = Instant::now();
    for (index, milliseconds) in [(0, 100), (1, 1), (2, 1)] {
        let picked = balancer.pick(&endpoints[index..=index], V4, &[], now).unwrap();
        picked.in_flight.answered(Duration::from_millis(milliseconds), now);
    }
    assert_eq!(shares(&balancer, &endpoints, now).get(&address(1)), None);
}

#[test]
fn endpoints_of_the_past_are_forgotten() {
    let balancer = Balancer::seeded(1);
    let now = Instant::now();
    for index in 0..SWEEP_AT as u32 {
        let [_, _, c, d] = index.to_be_bytes();
        let address = ([10, 1, c, d], 80).into();
        balancer.pick(&[Endpoint::at(address)], V4, &[], now).unwrap();
    }
    balancer.pick(&[endpoint(1, true)], V4, &[], now + 10 * DECAY).unwrap();
    assert_eq!(balancer.loads.borrow().len(), 1);
}
