//! The values that Weft's programs share: what a controller computes, what travels to a proxy,
//! what a proxy decides by. Plain data: no async, no I/O, no Kubernetes client, no protobuf.
//!
//! The types derive serde because their JSON form is both the payload of the config stream
//! (`weft-api`) and the text of the golden tests, so that the two cannot differ.
#![forbid(unsafe_code)]

pub mod gateway;
pub mod identity;
pub mod name;
pub mod node;
pub mod reason;
pub mod resource;
pub mod route;
pub mod service;
pub mod session;
pub mod traffic;
pub mod uninstall;
pub mod workload;

pub use identity::{Identity, TrustDomain};
pub use name::{ObjectName, Text};
pub use reason::Reason;
pub use resource::{MeshConfig, Resource, ResourceName};
