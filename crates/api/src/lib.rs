//! The protocols between Weft's programs.
//!
//! * [`delta`]: the config stream between controller and proxy, as state machines without I/O.
//! * [`proto`]: its messages and those of the certificate service, generated from `proto/weft.proto`
//!   (`cargo xtask codegen`). Protobuf types stop at this crate.
//! * [`authorization`]: what authorization servers are asked over gRPC.
//! * [`node`]: the messages between agent and proxy on one node, with the descriptors that travel beside them.
//! * [`probe`]: what the kubelet may ask of a pod, as part of the former.
//! * [`cni`]: the messages between the CNI plugin and the agent.
#![forbid(unsafe_code)]

pub mod authorization;
pub mod cni;
pub mod delta;
pub mod node;
pub mod probe;

/// Generated from `proto/weft.proto`.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, unreachable_pub, unused_qualifications)]
pub mod proto {
    include!("generated/weft.v1.rs");
}
