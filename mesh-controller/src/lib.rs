//! `weft-controller` as a library: a folder of Kubernetes objects becomes `Inputs`, a pure function translates
//! them to resources and statuses, proxies get what their nodes need, statuses are written back.
#![forbid(unsafe_code)]

pub mod config;
pub mod inputs;
pub mod translate;
