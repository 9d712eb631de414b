//! A real Kubernetes cluster on one Linux machine: kube-apiserver, etcd, controller manager, scheduler, and nodes with
//! kubelet, containerd, runc and kube-proxy. Everything lives in one PID, mount and network namespace without an uplink,
//! so that several clusters stand beside each other with the same addresses, and a crash leaves nothing running.
//!
//! [`Cluster`] is the handle for tests; [`command`] is what `cargo xtask cluster` runs.
#![forbid(unsafe_code)]

mod addons;
mod artefacts;
mod cgroup;
pub mod command;
mod config;
mod control_plane;
mod enter;
pub mod go;
mod handle;
pub mod image;
mod keep;
mod network;
mod node;
mod pki;
mod report;
mod stage;
mod supervisor;

pub use artefacts::{helm, kubectl};
pub use config::{Channel, Node, State};
pub use handle::{Cluster, Output, feed};
