//! Which rule decides: Gateway API matching and precedence, and the pure parts of filters. No async, no I/O.
//!
//! [`ServicePortRoutes`] is what a proxy keeps per Service port. [`ServicePortRoutes::select_set`] chooses between
//! consumer and producer routes, then [`HttpTable::select`], [`TlsTable::select`] or [`TcpTable::rule`] the rule.
//! [`PortTable`] is what a Gateway's proxy keeps per port: the listener, and by its [`ListenerTable`] the rule.
#![forbid(unsafe_code)]

pub mod cors;
pub mod explain;
pub mod host;
pub mod listener;
pub mod path;
pub mod query;
pub mod redirect;
pub mod rule;
pub mod schedule;
pub mod set;
pub mod stream;
pub mod table;
pub mod validate;

pub use listener::{ListenerEntry, ListenerTable, PortTable};
pub use rule::CompiledRule;
pub use schedule::WeightSchedule;
pub use set::{PortRoutes, ServicePortRoutes, Table};
pub use stream::{StreamRule, TcpTable, TlsTable};
pub use table::{HttpTable, Selection};

#[cfg(test)]
mod tests;
