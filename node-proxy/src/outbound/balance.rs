//! Which endpoint: power of two choices on latency (peak EWMA) times requests in flight, among the ready ones.
//! Every worker judges by what it saw itself, so nothing is shared or locked.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ahash::HashMap;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;
use weft_model::service::Endpoint;

/// Over which time a latency seen is forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint that was never tried is taken to take, in microseconds: little, so that it is tried.
const UNKNOWN_LATENCY: f64 = 1_000.0;
/// What a failed connect counts as, in microseconds: others are preferred until it is forgotten.
const FAILED_LATENCY: f64 = 10_000_000.0;
/// From so many known endpoints on, those not used for long are forgotten.
const SWEEP_AT: usize = 1_024;

/// What one worker knows of the endpoints it called.
#[derive(Debug)]
pub struct Balancer {
    loads: RefCell<HashMap<SocketAddr, Rc<Load>>>,
    sweep_at: Cell<usize>,
    random: RefCell<SmallRng>,
}

/// What is known of one endpoint.
#[derive(Debug)]
struct Load {
    in_flight: Cell<u32>,
    /// Microseconds.
    latency: Cell<f64>,
    /// When `latency` was last renewed.
    renewed: Cell<Instant>,
}

/// An endpoint that was picked, and its being counted as busy until the guard is dropped.
#[derive(Debug)]
pub struct Picked<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// Keep this until the response's last byte or the connection's end.
    pub in_flight: InFlight,
}

/// Keeps a request or connection counted as in flight on its endpoint until dropped.
#[derive(Debug)]
pub struct InFlight {
    load: Rc<Load>,
}

impl Default for Balancer {
    fn default() -> Self {
        Self::seeded(rand::random())
    }
}

impl Balancer {
    fn seeded(seed: u64) -> Self {
        use rand::SeedableRng;
        Self {
            loads: RefCell::default(),
            sweep_at: Cell::new(SWEEP_AT),
            random: RefCell::new(SmallRng::seed_from_u64(seed)),
        }
    }

    /// Picks a ready endpoint that is not in `excluded` (the ones already tried for this request), of the same address
    /// family as `dialled` if there is one: as a Service forwards, and applications may listen in one family only.
    /// `None`: there is none.
    pub fn pick<'a>(
        &self,
        endpoints: &'a [Endpoint],
        dialled: IpAddr,
        excluded: &[SocketAddr],
        now: Instant,
    ) -> Option<Picked<'a>> {
        let (first, second) = self.candidates(endpoints, dialled, excluded)?;
        let first_load = self.load(first.address, now);
        let (endpoint, load) = match second {
            None => (first, first_load),
            Some(second) => {
                let second_load = self.load(second.address, now);
                if second_load.cost(now) < first_load.cost(now) {
                    (second, second_load)
                } else {
                    (first, first_load)
                }
            }
        };
        Some(Picked::of(endpoint, load))
    }

    /// Takes `endpoint`, which was chosen otherwise, and counts it as busy.
    pub fn take<'a>(&self, endpoint: &'a Endpoint, now: Instant) -> Picked<'a> {
        Picked::of(endpoint, self.load(endpoint.address, now))
    }

    /// Two different eligible endpoints, or the only one, each equally likely.
    fn candidates<'a>(
        &self,
        endpoints: &'a [Endpoint],
        dialled: IpAddr,
        excluded: &[SocketAddr],
    ) -> Option<(&'a Endpoint, Option<&'a Endpoint>)> {
        let usable = || endpoints.iter().filter(|e| e.ready && !excluded.contains(&e.address));
        let alike = |e: &&Endpoint| e.address.is_ipv4() == dialled.is_ipv4();
        let any = !usable().any(|e| alike(&e));
        let eligible = || usable().filter(|e| any || alike(e));
        let count = eligible().count();
        if count <= 1 {
            return eligible().next().map(|only| (only, None));
        }
        let random = &mut *self.random.borrow_mut();
        let first = random.random_range(0..count);
        let other = random.random_range(0..count - 1);
        let second = if other < first { other } else { other + 1 };
        Some((eligible().nth(first)?, eligible().nth(second)))
    }

    fn load(&self, address: SocketAddr, now: Instant) -> Rc<Load> {
        let mut loads = self.loads.borrow_mut();
        if let Some(load) = loads.get(&address) {
            return Rc::clone(load);
        }
        if loads.len() >= self.sweep_at.get() {
            loads.retain(|_, load| Rc::strong_count(load) > 1 || load.idle(now) < 6 * DECAY);
            self.sweep_at.set(SWEEP_AT.max(2 * loads.len()));
        }
        let load = Rc::new(Load::new(now));
        loads.insert(address, Rc::clone(&load));
        load
    }
}

impl<'a> Picked<'a> {
    fn of(endpoint: &'a Endpoint, load: Rc<Load>) -> Self {
        load.in_flight.set(load.in_flight.get() + 1);
        Self { endpoint, in_flight: InFlight { load } }
    }
}

impl Load {
    fn new(now: Instant) -> Self {
        Self { in_flight: Cell::new(0), latency: Cell::new(UNKNOWN_LATENCY), renewed: Cell::new(now) }
    }

    fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.renewed.get())
    }

    /// How much of the old value still counts.
    fn memory(&self, now: Instant) -> f64 {
        (-self.idle(now).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// A slow endpoint's latency fades while nobody asks it, so that it is tried again.
    fn cost(&self, now: Instant) -> f64 {
        let in_flight = f64::from(self.in_flight.get());
        (self.latency.get() * self.memory(now)).max(1.0) * (in_flight + 1.0)
    }

    /// Worse news count at once, better news little by little.
    fn renew(&self, seen: f64, now: Instant) {
        let memory = self.memory(now);
        let mixed = self.latency.get() * memory + seen * (1.0 - memory);
        self.latency.set(seen.max(mixed));
        self.renewed.set(now);
    }
}

impl InFlight {
    /// The endpoint answered (the response's head came, or the connection stood) after `latency`.
    pub fn answered(&self, latency: Duration, now: Instant) {
        self.load.renew(latency.as_secs_f64() * 1e6, now);
    }

    /// The endpoint could not be reached.
    pub fn failed(&self, now: Instant) {
        self.load.renew(FAILED_LATENCY, now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.set(self.load.in_flight.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;
