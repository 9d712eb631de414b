//! `weft-controller` as a library: Kubernetes objects, from a folder or from an API server, become `Inputs`, a
//! pure function translates them to resources and statuses, proxies get what their nodes need, statuses are written
//! back.
//!
//! One change, in order: [`source`] ([`folder`] or [`kubernetes`]), [`inputs`], [`translate`], [`publish`],
//! [`server`], [`status`]; [`control`] is the loop around them, [`app`] builds it all.
#![forbid(unsafe_code)]

pub mod app;
pub mod awaited;
pub mod config;
pub mod control;
pub mod enrolment;
pub mod folder;
pub mod in_force;
pub mod infrastructure;
pub mod inputs;
pub mod kubernetes;
pub mod leadership;
pub mod metrics;
pub mod publish;
pub mod server;
pub mod source;
pub mod status;
pub mod translate;
