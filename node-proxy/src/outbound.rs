//! Placeholder.

pub mod balance;
pub mod http;
