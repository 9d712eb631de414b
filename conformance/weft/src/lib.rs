//! Weft's own, stricter conformance cases: what the Gateway API demands of a mesh and the official suite does not look at.
//! A case is a topology in YAML and sentences that must hold in it. The same cases run in the lab (`conformance/lab`) and on a
//! Kubernetes cluster ([`cluster`]), there also for another mesh than Weft.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "only tests use this crate"
)]

pub mod cases;
mod checks;
pub mod cluster;
pub mod load;
pub mod measure;
pub mod mesh;

pub use checks::Claims;
