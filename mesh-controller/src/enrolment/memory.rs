//! Where enrolment is kept and shown: on the Namespaces of an API server, or in files.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;

use weft_model::Text;

use super::{NamespaceState, Record};

/// What outlives a leader. Its calls may block.
pub trait Memory: Debug + Send + Sync + 'static {
    /// Reads anew what an earlier leader left.
    ///
    /// # Errors
    /// It cannot be read; nothing may be decided without.
    fn read(&mut self) -> io::Result<BTreeMap<Text, Record>>;

    /// Writes what differs, and removes what is no longer there. What cannot be written is tried again with the next
    /// call. `now` is the time for conditions that have changed, as RFC 3339.
    fn write(&mut self, namespaces: &BTreeMap<Text, NamespaceState>, now: &str) -> Vec<Unwritten>;
}

/// What of a namespace could not be written.
#[derive(Debug)]
pub struct Unwritten {
    /// The namespace.
    pub namespace: Text,
    /// Its record was not, which the next leader begins with; else it is only what users see.
    pub record: bool,
    /// Why.
    pub error: io::Error,
}
