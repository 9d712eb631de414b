//! `weft-proxy`: carries the traffic of one node's enrolled pods, or of one Gateway. Start at [`outbound`] for what
//! happens to a caller's request, at [`inbound`] for what happens at the callee, at [`gateway`] for what comes to a Gateway.
//!
//! A connection or request is a value that gains knowledge as it moves, one type per step:
//! `Accepted → Captured → Detected → Routed → Selected → Sent` ([`call`]).
#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod app;
pub mod body;
pub mod call;
pub mod certificates;
pub mod config;
pub mod controller;
pub mod gateway;
pub mod http_server;
pub mod inbound;
pub mod listen;
mod lookup;
pub mod memory;
pub mod outbound;
mod pieces;
pub mod pod;
pub mod prefixed;
pub mod relay;
pub mod scope;
mod seldom;
pub mod send;
pub mod served;
pub mod state;
pub mod telemetry;
pub mod tunnel;
pub mod worker;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod world;
