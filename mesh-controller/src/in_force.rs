//! What Gateways' proxies have in force: what was published to them, as far as they have acknowledged it.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::gateway::Gateway;
use weft_model::{ObjectName, Resource, ResourceName};

use crate::inputs::InForce;
use crate::server::{GatewayProgress, Progress};

/// By Gateway.
type View = BTreeMap<ObjectName, InForce>;

/// What was published, and how far it has come.
#[derive(Debug)]
pub struct Acknowledged {
    progress: Arc<Progress>,
    /// Every Gateway as it was published, by the version that it was first published in, as far back as a proxy may
    /// still have it in force.
    published: BTreeMap<ObjectName, BTreeMap<u64, Arc<Gateway>>>,
    taken: View,
}

impl Acknowledged {
    /// Nothing has been published yet.
    pub fn new(progress: Arc<Progress>) -> Self {
        Self { progress, published: BTreeMap::new(), taken: View::new() }
    }

    /// Takes note of what is published from a version on.
    pub fn published(&mut self, version: u64, resources: &BTreeMap<ResourceName, Resource>) {
        let gateways = resources.values().filter_map(|resource| match resource {
            Resource::Gateway(gateway) => Some((&gateway.name, gateway)),
            _ => None,
        });
        let gateways: BTreeMap<_, _> = gateways.collect();
        self.published.retain(|name, _| gateways.contains_key(name));
        for (name, gateway) in gateways {
            let versions = self.published.entry(name.clone()).or_default();
            if versions.values().next_back().is_none_or(|last| **last != *gateway) {
                versions.insert(version, Arc::new(gateway.clone()));
            }
        }
    }

    /// What is in force now. Of a Gateway whose proxies have not been heard of there is nothing to be said.
    pub fn take(&mut self) -> View {
        self.taken = self.view();
        for (name, versions) in &mut self.published {
            let in_force = self.taken.get(name).and_then(|it| it.gateway.as_ref());
            let known = versions.iter().find(|(_, one)| in_force.is_some_and(|it| Arc::ptr_eq(it, one)));
            if let Some(first) = known.map(|(version, _)| *version) {
                versions.retain(|version, _| *version >= first);
            }
        }
        self.taken.clone()
    }

    /// Waits until something else is in force than was last taken. May be dropped at any time.
    pub async fn wait(&self) {
        let mut changes = self.progress.changes();
        while self.view() == self.taken {
            // The sender is held here.
            let _ = changes.changed().await;
        }
    }

    fn view(&self) -> View {
        let of = |(name, progress): (ObjectName, GatewayProgress)| {
            let versions = self.published.get(&name)?;
            let own = format!("Gateway/{name}");
            let trouble = progress.rejections.get(&own).cloned();
            let gateway = versions.range(..=progress.in_force).next_back();
            let gateway = gateway.map(|(_, gateway)| Arc::clone(gateway));
            (gateway.is_some() || trouble.is_some()).then_some((name, InForce { gateway, trouble }))
        };
        self.progress.by_gateway().into_iter().filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Peer;

    fn resources(generation: i64) -> BTreeMap<ResourceName, Resource> {
        let name = ObjectName::new("edge", "web");
        let gateway =
            Resource::Gateway(Gateway { name, generation, listeners: Vec::new(), client_certificate: None });
        BTreeMap::from([(gateway.name(), gateway)])
    }

    #[tokio::test]
    async fn gateway_is_in_force_as_every_proxy_that_serves_has_acknowledged_it() {
        let name = ObjectName::new("edge", "web");
        let progress = Arc::new(Progress::default());
        let mut acknowledged = Acknowledged::new(Arc::clone(&progress));
        let generation = |acknowledged: &mut Acknowledged| {
            acknowledged.take().get(&name).and_then(|it| Some(it.gateway.as_ref()?.generation))
        };
        acknowledged.published(5, &resources(1));
        let open = || progress.open(Peer::Gateway(ObjectName::new("edge", "web")));
        let one = open();
        assert_eq!(generation(&mut acknowledged), None);
        one.in_force(5);
        tokio::time::timeout(std::time::Duration::from_secs(5), acknowledged.wait()).await.unwrap();
        assert_eq!(generation(&mut acknowledged), Some(1));
        acknowledged.published(6, &resources(1));
        acknowledged.published(7, &resources(2));
        let other = open();
        one.in_force(7);
        assert_eq!(generation(&mut acknowledged), Some(2), "one that has just come up does not count");
        acknowledged.published(8, &resources(3));
        other.in_force(7);
        one.in_force(8);
        assert_eq!(generation(&mut acknowledged), Some(2), "the slower one counts");
        other.in_force(8);
        assert_eq!(generation(&mut acknowledged), Some(3));
        drop((one, other));
        assert_eq!(
            generation(&mut acknowledged),
            Some(3),
            "what was in force stays so for all that is known"
        );
    }
}
