//! What is published: one table for the whole mesh with a version, and for each node the part of it that the node's
//! proxy needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_api::delta::Payload;
use weft_model::{Resource, ResourceName, Text};

use crate::translate::Node;

/// One version of the table. Immutable; each stream reads the newest.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    /// The version that `changes` begins at; 0: there was none.
    previous: u64,
    changes: Vec<ResourceName>,
    table: BTreeMap<ResourceName, Entry>,
    nodes: BTreeMap<Text, Node>,
}

#[derive(Clone, Debug)]
struct Entry {
    payload: Payload,
    audience: Audience,
}

/// Who needs a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Audience {
    /// Every proxy.
    All,
    /// Proxies with enrolled pods: these may call any Service and any pod.
    Mesh,
    /// Proxies with enrolled pods in a namespace: a consumer route holds for no others.
    Namespace(Text),
    /// No node's proxy: only those of Gateways that name it.
    Gateways,
}

impl Audience {
    fn of(resource: &Resource) -> Self {
        match resource {
            Resource::MeshConfig(_) => Self::All,
            Resource::Gateway(_) | Resource::Certificate(_) | Resource::BackendTls(_) => Self::Gateways,
            Resource::Route(route) if route.parents.is_empty() => Self::Gateways,
            Resource::Route(route) if route.parents.iter().all(|p| route.is_consumer_of(&p.service)) => {
                Self::Namespace(route.id.name.namespace.clone())
            }
            _ => Self::Mesh,
        }
    }
}

/// What a node needs, as far as it depends on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    namespaces: BTreeSet<Text>,
}

impl Needs {
    fn include(&self, audience: &Audience) -> bool {
        match audience {
            Audience::All => true,
            Audience::Mesh => !self.namespaces.is_empty(),
            Audience::Namespace(namespace) => self.namespaces.contains(namespace),
            Audience::Gateways => false,
        }
    }
}

/// Makes snapshots, one from the other.
#[derive(Debug)]
pub struct Publisher {
    resources: BTreeMap<ResourceName, Resource>,
    snapshot: Arc<Snapshot>,
}

impl Publisher {
    /// Nothing is published yet. The first version will be greater than `version`.
    pub fn new(version: u64) -> Self {
        Self { resources: BTreeMap::new(), snapshot: Arc::new(Snapshot { version, ..Snapshot::default() }) }
    }

    /// Publishes a translation. Returns `None` if nothing differs from what is published. Only what differs is
    /// encoded anew.
    ///
    /// # Errors
    /// A resource has no JSON form; nothing is published then.
    pub fn publish(
        &mut self,
        resources: BTreeMap<ResourceName, Resource>,
        nodes: &BTreeMap<Text, Node>,
    ) -> Result<Option<Arc<Snapshot>>, serde_json::Error> {
        let last = &self.snapshot;
        let mut changes: Vec<ResourceName> =
            self.resources.keys().filter(|name| !resources.contains_key(*name)).cloned().collect();
        let mut table = BTreeMap::new();
        for (name, resource) in &resources {
            let unchanged = self.resources.get(name).filter(|old| *old == resource);
            let entry = match unchanged.and_then(|_| last.table.get(name)) {
                Some(entry) => entry.clone(),
                None => {
                    changes.push(name.clone());
                    Entry { payload: Payload::of(resource)?.1, audience: Audience::of(resource) }
                }
            };
            table.insert(name.clone(), entry);
        }
        if changes.is_empty() && *nodes == last.nodes && !last.table.is_empty() {
            return Ok(None);
        }
        let previous = if last.table.is_empty() { 0 } else { last.version };
        let nodes = nodes.clone();
        self.snapshot = Arc::new(Snapshot { version: last.version + 1, previous, changes, table, nodes });
        self.resources = resources;
        Ok(Some(Arc::clone(&self.snapshot)))
    }

    /// The version that is published.
    pub fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// What is published.
    pub fn resources(&self) -> &BTreeMap<ResourceName, Resource> {
        &self.resources
    }
}

impl Snapshot {
    /// The version; greater than that of every snapshot before.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What runs where.
    pub fn nodes(&self) -> &BTreeMap<Text, Node> {
        &self.nodes
    }

    /// What a node needs.
    pub fn needs(&self, node: &str) -> Needs {
        let namespaces = self.nodes.get(node).map(|node| node.namespaces.clone()).unwrap_or_default();
        Needs { namespaces }
    }

    /// Everything a node needs.
    pub fn whole(&self, needs: &Needs) -> BTreeMap<ResourceName, Payload> {
        let needed = self.table.iter().filter(|(_, entry)| needs.include(&entry.audience));
        needed.map(|(name, entry)| (name.clone(), entry.payload.clone())).collect()
    }

    /// What changed for a node with these needs since version `since`: `None` removes. `None` altogether: `since` is
    /// not the version before, so the whole has to be compared.
    pub fn changes(&self, since: u64, needs: &Needs) -> Option<Vec<(ResourceName, Option<Payload>)>> {
        let change = |name: &ResourceName| {
            let entry = self.table.get(name).filter(|entry| needs.include(&entry.audience));
            (name.clone(), entry.map(|entry| entry.payload.clone()))
        };
        (since == self.previous && since != 0).then(|| self.changes.iter().map(change).collect())
    }
}

impl Snapshot {
    /// The table as JSON, whole or as far as a node needs it, for the admin endpoint.
    pub fn shown(&self, node: Option<&str>) -> serde_json::Value {
        let needs = node.map(|node| self.needs(node));
        let needed = |entry: &&Entry| needs.as_ref().is_none_or(|needs| needs.include(&entry.audience));
        let resources = self.table.values().filter(needed);
        let resources = resources.filter_map(|entry| serde_json::from_slice(entry.payload.bytes()).ok());
        serde_json::json!({"version": self.version, "resources": resources.collect::<Vec<serde_json::Value>>()})
    }
}

#[cfg(test)]
mod tests;
