//! Addresses that Gateways ask for and that load balancers still have time to give: until it is over nothing is said
//! against them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_model::ObjectName;

use crate::infrastructure::request;
use crate::inputs::Inputs;

/// A Gateway, and an address that it asks for by value.
pub type Asked = (ObjectName, IpAddr);

/// How long each of them has been asked for.
#[derive(Debug)]
pub struct Awaited {
    patience: Duration,
    since: BTreeMap<Asked, Instant>,
    /// When the next one's time is up.
    next: Option<Instant>,
}

impl Awaited {
    /// Nothing is asked for yet; load balancers have this long.
    pub const fn new(patience: Duration) -> Self {
        Self { patience, since: BTreeMap::new(), next: None }
    }

    /// Takes in what is asked for at `now`, and returns what there is still time for.
    pub fn step(&mut self, inputs: &Inputs, now: Instant) -> BTreeSet<Asked> {
        let specs =
            inputs.gateways.iter().filter_map(|(name, gateway)| Some((name, gateway.spec.as_ref().ok()?)));
        let asked = specs.flat_map(|(name, spec)| {
            let values = request::requests(spec).into_iter().filter_map(|request| request.value);
            values.map(|value| (name.clone(), value))
        });
        let begin = |asked: Asked| {
            let since = self.since.get(&asked).copied().unwrap_or(now);
            (asked, since)
        };
        self.since = asked.map(begin).collect();
        let end = |since: &Instant| *since + self.patience;
        let awaited: BTreeMap<_, _> = self
            .since
            .iter()
            .map(|(asked, since)| (asked, end(since)))
            .filter(|(_, end)| *end > now)
            .collect();
        self.next = awaited.values().min().copied();
        awaited.into_keys().cloned().collect()
    }

    /// Waits until the next one's time is up; for ever if there is none.
    pub async fn wait(&self) {
        match self.next {
            Some(next) => tokio::time::sleep_until(next.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_model::{MeshConfig, TrustDomain};

    use super::*;
    use crate::inputs::Object;

    fn asking(addresses: &[&str]) -> Inputs {
        let values: Vec<_> =
            addresses.iter().map(|value| json!({"type": "IPAddress", "value": value})).collect();
        let gateway = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"namespace": "edge", "name": "web"},
            "spec": {"gatewayClassName": "weft", "addresses": values, "listeners": []},
        });
        let mut inputs = Inputs::new(MeshConfig {
            trust_domain: TrustDomain("cluster.local".into()),
            cluster_domain: "cluster.local".into(),
            service_ranges: vec![],
            pod_ranges: vec![],
        });
        inputs.insert(&Object::decode(gateway).unwrap());
        inputs
    }

    #[test]
    fn each_address_has_its_time_from_when_it_is_asked_for() {
        let mut awaited = Awaited::new(Duration::from_secs(10));
        #[allow(clippy::disallowed_methods, reason = "any time will do")]
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut step = |addresses: &[&str], seconds| {
            let left = awaited.step(&asking(addresses), at(seconds));
            let left: Vec<_> = left.into_iter().map(|(_, address)| address.to_string()).collect();
            (left.join(" "), awaited.next.map(|next| (next - begin).as_secs()))
        };
        assert_eq!(step(&["192.0.2.1"], 0), ("192.0.2.1".to_owned(), Some(10)));
        assert_eq!(step(&["192.0.2.1", "192.0.2.2"], 4), ("192.0.2.1 192.0.2.2".to_owned(), Some(10)));
        assert_eq!(step(&["192.0.2.1", "192.0.2.2"], 10), ("192.0.2.2".to_owned(), Some(14)));
        assert_eq!(step(&["192.0.2.1"], 11), (String::new(), None));
        // What was given up is asked for anew.
        assert_eq!(step(&["192.0.2.2"], 20), ("192.0.2.2".to_owned(), Some(30)));
    }
}
