//! What the proxy knows: one immutable [`Snapshot`], swapped atomically. A request reads one from start to end.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_model::workload::Workload;

use crate::call::{Destination, Transport};

/// One consistent configuration, with the indexes that requests look things up in.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The version last applied; 0: none yet, everything is refused.
    pub version: u64,
}

impl Snapshot {
    /// What an original destination is.
    pub fn destination(&self, original: SocketAddr) -> Destination {
        let _ = original;
        todo!()
    }

    /// The pod with this UID.
    pub fn workload(&self, uid: &str) -> Option<Arc<Workload>> {
        let _ = uid;
        todo!()
    }

    /// The way to a pod (or to an address that is none).
    pub fn transport_to(&self, workload: Option<&Workload>) -> Transport {
        let _ = workload;
        todo!()
    }
}
