//! Fuzz targets for every parser of bytes that come from outside a program, and a driver that builds on stable Rust:
//! it mutates seeds at random (not guided by coverage) and reports the input of a panic.
//!
//! `cargo run -p weft-fuzz -- --seconds 600 identity` runs one for ten minutes; the tests run each for a moment.
#![forbid(unsafe_code)]
// Test code: a panic here is a finding.
#![allow(clippy::indexing_slicing, clippy::expect_used)]

pub mod driver;
pub mod targets;
