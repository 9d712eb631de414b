//! The node side of enrolment: the CNI plugin `weft-cni`, the agent `weft-agent`, and the capture rules as data.
//!
//! * [`ruleset`]: what is captured, as data and as nft text.
//! * [`kernel`]: putting it into a pod's network namespace, reading it back, taking it away.
//! * [`plugin`]: the CNI plugin; it asks the agent and decides nothing.
//! * [`agent`]: which pods are enrolled, and the hand-over of their sockets to the proxy.
#![forbid(unsafe_code)]

pub mod agent;
mod files;
pub mod kernel;
pub mod plugin;

pub mod ruleset;
