//! Runs the official Gateway API conformance suite against Weft on a real cluster, and judges what came out.
#![forbid(unsafe_code)]

pub mod expectations;
pub mod listing;
pub mod outcome;
pub mod placement;
pub mod report;
