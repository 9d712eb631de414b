//! The controller's side of the config stream for one proxy: what the proxy was sent, and what it still has to be.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use weft_model::ResourceName;
use weft_model::route::Parent;

use super::{BUCKETS, DeltaError, MAX_MESSAGE, Payload, bucket};
use crate::proto::{self, Ack, ConfigResponse, Rejection, Upsert};

/// How many publications may be under way before the first of them is acknowledged.
const WINDOW: usize = 2;

/// One proxy's stream. Gone with the stream: another begins with the proxy's next greeting.
#[derive(Debug)]
pub struct Publisher {
    /// What the proxy says it holds; `None` once something was published.
    greeting: Option<Vec<u64>>,
    /// Digests of everything the proxy was sent or holds anyway.
    sent: BTreeMap<ResourceName, u64>,
    /// Changes that wait for the window, newest per name.
    waiting: BTreeMap<ResourceName, Option<Payload>>,
    /// The version that `waiting` leads to.
    waiting_version: u64,
    last_sent: u64,
    in_flight: VecDeque<u64>,
    in_force: u64,
    rejections: Vec<Rejection>,
}

impl Publisher {
    /// Begins with a proxy's greeting: its bucket digests, or none if it holds nothing.
    ///
    /// # Errors
    /// Another number of digests than 0 or 256.
    pub fn hello(digests: &[u64]) -> Result<Self, DeltaError> {
        let greeting = match digests.len() {
            0 => vec![0; BUCKETS],
            BUCKETS => digests.to_vec(),
            other => return Err(DeltaError::Digests(other)),
        };
        Ok(Self {
            greeting: Some(greeting),
            sent: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_version: 0,
            last_sent: 0,
            in_flight: VecDeque::new(),
            in_force: 0,
            rejections: Vec::new(),
        })
    }

    /// Publishes the whole table as of `version`: messages to send now, in order. The first publication always
    /// has at least one message, so that the proxy learns that it is complete. Later ones are empty if nothing
    /// differs, or if the window is full; then [`Publisher::ack`] returns them.
    ///
    /// Costs a walk over the table; [`Publisher::publish_changes`] does not.
    ///
    /// # Errors
    /// Versions that do not rise, or version 0.
    pub fn publish(
        &mut self,
        version: u64,
        table: &BTreeMap<ResourceName, Payload>,
    ) -> Result<Vec<ConfigResponse>, DeltaError> {
        self.check_version(version)?;
        self.waiting_version = version;
        if let Some(greeting) = self.greeting.take() {
            return Ok(self.first(version, table, &greeting));
        }
        self.waiting.clear();
        for (name, payload) in table {
            if self.sent.get(name) != Some(&payload.digest) {
                self.waiting.insert(name.clone(), Some(payload.clone()));
            }
        }
        let gone = self.sent.keys().filter(|name| !table.contains_key(*name));
        self.waiting.extend(gone.map(|name| (name.clone(), None)));
        Ok(self.send())
    }

    /// Publishes only what changed since the version before: `None` removes a resource. Costs nothing per
    /// resource that did not change.
    ///
    /// # Errors
    /// Nothing was published yet; or as [`Publisher::publish`].
    pub fn publish_changes(
        &mut self,
        version: u64,
        changes: impl IntoIterator<Item = (ResourceName, Option<Payload>)>,
    ) -> Result<Vec<ConfigResponse>, DeltaError> {
        self.check_version(version)?;
        if self.greeting.is_some() {
            return Err(DeltaError::NothingPublished(version));
        }
        self.waiting_version = version;
        for (name, payload) in changes {
            if self.sent.get(&name).copied() == payload.as_ref().map(|payload| payload.digest) {
                self.waiting.remove(&name);
            } else {
                self.waiting.insert(name, payload);
            }
        }
        Ok(self.send())
    }

    /// Takes the proxy's acknowledgement: messages to send now, that had waited for it.
    ///
    /// # Errors
    /// Not the oldest version under way.
    pub fn ack(&mut self, ack: Ack) -> Result<Vec<ConfigResponse>, DeltaError> {
        if self.in_flight.front() != Some(&ack.version) {
            return Err(DeltaError::UnexpectedAck(ack.version));
        }
        self.in_flight.pop_front();
        self.in_force = ack.version;
        self.rejections = ack.rejections;
        Ok(self.send())
    }

    /// The newest version that is wholly in force in the proxy; 0: none. A version that changed nothing for this
    /// proxy is in force as soon as the one before is.
    pub fn in_force(&self) -> u64 {
        let settled = self.in_flight.is_empty() && self.waiting.is_empty() && self.greeting.is_none();
        if settled { self.waiting_version } else { self.in_force }
    }

    /// Every resource that the proxy could not decode and refuses for, as of its last acknowledgement.
    pub fn rejections(&self) -> &[Rejection] {
        &self.rejections
    }

    fn check_version(&self, new: u64) -> Result<(), DeltaError> {
        let last = self.waiting_version.max(self.last_sent);
        if new == 0 || new < last { Err(DeltaError::Version { last, new }) } else { Ok(()) }
    }

    /// The answer to a greeting: buckets that differ, whole.
    fn first(
        &mut self,
        version: u64,
        table: &BTreeMap<ResourceName, Payload>,
        greeting: &[u64],
    ) -> Vec<ConfigResponse> {
        let mut digests = vec![0; BUCKETS];
        for (name, payload) in table {
            if let Some(digest) = digests.get_mut(bucket(name)) {
                *digest ^= payload.digest;
            }
        }
        let differs = |index: usize| digests.get(index) != greeting.get(index);
        let reset_buckets = (0_u32..).take(BUCKETS).filter(|index| differs(*index as usize)).collect();
        self.sent = table.iter().map(|(name, payload)| (name.clone(), payload.digest)).collect();
        let upserts = table.iter().filter(|(name, _)| differs(bucket(name)));
        let mut message = Messages::new(version, reset_buckets);
        for (name, payload) in upserts {
            message.upsert(name, payload);
        }
        self.sent_version(version);
        message.finish()
    }

    /// Everything that waits, if the window is open.
    fn send(&mut self) -> Vec<ConfigResponse> {
        if self.waiting.is_empty() || self.in_flight.len() >= WINDOW {
            return Vec::new();
        }
        let version = self.waiting_version;
        let mut messages = Messages::new(version, Vec::new());
        for (name, payload) in mem::take(&mut self.waiting) {
            match payload {
                Some(payload) => {
                    messages.upsert(&name, &payload);
                    self.sent.insert(name, payload.digest);
                }
                None => {
                    messages.remove(&name);
                    self.sent.remove(&name);
                }
            }
        }
        self.sent_version(version);
        messages.finish()
    }

    fn sent_version(&mut self, version: u64) {
        self.last_sent = version;
        self.in_flight.push_back(version);
    }
}

/// An upper bound of what protobuf adds to an entry: tags, lengths, small numbers.
const FRAMING: usize = 24;

fn attachment(attachment: &weft_model::gateway::Attachment) -> proto::Attachment {
    let listener = &attachment.listener;
    proto::Attachment {
        gateway: attachment.gateway.to_string(),
        listener_set: listener.listener_set.as_ref().map(ToString::to_string).unwrap_or_default(),
        listener: listener.name.to_string(),
        hostnames: attachment.hostnames.iter().map(ToString::to_string).collect(),
    }
}

fn parent(parent: &Parent) -> proto::Parent {
    let Parent { service, port, explicit_port } = parent;
    proto::Parent { service: service.to_string(), port: u32::from(*port), explicit_port: *explicit_port }
}

/// One publication, cut into messages.
struct Messages {
    done: Vec<ConfigResponse>,
    open: ConfigResponse,
    size: usize,
}

impl Messages {
    fn new(version: u64, reset_buckets: Vec<u32>) -> Self {
        let open = ConfigResponse { version, reset_buckets, ..ConfigResponse::default() };
        Self { done: Vec::new(), open, size: 0 }
    }

    fn upsert(&mut self, name: &ResourceName, payload: &Payload) {
        let parents: Vec<_> = payload.parents.iter().map(parent).collect();
        let of_parents: usize = parents.iter().map(|parent| parent.service.len() + FRAMING).sum();
        let listeners: Vec<_> = payload.listeners.iter().map(attachment).collect();
        let of_listeners: usize =
            listeners.iter().map(prost::Message::encoded_len).map(|len| len + FRAMING).sum();
        self.reserve(name.0.len() + payload.bytes.len() + of_parents + of_listeners);
        let (name, resource) = (name.0.to_string(), payload.bytes.to_vec());
        self.open.upserts.push(Upsert { name, resource, parents, listeners });
    }

    fn remove(&mut self, name: &ResourceName) {
        self.reserve(name.0.len());
        self.open.removals.push(name.0.to_string());
    }

    /// Begins another message if this one would grow too large.
    fn reserve(&mut self, bytes: usize) {
        let bytes = bytes + FRAMING;
        if self.size > 0 && self.size + bytes > MAX_MESSAGE {
            let next = ConfigResponse { version: self.open.version, ..ConfigResponse::default() };
            self.done.push(mem::replace(&mut self.open, next));
            self.size = 0;
        }
        self.size += bytes;
    }

    fn finish(mut self) -> Vec<ConfigResponse> {
        self.open.complete = true;
        self.done.push(self.open);
        self.done
    }
}
