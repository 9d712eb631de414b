//! The proxy's side of the config stream: the resources in force, and those that did not decode.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::gateway::{Attachment, ListenerId};
use weft_model::route::{HttpRule, Match, Parent, Refusal, Route, RouteKind, Rules, TcpRule, TlsRule};
use weft_model::{Resource, ResourceName};

use super::{BUCKETS, DeltaError, bucket, digest};
use crate::proto::{self, Ack, ConfigResponse, Rejection, Upsert};

/// Everything a proxy was sent. Outlives its streams.
#[derive(Debug)]
pub struct Replica {
    buckets: Vec<Bucket>,
    rejected: BTreeMap<ResourceName, String>,
    version: u64,
    open: Option<Open>,
}

/// A publication that is now held, for the proxy to put in force and then acknowledge.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Its version.
    pub version: u64,
    /// What differs from before, at most once per name.
    pub changes: Vec<Change>,
    /// Every resource held that did not decode, also from before.
    pub rejections: Vec<Rejection>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A resource is new or changed. For a route that did not decode this is one that refuses on its Service ports,
    /// which travel beside the payload.
    Set(ResourceName, Arc<Resource>),
    /// A resource is gone.
    Removed(ResourceName),
    /// A resource did not decode, and nothing could be made of it: its last good version is gone, and what depends
    /// on it is to be refused.
    Refused {
        /// Its name.
        name: ResourceName,
        /// Why it did not decode.
        message: String,
    },
}

#[derive(Debug, Default)]
struct Bucket {
    digest: u64,
    entries: BTreeMap<ResourceName, Entry>,
}

#[derive(Debug)]
struct Entry {
    digest: u64,
    /// `None`: did not decode, and nothing could be made of it.
    resource: Option<Arc<Resource>>,
}

/// A publication of which the last message is still to come.
#[derive(Debug, Default)]
struct Open {
    version: u64,
    reset: Vec<usize>,
    removals: Vec<ResourceName>,
    upserts: BTreeMap<ResourceName, Upsert>,
}

impl Default for Replica {
    fn default() -> Self {
        let buckets = std::iter::repeat_with(Bucket::default).take(BUCKETS).collect();
        Self { buckets, rejected: BTreeMap::new(), version: 0, open: None }
    }
}

impl Replica {
    /// Begins a stream: forgets a publication that the stream before left unfinished, and returns the digests to
    /// greet with (none if nothing is held).
    pub fn connect(&mut self) -> Vec<u64> {
        self.open = None;
        if self.buckets.iter().all(|bucket| bucket.entries.is_empty()) {
            return Vec::new();
        }
        self.digests()
    }

    /// The digests of all buckets.
    pub fn digests(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.digest).collect()
    }

    /// The version held; 0: none yet.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A resource.
    pub fn resource(&self, name: &ResourceName) -> Option<&Arc<Resource>> {
        self.buckets.get(bucket(name))?.entries.get(name)?.resource.as_ref()
    }

    /// All resources held, in no particular order.
    pub fn resources(&self) -> impl Iterator<Item = (&ResourceName, &Arc<Resource>)> {
        let entries = self.buckets.iter().flat_map(|bucket| &bucket.entries);
        entries.filter_map(|(name, entry)| Some((name, entry.resource.as_ref()?)))
    }

    /// Takes one message. `None`: more of this publication is to come; nothing has changed yet.
    ///
    /// # Errors
    /// The controller broke the rules of the stream; nothing has changed.
    pub fn apply(&mut self, message: ConfigResponse) -> Result<Option<Applied>, DeltaError> {
        let mut open = match self.open.take() {
            Some(open) if open.version != message.version => {
                return Err(DeltaError::Interleaved { open: open.version, new: message.version });
            }
            Some(open) => open,
            None => Open { version: message.version, ..Open::default() },
        };
        for index in message.reset_buckets {
            match usize::try_from(index) {
                Ok(bucket) if bucket < BUCKETS => open.reset.push(bucket),
                _ => return Err(DeltaError::Bucket(index)),
            }
        }
        let named = |name: String| ResourceName(name.into());
        open.removals.extend(message.removals.into_iter().map(named));
        open.upserts.extend(message.upserts.into_iter().map(|upsert| (named(upsert.name.clone()), upsert)));
        if message.complete {
            return Ok(Some(self.close(open)));
        }
        self.open = Some(open);
        Ok(None)
    }

    fn close(&mut self, open: Open) -> Applied {
        let mut removals = open.removals;
        for bucket in open.reset.into_iter().filter_map(|index| self.buckets.get(index)) {
            let gone = bucket.entries.keys().filter(|name| !open.upserts.contains_key(*name));
            removals.extend(gone.cloned());
        }
        removals.retain(|name| !open.upserts.contains_key(name));
        let mut changes: Vec<_> = removals.into_iter().filter_map(|name| self.remove(name)).collect();
        changes.extend(open.upserts.into_iter().filter_map(|(name, upsert)| self.upsert(name, upsert)));
        self.version = open.version;
        let rejections = self.rejected.iter();
        let rejections = rejections
            .map(|(name, message)| Rejection { name: name.to_string(), message: message.clone() })
            .collect();
        Applied { version: open.version, changes, rejections }
    }

    fn remove(&mut self, name: ResourceName) -> Option<Change> {
        let bucket = self.buckets.get_mut(bucket(&name))?;
        let entry = bucket.entries.remove(&name)?;
        bucket.digest ^= entry.digest;
        self.rejected.remove(&name);
        Some(Change::Removed(name))
    }

    fn upsert(&mut self, name: ResourceName, upsert: Upsert) -> Option<Change> {
        let Upsert { resource: payload, parents, listeners, .. } = upsert;
        let digest = digest(&name, &payload);
        let bucket = self.buckets.get_mut(bucket(&name))?;
        let before = bucket.entries.remove(&name);
        bucket.digest ^= digest ^ before.as_ref().map_or(0, |entry| entry.digest);
        let unchanged = before.as_ref().is_some_and(|entry| entry.digest == digest);
        if let (true, Some(entry)) = (unchanged, before.as_ref().map(|entry| entry.resource.clone())) {
            bucket.entries.insert(name, Entry { digest, resource: entry });
            return None;
        }
        let (resource, error) = match decode(&name, &payload) {
            Ok(resource) => (Some(Arc::new(resource)), None),
            Err(error) => (refusing_route(&name, parents, listeners, &error).map(Arc::new), Some(error)),
        };
        bucket.entries.insert(name.clone(), Entry { digest, resource: resource.clone() });
        match &error {
            Some(message) => self.rejected.insert(name.clone(), message.clone()),
            None => self.rejected.remove(&name),
        };
        Some(match resource {
            Some(resource) => Change::Set(name, resource),
            None => Change::Refused { name, message: error.unwrap_or_default() },
        })
    }
}

impl Applied {
    /// What to answer once the changes are in force.
    pub fn ack(&self) -> Ack {
        Ack { version: self.version, rejections: self.rejections.clone() }
    }
}

fn decode(name: &ResourceName, payload: &[u8]) -> Result<Resource, String> {
    let resource: Resource = serde_json::from_slice(payload)
        .map_err(|error| format!("this proxy cannot decode it: {error}; upgrade the proxy"))?;
    let own = resource.name();
    if own == *name { Ok(resource) } else { Err(format!("it was sent as {name} but calls itself {own}")) }
}

fn attachment(of: proto::Attachment) -> Option<Attachment> {
    let listener_set = Some(of.listener_set).filter(|set| !set.is_empty());
    let listener_set = listener_set.map(|set| set.parse()).transpose().ok()?;
    Some(Attachment {
        gateway: of.gateway.parse().ok()?,
        listener: ListenerId { listener_set, name: of.listener.into() },
        hostnames: of.hostnames.into_iter().map(Into::into).collect(),
    })
}

/// A route that refuses everything on the Service ports and at the listeners that the broken one covers: left out, its requests would go
/// where another route, or none, sends them. It needs nothing of what could not be read. `None`: it is no route, or
/// one of a kind that this proxy does not know.
fn refusing_route(
    name: &ResourceName,
    parents: Vec<proto::Parent>,
    listeners: Vec<proto::Attachment>,
    error: &str,
) -> Option<Resource> {
    let id = name.route_id()?;
    let parents = parents.into_iter().filter_map(|parent| {
        let service = parent.service.parse().ok()?;
        Some(Parent { service, port: u16::try_from(parent.port).ok()?, explicit_port: parent.explicit_port })
    });
    let refusal = Some(Refusal { message: error.into() });
    let rules = match id.kind {
        RouteKind::Grpc | RouteKind::Http => {
            Rules::Http(vec![HttpRule { matches: vec![Match::default()], refusal, ..HttpRule::default() }])
        }
        RouteKind::Tls => {
            Rules::Tls(vec![TlsRule { name: None, hostnames: Vec::new(), backends: Vec::new(), refusal }])
        }
        RouteKind::Tcp => Rules::Tcp(vec![TcpRule { name: None, backends: Vec::new(), refusal }]),
        RouteKind::Udp => Rules::Udp(vec![TcpRule { name: None, backends: Vec::new(), refusal }]),
    };
    // The oldest of all: it must win a tie.
    let parents = parents.collect();
    Some(Resource::Route(Route {
        id,
        generation: 0,
        created: i64::MIN,
        parents,
        listeners: listeners.into_iter().filter_map(attachment).collect(),
        for_gateways: name.is_for_gateways(),
        rules,
    }))
}
