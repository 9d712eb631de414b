//! The config stream as state machines without I/O: [`Publisher`] in the controller, one per proxy, and [`Replica`]
//! in the proxy. Only differences travel, also to a proxy that comes back to another controller.
//!
//! Every resource has a 64-bit digest of its name and payload and belongs to one of 256 buckets by its name; a
//! bucket's digest is the XOR of its resources'. A proxy greets with its 256 digests, and buckets that agree are
//! taken as held. A publication may span several messages; the proxy applies it whole when the `complete` one is in.

mod publisher;
mod replica;

use std::sync::Arc;

use weft_model::gateway::Attachment;
use weft_model::route::Parent;
use weft_model::{Resource, ResourceName};

pub use publisher::Publisher;
pub use replica::{Applied, Change, Replica};

/// How many buckets resources are spread over.
pub const BUCKETS: usize = 256;

/// The largest message, in bytes of its resources; a single larger resource travels alone.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// A resource as it travels, with its digest, made once and shared by every proxy's [`Publisher`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    bytes: Arc<[u8]>,
    /// A route's, beside the bytes: it refuses on and at these where the bytes cannot be read. Follow from the bytes,
    /// so they are no part of the digest.
    parents: Arc<[Parent]>,
    listeners: Arc<[Attachment]>,
    digest: u64,
}

/// A peer that breaks the rules of the stream: end it and connect again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// A greeting with another number of digests than 0 or 256.
    #[error("the proxy's greeting has {0} bucket digests, expected none or 256")]
    Digests(usize),
    /// Versions must rise.
    #[error("version {new} was published after version {last}: versions must rise")]
    Version {
        /// The version published last.
        last: u64,
        /// The version refused.
        new: u64,
    },
    /// Changes before the first whole publication.
    #[error("changes to version {0} before anything was published: publish the whole table first")]
    NothingPublished(u64),
    /// An acknowledgement of something that was not sent or not awaited.
    #[error("the proxy acknowledged version {0}, which is not the one awaited")]
    UnexpectedAck(u64),
    /// A publication that ended inside another.
    #[error("version {new} began before version {open} was complete")]
    Interleaved {
        /// The version still open.
        open: u64,
        /// The version that began.
        new: u64,
    },
    /// A bucket that does not exist.
    #[error("there is no bucket {0}")]
    Bucket(u32),
}

impl Payload {
    /// A payload as bytes, for the resource of this name; `parents` are a route's.
    pub fn new(name: &ResourceName, bytes: impl Into<Arc<[u8]>>, parents: &[Parent]) -> Self {
        let bytes = bytes.into();
        let digest = digest(name, &bytes);
        Self { bytes, parents: parents.into(), listeners: Arc::default(), digest }
    }

    /// The same, of a route that is attached to these listeners.
    #[must_use]
    pub fn with_listeners(mut self, listeners: &[Attachment]) -> Self {
        self.listeners = listeners.into();
        self
    }

    /// A resource's name and payload.
    ///
    /// # Errors
    /// The resource has no JSON form.
    pub fn of(resource: &Resource) -> Result<(ResourceName, Self), serde_json::Error> {
        let name = resource.name();
        let (parents, listeners) = match resource {
            Resource::Route(route) => (&*route.parents, &*route.listeners),
            _ => (&[][..], &[][..]),
        };
        let payload = Self::new(&name, serde_json::to_vec(resource)?, parents).with_listeners(listeners);
        Ok((name, payload))
    }

    /// The resource as JSON.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bucket of a name: the low byte of its hash. Stable for ever, like [`digest`].
fn bucket(name: &ResourceName) -> usize {
    usize::from(hash(&[name.0.as_bytes()]).to_le_bytes().first().copied().unwrap_or_default())
}

/// The digest of one resource.
fn digest(name: &ResourceName, payload: &[u8]) -> u64 {
    hash(&[name.0.as_bytes(), &[0], payload])
}

/// FNV-1a with 64 bits, then SplitMix64's finaliser, so that XOR of digests and their low bits are well spread. Not
/// cryptographic: who can choose a payload gains nothing but that a change of his own resource is overlooked.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.iter()) {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests;
