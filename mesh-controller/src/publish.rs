//! What is published: one table for the whole mesh with a version, and for each node and each Gateway the part of it
//! that its proxies need.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use weft_api::delta::Payload;
use weft_model::{Identity, ObjectName, Resource, ResourceName, Text};

use crate::translate::{GatewayNeeds, Node};

/// One version of the table. Immutable; each stream reads the newest.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: u64,
    /// The version that `changes` begins at; 0: there was none.
    previous: u64,
    changes: Vec<ResourceName>,
    table: BTreeMap<ResourceName, Entry>,
    nodes: BTreeMap<Text, Node>,
    gateways: BTreeMap<ObjectName, Arc<GatewayNeeds>>,
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
            Resource::BackendTls(tls) if tls.in_mesh => Self::Mesh,
            Resource::Gateway(_) | Resource::Certificate(_) | Resource::BackendTls(_) => Self::Gateways,
            Resource::Route(route) if route.parents.is_empty() || route.for_gateways => Self::Gateways,
            Resource::Route(route) if route.parents.iter().all(|p| route.is_consumer_of(&p.service)) => {
                Self::Namespace(route.id.name.namespace.clone())
            }
            _ => Self::Mesh,
        }
    }
}

/// Whose proxy it is that a stream serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// A node's.
    Node(Text),
    /// A Gateway's; there may be several.
    Gateway(ObjectName),
}

impl Peer {
    /// The node, of a node's proxy.
    pub fn node(&self) -> Option<&Text> {
        match self {
            Self::Node(node) => Some(node),
            Self::Gateway(_) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node {node}"),
            Self::Gateway(gateway) => write!(f, "Gateway {gateway}"),
        }
    }
}

/// What a proxy needs, as far as it depends on whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Of a node with enrolled pods in these namespaces.
    Node(BTreeSet<Text>),
    /// Of a Gateway; `None`: there is no such Gateway, and what was sent before is taken back.
    Gateway(Option<Arc<GatewayNeeds>>),
}

impl Default for Needs {
    fn default() -> Self {
        Self::Node(BTreeSet::new())
    }
}

impl Needs {
    fn include(&self, name: &ResourceName, entry: &Entry) -> bool {
        match (self, &entry.audience) {
            (Self::Gateway(needs), _) => needs.as_ref().is_some_and(|needs| needs.names.contains(name)),
            (Self::Node(_), Audience::All) => true,
            (Self::Node(namespaces), Audience::Mesh) => !namespaces.is_empty(),
            (Self::Node(namespaces), Audience::Namespace(namespace)) => namespaces.contains(namespace),
            (Self::Node(_), Audience::Gateways) => false,
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
        gateways: &BTreeMap<ObjectName, GatewayNeeds>,
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
        let shared = |(name, needs): (&ObjectName, &GatewayNeeds)| {
            let known = last.gateways.get(name).filter(|known| ***known == *needs);
            (name.clone(), known.map_or_else(|| Arc::new(needs.clone()), Arc::clone))
        };
        let gateways = gateways.iter().map(shared).collect();
        if changes.is_empty() && *nodes == last.nodes && gateways == last.gateways && !last.table.is_empty() {
            return Ok(None);
        }
        let previous = if last.table.is_empty() { 0 } else { last.version };
        let nodes = nodes.clone();
        self.snapshot =
            Arc::new(Snapshot { version: last.version + 1, previous, changes, table, nodes, gateways });
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

    /// The identity of a Gateway's proxies; `None`: there is no such Gateway.
    pub fn gateway_identity(&self, gateway: &ObjectName) -> Option<&Identity> {
        self.gateways.get(gateway).map(|needs| &needs.identity)
    }

    /// Whether an identity is that of some Gateway's proxies.
    pub fn is_gateway(&self, identity: &Identity) -> bool {
        self.gateways.values().any(|needs| needs.identity == *identity)
    }

    /// What a proxy needs.
    pub fn needs(&self, of: &Peer) -> Needs {
        match of {
            Peer::Node(node) => {
                Needs::Node(self.nodes.get(node).map(|node| node.namespaces.clone()).unwrap_or_default())
            }
            Peer::Gateway(gateway) => Needs::Gateway(self.gateways.get(gateway).cloned()),
        }
    }

    /// Everything a proxy needs.
    pub fn whole(&self, needs: &Needs) -> BTreeMap<ResourceName, Payload> {
        let needed = self.table.iter().filter(|(name, entry)| needs.include(name, entry));
        needed.map(|(name, entry)| (name.clone(), entry.payload.clone())).collect()
    }

    /// What changed for a proxy with these needs since version `since`: `None` removes. `None` altogether: `since` is
    /// not the version before, so the whole has to be compared.
    pub fn changes(&self, since: u64, needs: &Needs) -> Option<Vec<(ResourceName, Option<Payload>)>> {
        let change = |name: &ResourceName| {
            let entry = self.table.get(name).filter(|entry| needs.include(name, entry));
            (name.clone(), entry.map(|entry| entry.payload.clone()))
        };
        (since == self.previous && since != 0).then(|| self.changes.iter().map(change).collect())
    }
}

impl Snapshot {
    /// The table as JSON, whole or as far as a proxy needs it, for the admin endpoint. Keys are left out.
    pub fn shown(&self, of: Option<&Peer>) -> serde_json::Value {
        let needs = of.map(|of| self.needs(of));
        let needed = |(name, entry): &(&ResourceName, &Entry)| {
            needs.as_ref().is_none_or(|needs| needs.include(name, entry))
        };
        let resources = self.table.iter().filter(needed);
        let resources = resources.filter_map(|(_, entry)| serde_json::from_slice(entry.payload.bytes()).ok());
        let resources = resources.map(|mut resource: serde_json::Value| {
            if let Some(resource) = resource.as_object_mut() {
                resource.remove("key_pem");
            }
            resource
        });
        serde_json::json!({"version": self.version, "resources": resources.collect::<Vec<serde_json::Value>>()})
    }
}

#[cfg(test)]
mod tests;
