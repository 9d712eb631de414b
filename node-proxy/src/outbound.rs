//! Placeholder.

pub mod balance;
pub mod exchange;
pub mod filter;
pub mod http;
pub mod resilience;
pub mod route;
