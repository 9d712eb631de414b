//! The lab: nodes and their pods as network namespaces on one Linux machine, brought up from
//! ordinary Kubernetes YAML. It plays API server, scheduler, kubelet, kube-proxy, load balancer and DNS, and runs
//! the real Weft binaries. Everything lives in one pid, mount and network namespace, so that
//! nothing can leave the machine and a crash leaves nothing behind.
#![forbid(unsafe_code)]

mod apiserver;
mod commands;
mod config;
mod daemon;
mod dns;
mod endpoints;
mod files;
mod kubelet;
mod kubeproxy;
mod launch;
mod loadbalancer;
mod network;
mod objects;
mod output;
mod report;
mod rootfs;
mod scheduler;
mod secrets;
mod stage;
mod statuses;
mod supervisor;
mod uplink;

pub use commands::{LabCommand, run};
pub use report::{
    ContainerReport, DaemonReport, LabReport, NetworkCheck, ObjectReport, Phase, PodReport, RejectedObject,
};
