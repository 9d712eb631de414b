//! Certificates of the identities that run on this node, kept in memory only, and the trust bundle.

/// The store that workers read; filled by a task on the control runtime.
#[derive(Debug, Default)]
pub struct Certificates {}
